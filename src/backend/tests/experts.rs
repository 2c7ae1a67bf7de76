//! Rows that go apart and come together: gathering, scattering, and the routing of a mixture of experts.

use super::*;
use crate::backend::Routing;

pub(super) fn conformance<B: Backend>(backend: &B, tolerance: f32) {
    mixtures().iter().for_each(|case| check(backend, case, tolerance));
    check(backend, &Scattered, tolerance);
}

#[derive(Debug)]
struct Mixture {
    logits: Array2<f32>,
    routing: Routing,
}

fn mixtures() -> Vec<Mixture> {
    let case = |logits, top_k, renormalize| Mixture { logits, routing: Routing { top_k, renormalize } };
    let mut lonely = values(6, 5, 3);
    lonely.column_mut(1).fill(-30.0);
    lonely.column_mut(4).fill(30.0);
    vec![
        case(values(1, 1, 1), 1, true),
        case(values(7, 4, 2), 2, true),
        case(values(7, 4, 2), 2, false),
        case(values(3, 6, 4), 6, true),
        case(values(2, 64, 5), 8, false),
        case(Array2::zeros((3, 5)), 2, true),
        case(lonely.clone(), 1, false),
        case(lonely, 2, true),
        case(values(0, 4, 1), 2, true),
    ]
}

impl Case for Mixture {
    /// Routes rows with weights, and sums the outputs of experts that scale by their number + 1.
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let rows = self.logits.nrows();
        let x = random(backend, rows, 7, 6)?;
        let mut sum = backend.zeros(rows, 7)?;
        let mut results = Vec::new();
        for route in backend.route(&tensor(backend, &self.logits)?, self.routing)? {
            results.push(vec![route.expert as f32]);
            results.push(route.rows.iter().map(|&row| row as f32).collect());
            results.push(shown(backend, &route.weights)?);
            let y = backend.scale(backend.gather(&x, &route.rows)?, route.expert as f32 + 1.0)?;
            sum = backend.scatter_add(sum, &route.rows, &y, &route.weights)?;
        }
        results.push(shown(backend, &sum)?);
        Ok(results)
    }
}

/// Rows gathered and scattered more than once, out of order, and none.
#[derive(Debug)]
struct Scattered;

impl Case for Scattered {
    fn run<B: Backend>(&self, backend: &B) -> Result<Vec<Vec<f32>>> {
        let x = random(backend, 4, 3, 1)?;
        let gathered = backend.gather(&x, &[3, 0, 3, 1, 2])?;
        let nothing = backend.gather(&x, &[])?;
        let sum = backend.scatter_add(x, &[1, 1, 0, 3, 1], &gathered, &random(backend, 5, 1, 2)?)?;
        let none = backend.scatter_add(sum, &[], &nothing, &random(backend, 0, 1, 2)?)?;
        [gathered, nothing, none].iter().map(|x| shown(backend, x)).collect()
    }
}

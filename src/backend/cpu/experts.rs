//! Operations of mixtures of experts besides their linears: choosing experts by a router's logits, collecting the rows
//! of each expert, and adding up their outputs.

use std::cmp::Ordering;

use super::buffers::{Pool, Tensor};
use super::level::Level;
use super::logits::softmax;
use crate::backend::{Route, Routing};

/// Chooses the experts of each row: the `top_k` largest softmax probabilities; of equal ones, the first. Routes are in
/// the order of experts, with ascending rows.
pub(super) fn route(level: Level, pool: &Pool, logits: &Tensor, routing: Routing) -> Vec<Route<Tensor>> {
    let mut chosen: Vec<Vec<(u32, f32)>> = vec![Vec::new(); logits.cols];
    let mut probabilities = pool.take(logits.cols);
    let mut order: Vec<usize> = Vec::with_capacity(logits.cols);
    for row in 0..logits.rows {
        probabilities.copy_from_slice(logits.row(row));
        softmax(level, &mut probabilities);
        order.clear();
        order.extend(0..logits.cols);
        order.sort_unstable_by(|&a, &b| descending(&probabilities, a, b));
        order.truncate(routing.top_k);
        let total: f32 = order.iter().map(|&expert| probabilities[expert]).sum();
        let divisor = if routing.renormalize { total } else { 1.0 };
        for &expert in &order {
            chosen[expert].push((row as u32, probabilities[expert] / divisor));
        }
    }
    let taken = chosen.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
    taken.map(|(expert, rows)| collect(pool, expert, &rows)).collect()
}

/// Orders by descending probability, then by number.
fn descending(probabilities: &[f32], a: usize, b: usize) -> Ordering {
    probabilities[b].total_cmp(&probabilities[a]).then(a.cmp(&b))
}

fn collect(pool: &Pool, expert: usize, rows: &[(u32, f32)]) -> Route<Tensor> {
    let mut weights = Tensor::unwritten(pool, rows.len(), 1);
    for (weight, (_, probability)) in weights.data.iter_mut().zip(rows) {
        *weight = *probability;
    }
    Route { expert, rows: rows.iter().map(|(row, _)| *row).collect(), weights }
}

/// Returns some rows of x, in this order.
pub(super) fn gather(pool: &Pool, x: &Tensor, rows: &[u32]) -> Tensor {
    let mut out = Tensor::unwritten(pool, rows.len(), x.cols);
    for (i, &row) in rows.iter().enumerate() {
        out.data[i * x.cols..][..x.cols].copy_from_slice(x.row(row as usize));
    }
    out
}

/// Computes x[rows[i]] += weights[i]·y[i].
pub(super) fn scatter_add(x: &mut Tensor, rows: &[u32], y: &Tensor, weights: &[f32]) {
    for (i, (&row, &weight)) in rows.iter().zip(weights).enumerate() {
        let to = &mut x.data[row as usize * x.cols..][..x.cols];
        to.iter_mut().zip(y.row(i)).for_each(|(to, y)| *to += weight * y);
    }
}

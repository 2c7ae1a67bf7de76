//! `alps`: looks for the zeros whose loss is least once all other weights have made up for it.
//!
//! **What.** The loss is tr((W − Ŵ)·H·(W − Ŵ)ᵀ) under the constraint that Ŵ has the zeros asked for. Splitting Ŵ into W (free)
//! and D (with the zeros) gives the alternating direction method of multipliers, with G = H + λI and W₀ the weight at first:
//!
//! ```text
//! W ← (W₀·G − V + ρ·D)·(G + ρI)⁻¹,   D ← P(W + V/ρ),   V ← V + ρ·(W − D)
//! ```
//!
//! P keeps the largest magnitudes. ρ grows while the zeros of D still change, and the loop ends when they do not. On these zeros
//! a few steps of conjugate gradients, row by row, then bring the other weights to their best values. Columns are scaled by the
//! norms of their inputs first, so that magnitudes stand for losses and G has a diagonal of ones.
//!
//! **What differs from the paper's code.** Conjugate gradients have a step length for each row. Columns that calibration never
//! excited go first. Before the last linear of a block is pruned, it is fitted to the original model's states behind the block
//! (`correct`): see [`sparsegpt`](super::sparsegpt).
//!
//! **When.** For the least loss without training: before `sparsegpt`, at two to four times its time.
//!
//! **Cost.** An eigendecomposition per input in f64, about 10·cols³; and some 100 products of rows·cols² per linear in f32.
//!
//! ```text
//! llmc prune --method alps --sparsity 0.6 --data corpus.jsonl model/
//! ```
//!
//! Reference: Meng et al. 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models",
//! <https://arxiv.org/abs/2406.07831>, algorithm 1, <https://github.com/mazumder-lab/ALPS>.

use std::sync::Arc;

use ndarray::{Array1, Array2, ArrayView2, Zip};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, within};
use crate::numerics::sparsity::Among;
use crate::numerics::{Pattern, Sparsity, linalg};
use crate::quant::gptq::refuse_damaged;
use crate::stage::{self, Allocation, Block, Def, PerInput, Prune, PrunedWeight, Stage};
use crate::statistics::Needs;

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "alps",
    summary: "search for the zeros that cost least, and correct all other weights: the least loss; needs calibration text",
    supports: |_| Ok(()),
    build: |table| {
        let parameters: Parameters = stage::parse("alps", table)?;
        Ok(Stage::Prune(Arc::new(parameters.validate()?)))
    },
};

/// Parameters, named as in the paper.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// Zeros per weight.
    sparsity: Option<f64>,
    /// `unstructured`, or N:M.
    pattern: Pattern,
    /// The share of each block.
    allocation: Allocation,
    /// λ: the damping of the Hessian's diagonal, as a fraction of its mean.
    lambda: f64,
    /// ρ at first.
    rho: f32,
    /// Most iterations of the search for the zeros.
    iters: usize,
    /// Steps of conjugate gradients.
    pcg_iters: usize,
    /// Fits the last linear of each block to the original model's states first.
    correct: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        let (pattern, allocation) = Default::default();
        Parameters {
            sparsity: None,
            pattern,
            allocation,
            lambda: 0.01,
            rho: 0.1,
            iters: 300,
            pcg_iters: 10,
            correct: true,
        }
    }
}

impl Parameters {
    fn validate(self) -> Result<Alps> {
        within("alps: lambda", self.lambda, 1e-6..=1000.0)?;
        within("alps: rho", self.rho, 1e-4..=1000.0)?;
        within("alps: iters", self.iters, 1..=100_000)?;
        within("alps: pcg_iters", self.pcg_iters, 0..=100_000)?;
        Ok(Alps { sparsity: stage::sparsity("alps", self.sparsity, self.pattern)?, parameters: self })
    }
}

/// The method.
#[derive(Debug)]
struct Alps {
    sparsity: Sparsity,
    parameters: Parameters,
}

/// Iterations between two looks at the zeros.
const INTERVAL: usize = 3;

impl Prune for Alps {
    fn needs(&self) -> Needs {
        Needs { hessian: true, ..Needs::default() }
    }

    fn corrects(&self) -> bool {
        self.parameters.correct
    }

    fn sparsity(&self) -> Sparsity {
        self.sparsity
    }

    fn allocation(&self) -> Allocation {
        self.parameters.allocation
    }

    fn prune(&self, block: &Block) -> Result<Vec<Option<PrunedWeight>>> {
        let mut all = PerInput::new();
        PrunedWeight::of_each(block, |linear, sparsity| {
            let inputs = all
                .of(linear, || Inputs::new(&block.hessian(linear)?, self.parameters.lambda, &linear.name))?;
            Ok(self.parameters.prune(linear.dense()?, sparsity, inputs))
        })
    }
}

/// The inputs of linears: the norms of the columns, and the Hessian of scaled columns.
struct Inputs {
    /// ‖X\[j\]‖, but for a factor that all share, \[cols\].
    norms: Array1<f32>,
    /// G, [cols, cols].
    gram: Array2<f32>,
    /// G's eigenvalues, ascending.
    values: Vec<f64>,
    /// G's eigenvectors: the columns of Q.
    vectors: Array2<f32>,
}

impl Inputs {
    fn new(hessian: &Array2<f32>, lambda: f64, name: &str) -> Result<Inputs> {
        refuse_damaged(hessian, name)?;
        let norms = norms(hessian);
        let mut gram = hessian.mapv(f64::from);
        gram.indexed_iter_mut().for_each(|((row, col), value)| *value /= norms[row] * norms[col]);
        let mean = gram.diag().mean().unwrap_or(1.0);
        let damping = lambda * if mean > 0.0 { mean } else { 1.0 };
        gram.diag_mut().mapv_inplace(|value| value + damping);
        let (values, vectors) = linalg::eigen(&gram).ok_or_else(|| {
            Error::unsupported(
                format!("{name}: the Hessian of its inputs has no eigenvectors"),
                "the statistics are damaged: gather them again",
            )
        })?;
        let [gram, vectors] = [gram, vectors].map(|matrix| matrix.mapv(|value| value as f32));
        Ok(Inputs { norms: norms.iter().map(|norm| *norm as f32).collect(), gram, values, vectors })
    }

    /// (G + ρI)⁻¹.
    fn inverse(&self, rho: f32) -> Array2<f32> {
        let mut scaled = self.vectors.clone();
        let factors = self.values.iter().map(|value| (1.0 / (value.max(0.0) + f64::from(rho))) as f32);
        scaled.columns_mut().into_iter().zip(factors).for_each(|(mut column, factor)| column *= factor);
        linalg::product(scaled.view(), self.vectors.t())
    }
}

/// The norm of each column of the inputs, but for a common factor; of dead columns, less than of any other.
fn norms(hessian: &Array2<f32>) -> Vec<f64> {
    let norms = hessian.diag().mapv(|square| f64::from(square).sqrt());
    let least = norms.iter().copied().filter(|norm| *norm > 0.0).fold(f64::INFINITY, f64::min);
    let dead = if least.is_finite() { least * 1e-3 } else { 1.0 };
    norms.iter().map(|norm| if *norm > 0.0 { *norm } else { dead }).collect()
}

impl Parameters {
    /// Prunes a weight [rows, cols].
    fn prune(&self, w: ArrayView2<f32>, sparsity: Sparsity, inputs: &Inputs) -> PrunedWeight {
        let first = &w * &inputs.norms;
        let aim = linalg::product(first.view(), inputs.gram.view());
        let (values, mask) = self.search(&first, &aim, sparsity, inputs);
        let values = self.refine(values, &mask, &aim, inputs);
        PrunedWeight::new(values / &inputs.norms, mask)
    }

    /// Looks for the zeros of a scaled weight, `aim` being W₀·G. Returns D, and its mask.
    fn search(
        &self,
        first: &Array2<f32>,
        aim: &Array2<f32>,
        sparsity: Sparsity,
        inputs: &Inputs,
    ) -> (Array2<f32>, Array2<bool>) {
        let (mut d, mut v) = (first.clone(), Array2::<f32>::zeros(first.dim()));
        let mut mask = sparsity.mask(first.mapv(f32::abs).view(), Among::Matrix);
        let (mut rho, mut seen) = (self.rho, mask.clone());
        let kept = (mask.len() - sparsity.zeros(mask.len())).max(1);
        let mut inverse = inputs.inverse(rho);
        for iteration in 1..=self.iters {
            let mut right = aim.clone();
            Zip::from(&mut right).and(&v).and(&d).for_each(|right, v, d| *right += rho * d - v);
            let w = linalg::product(right.view(), inverse.view());
            Zip::from(&mut d).and(&w).and(&v).for_each(|d, w, v| *d = w + v / rho);
            mask = sparsity.mask(d.mapv(f32::abs).view(), Among::Matrix);
            clear(&mut d, &mask);
            Zip::from(&mut v).and(&w).and(&d).for_each(|v, w, d| *v += rho * (w - d));
            if iteration % INTERVAL > 0 {
                continue;
            }
            let changed = mask.iter().zip(&seen).filter(|(now, then)| now != then).count();
            if changed == 0 {
                break;
            }
            seen.assign(&mask);
            rho *= growth(changed as f64 / kept as f64);
            inverse = inputs.inverse(rho);
        }
        (d, mask)
    }

    /// Brings the weights that are not masked to their best values: conjugate gradients on each row's loss.
    fn refine(
        &self,
        mut values: Array2<f32>,
        mask: &Array2<bool>,
        aim: &Array2<f32>,
        inputs: &Inputs,
    ) -> Array2<f32> {
        let product = |x: &Array2<f32>| {
            let mut product = linalg::product(x.view(), inputs.gram.view());
            clear(&mut product, mask);
            product
        };
        let mut residual = aim - &linalg::product(values.view(), inputs.gram.view());
        clear(&mut residual, mask);
        let mut direction = residual.clone();
        let mut power = squares(&residual);
        for _ in 0..self.pcg_iters {
            let moved = product(&direction);
            let curvature = dots(&direction, &moved);
            let lengths = ratios(&power, &curvature);
            add_rows(&mut values, &lengths, &direction);
            add_rows(&mut residual, &lengths.mapv(|length| -length), &moved);
            let next = squares(&residual);
            let turns = ratios(&next, &power);
            for ((mut direction, residual), turn) in
                direction.rows_mut().into_iter().zip(residual.rows()).zip(&turns)
            {
                direction.zip_mut_with(&residual, |direction, residual| {
                    *direction = residual + *turn as f32 * *direction
                });
            }
            power = next;
        }
        values
    }
}

/// Sets values to zero where the mask is true.
fn clear(values: &mut Array2<f32>, mask: &Array2<bool>) {
    Zip::from(values).and(mask).for_each(|value, zero| *value = if *zero { 0.0 } else { *value });
}

/// The growth of ρ for the changed zeros per weight that stays.
fn growth(changed: f64) -> f32 {
    match changed {
        _ if changed >= 0.1 => 1.3,
        _ if changed >= 0.005 => 1.2,
        _ => 1.1,
    }
}

/// a·b of each row.
fn dots(a: &Array2<f32>, b: &Array2<f32>) -> Array1<f64> {
    let dot = |(a, b): (ndarray::ArrayView1<f32>, ndarray::ArrayView1<f32>)| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    a.rows().into_iter().zip(b.rows()).map(dot).collect()
}

fn squares(a: &Array2<f32>) -> Array1<f64> {
    dots(a, a)
}

/// a/b, and 0 for rows that are solved.
fn ratios(a: &Array1<f64>, b: &Array1<f64>) -> Array1<f64> {
    a.iter().zip(b).map(|(a, b)| if *b > 0.0 { a / b } else { 0.0 }).collect()
}

/// Adds to each row of `a` that of `b`, times a factor.
fn add_rows(a: &mut Array2<f32>, factors: &Array1<f64>, b: &Array2<f32>) {
    for ((mut a, b), factor) in a.rows_mut().into_iter().zip(b.rows()).zip(factors) {
        a.scaled_add(*factor as f32, &b);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::test_support::{largest, uniform};

    /// Inputs with correlated columns, and their Hessian.
    fn correlated(cols: usize, seed: u64) -> Array2<f32> {
        let x = uniform(300, cols, seed).dot(&uniform(cols, cols, seed + 1)) + &uniform(300, cols, seed + 2);
        x.t().dot(&x) / 300.0
    }

    fn loss(w: &Array2<f32>, q: &Array2<f32>, h: &Array2<f32>) -> f64 {
        linalg::quadratic((w - q).view(), h.view())
    }

    #[test]
    fn kept_weights_are_the_least_squares_solution() {
        let (w, h) = (uniform(6, 20, 1), correlated(20, 2));
        let inputs = Inputs::new(&h, 0.01, "w").unwrap();
        let sparsity = Sparsity::new(Some(0.5), Pattern::Unstructured).unwrap();
        let long = Parameters { pcg_iters: 200, ..Parameters::default() };
        let found = long.prune(w.view(), sparsity, &inputs);
        // At the minimum the gradient (W − Ŵ)·(H + λ·diag H) is 0 at every weight that stays.
        let mut damped = h.clone();
        damped.diag_mut().mapv_inplace(|value| value * 1.01);
        let gradient = (&w - &found.values).dot(&damped);
        let scale = largest(w.dot(&h).mapv(f32::abs));
        for ((row, col), zero) in found.mask.indexed_iter() {
            let slope = f64::from(gradient[[row, col]].abs()) / scale;
            assert!(*zero || slope < 1e-4, "[{row}, {col}]: {slope}");
        }
    }

    #[test]
    fn less_is_lost_than_by_sparsegpt_and_wanda() {
        for (share, pattern) in [(Some(0.5), "unstructured"), (Some(0.7), "unstructured"), (None, "2:4")] {
            let sparsity = Sparsity::new(share, pattern.parse().unwrap()).unwrap();
            let (w, h) = (uniform(48, 32, 1), correlated(32, 2));
            let alps = Parameters::default().prune(w.view(), sparsity, &Inputs::new(&h, 0.01, "w").unwrap());
            assert_eq!(sparsity.fault_of(alps.values.as_slice().unwrap(), 32), None);
            let block = |w: &Array2<f32>| {
                let statistics = crate::statistics::Statistics {
                    tokens: 1,
                    sum_squares: h.diag().iter().map(|value| f64::from(*value)).collect(),
                    gram: Some(h.clone()),
                    ..Default::default()
                };
                let weight = crate::numerics::Weight::Dense(w.clone());
                let linear = crate::stage::BlockLinear {
                    input: Some(0),
                    sparsity: Some(sparsity),
                    ..crate::stage::BlockLinear::dense_only("w.weight", weight)
                };
                Block { linears: vec![linear], inputs: vec![statistics], ..Block::default() }
            };
            let by = |def: &Def| {
                let Stage::Prune(method) = (def.build)(&toml::Table::new()).unwrap() else { panic!() };
                let pruned = method.prune(&block(&w)).unwrap().remove(0).unwrap();
                loss(&w, &pruned.values, &h)
            };
            let [wanda, sparsegpt] = [by(&crate::prune::wanda::DEF), by(&crate::prune::sparsegpt::DEF)];
            let found = loss(&w, &alps.values, &h);
            assert!(
                found < 0.95 * sparsegpt && sparsegpt < wanda,
                "{share:?} {pattern}: {found} {sparsegpt} {wanda}"
            );
        }
    }

    #[test]
    fn the_inverse_is_one() {
        let inputs = Inputs::new(&correlated(24, 5), 0.01, "w").unwrap();
        let mut shifted = inputs.gram.clone();
        shifted.diag_mut().mapv_inplace(|value| value + 0.3);
        let apart = largest((shifted.dot(&inputs.inverse(0.3)) - Array2::<f32>::eye(24)).mapv(f32::abs));
        assert!(apart < 1e-4, "{apart}");
    }

    #[test]
    fn dead_columns_go_first_and_leave_finite_weights() {
        let mut h = correlated(8, 5);
        h.row_mut(3).fill(0.0);
        h.column_mut(3).fill(0.0);
        let w = uniform(4, 8, 1);
        let inputs = Inputs::new(&h, 0.01, "w").unwrap();
        let sparsity = Sparsity::new(Some(0.25), Pattern::Unstructured).unwrap();
        let found = Parameters::default().prune(w.view(), sparsity, &inputs);
        assert!(
            found.mask.column(3).iter().all(|zero| *zero)
                && found.values.iter().all(|value| value.is_finite())
        );
        let nothing = Inputs::new(&Array2::zeros((8, 8)), 0.01, "w").unwrap();
        assert!(
            Parameters::default()
                .prune(w.view(), sparsity, &nothing)
                .values
                .iter()
                .all(|value| value.is_finite())
        );
    }
}

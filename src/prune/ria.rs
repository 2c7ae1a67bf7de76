//! `ria`: relative importance and activations. As `wanda`, with weights taken relative to their row and their column, so that
//! no channel is cut off whole.
//!
//! **What.** The score of a weight is (|W\[i, j\]|/Σ|W\[i, ·\]| + |W\[i, j\]|/Σ|W\[·, j\]|)·‖X\[j\]‖^a. In each row the lowest go.
//!
//! **When.** Where `wanda` would do; often a little better at the same price.
//!
//! **Cost.** The passes over the calibration text.
//!
//! ```text
//! llmc prune --method ria --sparsity 0.5 --data corpus.jsonl model/
//! ```
//!
//! Reference: Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models",
//! <https://openreview.net/forum?id=Tr0lPx9woF>, equation 4.

use std::sync::Arc;

use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use crate::error::{Result, within};
use crate::numerics::sparsity::Among;
use crate::numerics::{Pattern, Sparsity};
use crate::stage::{self, Allocation, Block, Def, Prune, PrunedWeight, Scope, Stage};
use crate::statistics::Needs;

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "ria",
    summary: "as wanda, by weights relative to their row and column: needs calibration text",
    supports: |_| Ok(()),
    build: |table| {
        let Parameters { sparsity, pattern, allocation, a } = stage::parse("ria", table)?;
        within("ria: a", a, 0.0..=4.0)?;
        let sparsity = stage::sparsity("ria", sparsity, pattern)?;
        Ok(Stage::Prune(Arc::new(Ria { sparsity, allocation, a })))
    },
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// Zeros per weight of a row.
    sparsity: Option<f64>,
    /// `unstructured`, or N:M.
    pattern: Pattern,
    /// The share of each block.
    allocation: Allocation,
    /// The exponent of the norms of the inputs.
    a: f32,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { sparsity: None, pattern: Pattern::default(), allocation: Allocation::default(), a: 0.5 }
    }
}

/// The method.
#[derive(Debug)]
struct Ria {
    sparsity: Sparsity,
    allocation: Allocation,
    a: f32,
}

impl Prune for Ria {
    fn needs(&self) -> Needs {
        Needs::IMPORTANCE
    }

    /// Weights that stay keep their values: the statistics of the whole block, from one pass, do as well.
    fn scope(&self) -> Scope {
        Scope::Block
    }

    fn sparsity(&self) -> Sparsity {
        self.sparsity
    }

    fn allocation(&self) -> Allocation {
        self.allocation
    }

    fn prune(&self, block: &Block) -> Result<Vec<Option<PrunedWeight>>> {
        PrunedWeight::by_scores(block, Among::Row, |linear, w| {
            Ok(self.scores(w, &block.input(linear)?.second_moment()))
        })
    }
}

impl Ria {
    /// The scores, [rows, cols], given the mean square of each column of the inputs.
    fn scores(&self, w: ArrayView2<f32>, second_moment: &[f32]) -> Array2<f32> {
        let mut scores = w.mapv(f32::abs);
        let (rows, columns) = (scores.sum_axis(Axis(1)), scores.sum_axis(Axis(0)));
        let norms: Vec<f32> = second_moment.iter().map(|square| square.sqrt().powf(self.a)).collect();
        let share = |weight: f32, sum: f32| if sum > 0.0 { weight / sum } else { 0.0 };
        for ((i, j), score) in scores.indexed_iter_mut() {
            *score = (share(*score, rows[i]) + share(*score, columns[j])) * norms[j];
        }
        scores
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn scores_are_those_of_the_paper() {
        let sparsity = Sparsity { share: 0.5, pattern: Pattern::Unstructured };
        let method = Ria { sparsity, allocation: Allocation::Uniform, a: 0.5 };
        let scores = method.scores(array![[1.0, -3.0], [0.0, 1.0]].view(), &[16.0, 1.0]);
        // (1/4 + 1/1)·√4, (3/4 + 3/4)·1, 0, (1 + 1/4)·1
        assert_eq!(scores, array![[2.5, 1.5], [0.0, 1.25]]);
        assert_eq!(method.scores(array![[0.0, 0.0]].view(), &[0.0, 1.0]), array![[0.0, 0.0]]);
    }
}

//! `wanda`: the weights that matter least for the outputs go, row by row.
//!
//! **What.** The score of a weight is |W\[i, j\]|·‖X\[j\]‖, X\[j\] being column j of the inputs on the calibration text. In each
//! row the lowest go; the others keep their values.
//!
//! **When.** Much better than magnitude at its price plus one pass over the text. On small models `sparsegpt` and `alps` are
//! better still, since they correct the weights that stay.
//!
//! **Cost.** The passes over the calibration text.
//!
//! ```text
//! llmc prune --method wanda --sparsity 0.5 --data corpus.jsonl model/
//! ```
//!
//! Reference: Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models",
//! <https://arxiv.org/abs/2306.11695>, equation 1.

use std::sync::Arc;

use ndarray::Array1;

use crate::error::Result;
use crate::numerics::Sparsity;
use crate::numerics::sparsity::Among;
use crate::stage::{self, Allocation, Block, Def, Prune, PrunedWeight, Scope, Stage};
use crate::statistics::Needs;

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "wanda",
    summary: "set to zero what matters least for each output, by weight and input: needs calibration text",
    supports: |_| Ok(()),
    build: |table| {
        let (sparsity, allocation) = stage::parse_sparsity("wanda", table)?;
        Ok(Stage::Prune(Arc::new(Wanda { sparsity, allocation })))
    },
};

/// The method.
#[derive(Debug)]
struct Wanda {
    sparsity: Sparsity,
    allocation: Allocation,
}

impl Prune for Wanda {
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
            // The mean in the place of the sum: the order of the scores is the same.
            let norms = Array1::from(block.input(linear)?.second_moment()).mapv(f32::sqrt);
            Ok(w.mapv(f32::abs) * norms)
        })
    }
}

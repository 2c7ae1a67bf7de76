//! `magnitude`: the smallest weights of each matrix go.
//!
//! **What.** |W|, compared over a whole matrix; with a pattern, over each of its groups. Weights that stay keep their values.
//!
//! **When.** As the baseline, and where there is no calibration text. Half of the weights of a small model are too many.
//!
//! **Cost.** One pass over the weights.
//!
//! ```text
//! llmc prune --method magnitude --sparsity 0.3 model/
//! ```
//!
//! Reference: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks",
//! <https://arxiv.org/abs/1506.02626>.

use std::sync::Arc;

use crate::error::Result;
use crate::numerics::Sparsity;
use crate::numerics::sparsity::Among;
use crate::stage::{self, Allocation, Block, Def, Prune, PrunedWeight, Stage};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "magnitude",
    summary: "set the smallest weights of each matrix to zero: no data, the speed of memory",
    supports: |_| Ok(()),
    build: |table| {
        let (sparsity, allocation) = stage::parse_sparsity("magnitude", table)?;
        Ok(Stage::Prune(Arc::new(Magnitude { sparsity, allocation })))
    },
};

/// The method.
#[derive(Debug)]
struct Magnitude {
    sparsity: Sparsity,
    allocation: Allocation,
}

impl Prune for Magnitude {
    fn sparsity(&self) -> Sparsity {
        self.sparsity
    }

    fn allocation(&self) -> Allocation {
        self.allocation
    }

    fn prune(&self, block: &Block) -> Result<Vec<Option<PrunedWeight>>> {
        PrunedWeight::by_scores(block, Among::Matrix, |_, w| Ok(w.mapv(f32::abs)))
    }
}

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

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::numerics::sparsity::Among;
use crate::numerics::{Pattern, Sparsity};
use crate::stage::{self, Block, Def, Prune, PrunedWeight, Stage};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "magnitude",
    summary: "set the smallest weights of each matrix to zero: no data, the speed of memory",
    supports: |_| Ok(()),
    build: |table| {
        let Parameters { sparsity, pattern } = stage::parse("magnitude", table)?;
        let sparsity = stage::sparsity("magnitude", sparsity, pattern)?;
        Ok(Stage::Prune(Arc::new(Magnitude { sparsity })))
    },
};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// Zeros per weight.
    sparsity: Option<f64>,
    /// `unstructured`, or N:M.
    pattern: Pattern,
}

/// The method.
#[derive(Debug)]
struct Magnitude {
    sparsity: Sparsity,
}

impl Prune for Magnitude {
    fn sparsity(&self) -> Sparsity {
        self.sparsity
    }

    fn prune(&self, block: &Block) -> Result<Vec<Option<PrunedWeight>>> {
        PrunedWeight::of_each(block, |linear, sparsity| {
            let w = linear.dense()?;
            let mask = sparsity.mask(w.mapv(f32::abs).view(), Among::Matrix);
            Ok(PrunedWeight::new(w.to_owned(), mask))
        })
    }
}

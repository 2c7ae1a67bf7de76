//! The parameters of `gptq`.

use serde::{Deserialize, Serialize};

use crate::error::{Result, within};

/// The order in which columns are rounded, and the columns that share a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ActOrder {
    /// As they stand; each group's grid is fitted when the loop reaches it, from the weights as they are by then.
    None,
    /// By descending diagonal of the Hessian. Columns that are consecutive in this order share a group; the output records
    /// it in `g_idx`.
    Dynamic,
    /// By descending diagonal. Adjacent columns share a group, and grids are fitted before the loop.
    Static,
}

/// Parameters, named as in the paper and its implementation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Gptq {
    /// λ: the damping of the Hessian's diagonal, as a fraction of its mean.
    pub damping: f64,
    /// Order of the columns: `none`, `dynamic` or `static`.
    pub act_order: ActOrder,
    /// B: columns whose errors are spread over the later columns in one product.
    pub block_size: usize,
    /// True to search grids with [`mse`](crate::quant::mse), weighted by the Hessian's diagonal; false for min-max.
    pub clip: bool,
}

impl Default for Gptq {
    fn default() -> Self {
        Gptq { damping: 0.01, act_order: ActOrder::Static, block_size: 128, clip: true }
    }
}

impl Gptq {
    /// Refuses values that make no sense.
    pub(crate) fn validate(self) -> Result<Gptq> {
        within("gptq: damping", self.damping, 0.0..=1000.0)?;
        within("gptq: block_size", self.block_size, 1..=65_536)?;
        Ok(self)
    }
}

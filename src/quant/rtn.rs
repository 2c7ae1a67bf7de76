//! `rtn`: round to nearest on the min-max grid.
//!
//! **What.** Every group's scale (and zero point) covers its smallest and largest value, and each weight is rounded to the
//! nearest code: no search, no data. GGUF block types find their scales as llama.cpp does.
//!
//! **Why.** It is the baseline that every other method is measured against, reproducible in any engine, and at 8 bits
//! (and FP8) nothing is visibly better.
//!
//! **When.** 8 bits and FP8 always; 4 bits in groups of 128 or less when speed counts; not below 4 bits.
//!
//! **Cost.** One pass at about the speed of memory; no state beyond the rows in hand.
//!
//! ```text
//! llmc quantize --scheme w8a8 --method rtn model/
//! ```
//!
//! Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
//! Inference", <https://arxiv.org/abs/1712.05877>, section 2.1.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::numerics::{Number, Scheme};
use crate::stage::{self, Block, Def, Quantization, Quantize, Stage};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "rtn",
    summary: "round to nearest on the min-max grid: any scheme, no data, the speed of memory",
    supports: |_| Ok(()),
    build: |table| Ok(Stage::Quantize(Arc::new(stage::parse::<Rtn>("rtn", table)?))),
};

/// Round to nearest. It has no parameters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rtn {}

impl Quantize for Rtn {
    fn weighs_columns(&self, scheme: &Scheme) -> bool {
        matches!(scheme.number, Number::Ggml(_))
    }

    fn quantize(&self, block: &Block) -> Result<Quantization> {
        Quantization::of_each(block, |linear, scheme| Ok(scheme.quantize(linear.dense()?, &linear.context())))
    }
}

//! `gptq`: columns are rounded one after the other, and later columns compensate for the error.
//!
//! **What.** A linear's output error on the calibration text is tr(ΔW·H·ΔWᵀ), H being the mean of xᵀx. With the columns in
//! some order and H = R·Rᵀ (R upper triangular), it is the sum over j of R\[j, j\]²·(w'\[j\] − q\[j\])², where
//!
//! ```text
//! w'[j] = w[j] + Σ (i < j) (w[i] − q[i])·R[i, j]/R[j, j],    q[j] = round(w'[j])
//! ```
//!
//! so each column in turn is corrected for the earlier errors and then rounded. This is GPTQ (as Chee et al. 2023 show, theorem
//! 6: their LDLQ), without the inverse of H and the second factorization that its authors' form needs.
//!
//! **What differs from the paper's code.** Columns that calibration never excited (a zero on the diagonal) are rounded to
//! nearest, not set to zero: another text may excite them. Grids are clip-searched, weighted by the diagonal (`clip`).
//! Damping grows tenfold while the Hessian stays singular.
//!
//! **When.** 4 bits and fewer, given text of the kind that the model will see.
//!
//! **Cost.** A Cholesky factorization per input, cols³/3 in f64, and rows·cols² per linear in f32; and the memory of both, 16
//! bytes · cols².
//!
//! **Measured.** tr(ΔW·H·ΔWᵀ)/tr(W·H·Wᵀ), the geometric mean over the linears of five blocks of SmolLM2-135M, groups of 64:
//!
//! | | int4 symmetric | int4 asymmetric | int3 asymmetric |
//! |---|---|---|---|
//! | rtn | 0.01004 | 0.00735 | 0.0309 |
//! | mse, importance known | 0.00514 | 0.00428 | 0.0175 |
//! | gptq, static, min-max | 0.00203 | 0.00150 | 0.00691 |
//! | gptq, static, clip | 0.00186 | 0.00153 | 0.00625 |
//!
//! ```text
//! [[stages]]
//! method = "gptq"
//! act_order = "static"
//! damping = 0.01
//! ```
//!
//! References: Frantar et al. 2022, "GPTQ", <https://arxiv.org/abs/2210.17323>, <https://github.com/IST-DASLab/gptq>; Chee et
//! al. 2023, "QuIP", <https://arxiv.org/abs/2307.13304>.

use std::sync::Arc;

use crate::error::Result;
use crate::numerics::{Number, Scheme};
use crate::stage::{self, Block, Def, PerInput, Quantization, Quantize, Scope, Stage};
use crate::statistics::Needs;

mod factor;
mod grid;
mod parameters;
mod rounding;
mod sweep;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub(crate) use factor::{Factor, refuse_damaged};
pub(crate) use parameters::{ActOrder, Gptq};
pub(crate) use sweep::{LANES, Sweep};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "gptq",
    summary: "round column by column, and let the columns to come make up for the error: needs calibration text",
    supports,
    build: |table| Ok(Stage::Quantize(Arc::new(stage::parse::<Gptq>("gptq", table)?.validate()?))),
};

fn supports(scheme: &Scheme) -> Result<(), &'static str> {
    match scheme.number {
        Number::Ggml(_) => {
            Err("gptq rounds column by column, and a GGUF block finds its scales from all of its \
                                values: use rtn or mse, which take importance from calibration")
        }
        _ => Ok(()),
    }
}

impl Quantize for Gptq {
    fn needs(&self) -> Needs {
        Needs { hessian: true, ..Needs::default() }
    }

    fn scope(&self) -> Scope {
        Scope::Input
    }

    fn reorders_groups(&self) -> bool {
        self.act_order == ActOrder::Dynamic
    }

    fn quantize(&self, block: &Block) -> Result<Quantization> {
        let mut factors = PerInput::new();
        Quantization::of_each(block, |linear, scheme| {
            let factor = factors.of(linear, || {
                Factor::new(&block.hessian(linear)?, self.act_order, self.damping, &linear.name)
            })?;
            let (w, mask) = (linear.dense()?, linear.mask.as_ref());
            Ok(rounding::quantize(self, &scheme, w, mask, &linear.context(), factor))
        })
    }
}

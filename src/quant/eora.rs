//! `eora` and `lorc`: the product of two thin matrices beside the codes corrects the error of rounding.
//!
//! **What.** The codes of a linear W leave the error E = W − Q. Among all B·A of rank r, `eora` finds the closest one on the calibration text, in tr((E − B·A)·H·(E − B·A)ᵀ), H being the mean of xᵀx. The paper writes H = S·Sᵀ (S from
//! the eigenvectors of H), truncates the singular value decomposition of E·S, and multiplies by S⁻¹. The inverse need
//! not be taken, nor exist: with the left singular vectors of E·S, which are the eigenvectors of E·H·Eᵀ,
//!
//! ```text
//! E·H·Eᵀ = U·Σ²·Uᵀ,    B·A = U_r·(U_rᵀ·E)
//! ```
//!
//! has that truncation for its product with S. Each pair of columns and rows is then scaled to the same length, so that a
//! half-precision type holds both. `lorc` is the same for H = 1: the nearest matrix of rank r, without any text.
//!
//! **Why.** Few weights in 16 bits buy back a good part of what 3 and 4 bits lose, without another format: engines run the
//! product as they run any LoRA adapter (`adapter/` in the output).
//!
//! **When.** After the method that quantizes, at 4 bits and fewer. r = 32 in a 4096×4096 linear is 0.25 bits per weight
//! more; in small models it is a larger part.
//!
//! **Cost.** The eigenvectors of a square matrix as large as the linear's smaller side, in f64, and rows·cols² for the products
//! (and a Cholesky factorization of H where there are more rows than columns).
//!
//! ```text
//! [[stages]]
//! method = "gptq"
//! [[stages]]
//! method = "eora"
//! rank = 32
//! ```
//!
//! References: Liu et al. 2024, "EoRA", <https://arxiv.org/abs/2410.21271>; Zhang et al. 2024, "LQER",
//! <https://arxiv.org/abs/2402.02446>; for `lorc` Yao et al. 2023, "ZeroQuant-V2", <https://arxiv.org/abs/2303.08302>.

use std::sync::Arc;

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, within};
use crate::numerics::{LowRank, linalg};
use crate::stage::{self, Block, BlockLinear, Compensate, Def, Stage};
use crate::statistics::Needs;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "eora",
    summary: "after another: a LoRA adapter that makes up for its error on calibration text",
    supports: |_| Ok(()),
    build: |table| build("eora", table, true),
};

/// Registry entry of the same without data.
pub(crate) const LORC: Def = Def {
    name: "lorc",
    summary: "after another: a LoRA adapter that makes up for the error of the weights: no data",
    supports: |_| Ok(()),
    build: |table| build("lorc", table, false),
};

/// Parameters of both.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Compensation {
    /// r: columns of B and rows of A.
    pub rank: usize,
    /// True to weight errors by the inputs (`eora`); false for `lorc`.
    #[serde(skip)]
    weighted: bool,
}

impl Default for Compensation {
    fn default() -> Self {
        Compensation { rank: 32, weighted: true }
    }
}

fn build(name: &str, table: &toml::Table, weighted: bool) -> Result<Stage> {
    let parameters: Compensation = stage::parse(name, table)?;
    within(&format!("{name}: rank"), parameters.rank, 1..=65_536)?;
    Ok(Stage::Compensate(Arc::new(Compensation { weighted, ..parameters })))
}

impl Compensate for Compensation {
    fn needs(&self) -> Needs {
        Needs { hessian: self.weighted, ..Needs::default() }
    }

    fn rank(&self) -> usize {
        self.rank
    }

    fn compensate(&self, errors: &Block) -> Result<Vec<LowRank>> {
        let hessians: Vec<Option<Array2<f64>>> = errors
            .inputs
            .iter()
            .map(|input| input.hessian().filter(|_| self.weighted).map(|h| h.mapv(f64::from)))
            .collect();
        let factors = errors.linears.par_iter().map(|linear| {
            let hessian = linear.input.and_then(|input| hessians[input].as_ref());
            if hessian.is_none() && self.weighted {
                return Err(unknown_inputs(linear));
            }
            // Inputs that are all zero give no weights.
            let hessian = hessian.filter(|h| h.diag().sum() > 0.0);
            compensate(linear.dense()?, hessian, self.rank).ok_or_else(|| not_finite(linear))
        });
        factors.collect()
    }
}

fn unknown_inputs(linear: &BlockLinear) -> Error {
    let what = format!("eora: {}: nothing is known of its inputs", linear.name);
    Error::unsupported(what, "name calibration text with --data; lorc needs none")
}

fn not_finite(linear: &BlockLinear) -> Error {
    let what =
        format!("{}: the error of its codes has no singular values: something is not finite", linear.name);
    Error::unsupported(what, "`llmc verify` shows the tensors whose values are not finite")
}

/// The B·A of rank r nearest to an error, [rows, cols], in the norm of H; `None` if values are not finite.
fn compensate(error: ArrayView2<f32>, hessian: Option<&Array2<f64>>, rank: usize) -> Option<LowRank> {
    let e = error.mapv(f64::from);
    let rank = rank.min(e.nrows()).min(e.ncols());
    let u = if e.nrows() <= e.ncols() { by_rows(&e, hessian, rank)? } else { by_cols(&e, hessian, rank)? };
    let a = linalg::product(u.t(), e.view());
    Some(balanced(u, a))
}

/// U_r, [rows, rank], from E·H·Eᵀ.
fn by_rows(e: &Array2<f64>, hessian: Option<&Array2<f64>>, rank: usize) -> Option<Array2<f64>> {
    let weighted = hessian.map(|h| linalg::product(e.view(), h.view()));
    let square = linalg::product(weighted.as_ref().unwrap_or(e).view(), e.t());
    linalg::leading_eigenvectors(&square, rank)
}

/// Singular values below this part of the largest are noise of the eigenvectors, not directions.
const NOISE: f64 = 1e-7;

/// The same from the smaller (E·S)ᵀ·(E·S) = V·Σ²·Vᵀ, where H = S·Sᵀ: U = E·S·V·Σ⁻¹.
fn by_cols(e: &Array2<f64>, hessian: Option<&Array2<f64>>, rank: usize) -> Option<Array2<f64>> {
    let weighted = hessian.map(|h| Some(linalg::product(e.view(), root(h)?.view())));
    let weighted = match weighted {
        Some(weighted) => &weighted?,
        None => e,
    };
    let square = linalg::product(weighted.t(), weighted.view());
    let v = linalg::leading_eigenvectors(&square, rank)?;
    let mut u = linalg::product(weighted.view(), v.view());
    let lengths: Vec<f64> = u.columns().into_iter().map(|column| column.dot(&column).sqrt()).collect();
    let least = NOISE * lengths.first().copied().unwrap_or(0.0);
    for (mut column, length) in u.columns_mut().into_iter().zip(lengths) {
        column.mapv_inplace(|x| if length > least { x / length } else { 0.0 });
    }
    Some(u)
}

/// S, lower triangular, with S·Sᵀ = H. The diagonal of a singular matrix is increased until it is definite.
fn root(hessian: &Array2<f64>) -> Option<Array2<f64>> {
    let mean = hessian.diag().sum() / hessian.nrows() as f64;
    let mut damping = 0.0;
    while damping < 1.0 {
        let mut s = hessian.clone();
        s.diag_mut().mapv_inplace(|x| x + damping * mean);
        if linalg::cholesky(&mut s) {
            s.indexed_iter_mut().filter(|((row, col), _)| col > row).for_each(|(_, above)| *above = 0.0);
            return Some(s);
        }
        damping = (damping * 10.0).max(1e-12);
    }
    None
}

/// Columns of B and rows of A scaled to the same lengths.
fn balanced(mut b: Array2<f64>, mut a: Array2<f64>) -> LowRank {
    for (mut column, mut row) in b.axis_iter_mut(Axis(1)).zip(a.axis_iter_mut(Axis(0))) {
        let [long, wide] = [column.dot(&column).sqrt(), row.dot(&row).sqrt()];
        let scale = if long > 0.0 { (wide / long).sqrt() } else { 0.0 };
        column *= scale;
        row.mapv_inplace(|x| if scale > 0.0 { x / scale } else { 0.0 });
    }
    LowRank { b: b.mapv(|x| x as f32), a: a.mapv(|x| x as f32) }
}

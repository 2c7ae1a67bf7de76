//! Operations on the CPU in f32 with gradients of their own: one pass each way over memory, on all cores. Candle's run on one
//! core, each a pass of its own.

mod attention;
mod gate;
mod norm;
mod product;
mod rope;
mod values;

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::ops;
use super::weights::Linear;
use crate::backend::{Attention, NormWeights, Rotations, Span};
use attention::Attend;
use product::Product;

/// x·Wᵀ + bias.
pub(super) fn linear(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    let Some(weight) = linear.stacked()? else { return ops::linear(x, linear) };
    let y = x.contiguous()?.apply_op2(&weight, Product)?;
    match linear.bias() {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// A norm whose weights are not trained.
pub(super) fn norm(x: &Tensor, norm: &Arc<NormWeights>) -> Result<Tensor> {
    x.contiguous()?.apply_op1(norm::Normalize(Arc::clone(norm)))
}

/// Rotations of the pairs of every head.
pub(super) fn rope(x: &Tensor, rotations: &Rotations) -> Result<Tensor> {
    x.contiguous()?.apply_op1(rope::Rotate(Arc::new(rotations.clone())))
}

/// SiLU(left half)·right half.
pub(super) fn silu_gate(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(gate::SiluGate)
}

/// True if [`attention`] computes this.
pub(super) fn covers(spec: &Attention) -> bool {
    spec.soft_cap.is_none() && spec.slopes.is_none()
}

/// Attention without a cache.
pub(super) fn attention([q, k, v]: [&Tensor; 3], spec: &Attention, spans: &[Span]) -> Result<Tensor> {
    let attend = Attend { spec: spec.clone(), spans: spans.to_vec() };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, attend)
}

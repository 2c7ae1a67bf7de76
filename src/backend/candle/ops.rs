//! The operations but attention, of plain candle operations that all have gradients (candle-nn's fused ones have none).

use candle_core::{D, DType, Result, Tensor};

use super::weights::{Linear, Norm};
use crate::backend::{Activation, Rotations, Route, Routing};

/// Computes in f32, and rounds once to the type of `x`.
pub(super) fn pointwise(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    f(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

/// x·[p₀; p₁; …]ᵀ + bias.
pub(super) fn linear(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    let y = linear.multiply(&x.contiguous()?)?;
    match linear.bias() {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// (x − mean)/√(variance + ε)·weight + bias, of each run of columns; the mean only where the norm is centered.
pub(super) fn norm(x: &Tensor, norm: &Norm) -> Result<Tensor> {
    let (rows, cols) = x.dims2()?;
    pointwise(x, |x| {
        let x = x.reshape((rows, cols / norm.width, norm.width))?;
        let x = if norm.centered { x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)? } else { x };
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&variance.affine(1.0, norm.epsilon)?.sqrt()?)?;
        let repeated = norm.weight().elem_count();
        let x = x.reshape((rows, cols / repeated, repeated))?.broadcast_mul(norm.weight())?;
        match norm.bias() {
            Some(bias) => x.broadcast_add(bias)?.reshape((rows, cols)),
            None => x.reshape((rows, cols)),
        }
    })
}

/// Columns in parts of these widths, each a view of `x`.
pub(super) fn split(x: &Tensor, widths: &[usize]) -> Result<Vec<Tensor>> {
    let mut start = 0;
    let part = |&width: &usize| {
        start += width;
        x.narrow(1, start - width, width)
    };
    widths.iter().map(part).collect()
}

/// (x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin), where x₁ and x₂ are the halves of what is rotated of each head.
pub(super) fn rope(x: &Tensor, rotations: &Rotations) -> Result<Tensor> {
    let (rows, cols) = x.dims2()?;
    let &Rotations { half, head_dim, .. } = rotations;
    let angles = |values: &[f32]| Tensor::from_slice(values, (rows, 1, half), x.device());
    let (cos, sin) = (angles(&rotations.cos)?, angles(&rotations.sin)?);
    pointwise(x, |x| {
        let heads = x.reshape((rows, cols / head_dim, head_dim))?;
        let (x1, x2) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
        let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
        let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
        let rest = heads.narrow(2, 2 * half, head_dim - 2 * half)?;
        Tensor::cat(&[y1, y2, rest], 2)?.reshape((rows, cols))
    })
}

/// σ is ½ + ½·tanh(x/2): of 1/(1 + e⁻ˣ) the gradient would be ∞·0 where x is far below zero.
pub(super) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
        Activation::Sigmoid => x.affine(0.5, 0.0)?.tanh()?.affine(0.5, 0.5),
        Activation::Clip(limit) => x.clamp(-limit, limit),
    }
}

/// activation(left half)·right half.
pub(super) fn gate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let half = x.dim(1)? / 2;
    pointwise(&x.narrow(1, 0, half)?, |left| activate(left, activation))? * x.narrow(1, half, half)?
}

/// cap·tanh(x/cap).
pub(super) fn soft_cap(x: &Tensor, cap: f32) -> Result<Tensor> {
    let cap = f64::from(cap);
    x.affine(1.0 / cap, 0.0)?.tanh()?.affine(cap, 0.0)
}

/// Rows by their numbers.
pub(super) fn gather(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    x.contiguous()?.index_select(&Tensor::from_slice(rows, rows.len(), x.device())?, 0)
}

/// Adds weights[i]·y[i] to row rows[i].
pub(super) fn scatter_add(x: &Tensor, rows: &[u32], y: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let rows = Tensor::from_slice(rows, rows.len(), x.device())?;
    x.contiguous()?.index_add(&rows, &y.broadcast_mul(weights)?, 0)
}

/// The values on the host, row-major.
pub(super) fn values(x: &Tensor) -> Result<Vec<f32>> {
    x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// Softmax of the last dimension. The maximum is subtracted as a constant: it does not change the result, nor the gradient.
pub(super) fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// Which experts is decided on the host; what weight they get stays on the device, with its gradient.
pub(super) fn route(logits: &Tensor, routing: Routing) -> Result<Vec<Route<Tensor>>> {
    let (rows, experts) = logits.dims2()?;
    let top_k = routing.top_k.min(experts);
    if rows * top_k == 0 {
        return Ok(Vec::new());
    }
    let probabilities = softmax(&logits.to_dtype(DType::F32)?)?;
    let chosen: Vec<u32> =
        probabilities.to_vec2::<f32>()?.iter().flat_map(|row| largest(row, top_k)).collect();
    let ids = Tensor::from_slice(&chosen, (rows, top_k), logits.device())?;
    let weights = probabilities.gather(&ids, 1)?;
    let weights = match routing.renormalize {
        true => weights.broadcast_div(&weights.sum_keepdim(1)?)?,
        false => weights,
    };
    let weights = weights.to_dtype(logits.dtype())?.reshape((rows * top_k, 1))?;
    by_expert(&chosen, top_k, experts, &weights)
}

/// The `k` largest, the first of equals first.
fn largest(values: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]));
    order.truncate(k);
    order
}

/// Collects each expert's rows, of the choices of all rows and their weights [rows·top_k, 1].
fn by_expert(chosen: &[u32], top_k: usize, experts: usize, weights: &Tensor) -> Result<Vec<Route<Tensor>>> {
    let mut places = vec![Vec::new(); experts];
    chosen.iter().zip(0u32..).for_each(|(&expert, place)| places[expert as usize].push(place));
    let mut routes = Vec::new();
    for (expert, places) in places.iter().enumerate().filter(|(_, places)| !places.is_empty()) {
        let rows = places.iter().map(|place| place / top_k as u32).collect();
        routes.push(Route { expert, rows, weights: gather(weights, places)? });
    }
    Ok(routes)
}

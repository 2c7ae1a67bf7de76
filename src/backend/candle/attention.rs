//! Attention by matrix products: spans of one length together where nothing is cached, one span at a time otherwise.
//!
//! Query heads that share a key head are stacked as rows of one product, so that keys and values are never repeated.

use candle_core::{DType, Result, Tensor};

use super::cache::KeyValues;
use super::ops;
use crate::backend::{Attention, Span};

/// Scores held at a time, where spans are taken together: 256 MiB in f32.
const SCORES: usize = 64 << 20;

/// See [`Backend::attention`](crate::backend::Backend::attention).
pub(super) fn attention(
    [q, k, v]: [&Tensor; 3],
    spec: &Attention,
    spans: &[Span],
    mut cache: Option<&mut KeyValues>,
) -> Result<Tensor> {
    let mut outputs = Vec::new();
    let mut row = 0;
    for run in runs(spans, spec.heads, cache.is_some()) {
        let rows = run.len() * run[0].len;
        let [q, k, v] = [q.narrow(0, row, rows)?, k.narrow(0, row, rows)?, v.narrow(0, row, rows)?];
        let [k, v] = match &mut cache {
            Some(cache) => cache.append(&run[0], [&k, &v])?,
            None => [k, v],
        };
        outputs.push(attend([&q, &k, &v], spec, run.len())?);
        row += rows;
    }
    if outputs.is_empty() { Ok(q.clone()) } else { Tensor::cat(&outputs, 0) }
}

/// Cuts spans into runs to be computed together: of one length, and not too many of them.
pub(super) fn runs(spans: &[Span], heads: usize, cached: bool) -> impl Iterator<Item = &[Span]> {
    let together = spans.chunk_by(move |a, b| !cached && a.len == b.len);
    together.filter(|run| run[0].len > 0).flat_map(move |run| {
        let scores = heads * run[0].len * run[0].len;
        run.chunks((SCORES / scores).max(1))
    })
}

/// Attention of `batch` sequences of the same length: q [batch·len, heads·d], k and v [batch·keys, kv_heads·d], the queries
/// being the last `len` of the `keys` positions.
fn attend([q, k, v]: [&Tensor; 3], spec: &Attention, batch: usize) -> Result<Tensor> {
    let &Attention { heads, kv_heads, head_dim, .. } = spec;
    let (len, keys) = (q.dim(0)? / batch, k.dim(0)? / batch);
    let stacked = (batch * kv_heads, heads / kv_heads * len, keys);
    let q = by_head(q, batch, heads, head_dim)?.reshape((stacked.0, stacked.1, head_dim))?;
    let k = by_head(k, batch, kv_heads, head_dim)?.reshape((stacked.0, keys, head_dim))?;
    let v = by_head(v, batch, kv_heads, head_dim)?.reshape((stacked.0, keys, head_dim))?;

    let scores = q.matmul(&k.t()?)?.to_dtype(DType::F32)?.affine(f64::from(spec.scale), 0.0)?;
    let scores = match spec.soft_cap {
        Some(cap) => ops::soft_cap(&scores, cap)?,
        None => scores,
    };
    let scores = scores.reshape((batch, heads, len, keys))?;
    let scores = match bias(spec, len, &scores)? {
        Some(bias) => scores.broadcast_add(&bias)?,
        None => scores,
    };
    let weights = ops::softmax(&scores)?.to_dtype(v.dtype())?.reshape(stacked)?;
    let mixed = weights.matmul(&v)?.reshape((batch, heads, len, head_dim))?;
    mixed.transpose(1, 2)?.reshape((batch * len, heads * head_dim))
}

/// [batch·n, heads·d] → [batch, heads, n, d].
fn by_head(x: &Tensor, batch: usize, heads: usize, head_dim: usize) -> Result<Tensor> {
    x.reshape((batch, x.dim(0)? / batch, heads, head_dim))?.transpose(1, 2)?.contiguous()
}

/// What is added to scores [.., len, keys]: −∞ where a key is hidden, ALiBi's slopes; nothing where neither applies.
fn bias(spec: &Attention, len: usize, scores: &Tensor) -> Result<Option<Tensor>> {
    let (device, keys) = (scores.device(), scores.dim(3)?);
    let hides_ahead = spec.causal && len > 1;
    let window = spec.window.filter(|&window| window < keys);
    if !hides_ahead && window.is_none() && spec.slopes.is_none() {
        return Ok(None);
    }
    let key = Tensor::arange(0.0, keys as f32, device)?.reshape((1, keys))?;
    let query = Tensor::arange((keys - len) as f32, keys as f32, device)?.reshape((len, 1))?;
    let distance = key.broadcast_sub(&query)?;

    let mut bias = distance.zeros_like()?;
    if hides_ahead {
        bias = hide(&distance.gt(0f32)?, &bias)?;
    }
    if let Some(window) = window {
        bias = hide(&distance.le(-(window as f32))?, &bias)?;
    }
    match &spec.slopes {
        Some(slopes) => {
            let slopes = Tensor::from_slice(slopes, (spec.heads, 1, 1), device)?;
            slopes.broadcast_mul(&distance)?.broadcast_add(&bias).map(Some)
        }
        None => Ok(Some(bias)),
    }
}

/// −∞ where `hidden`, `bias` elsewhere.
fn hide(hidden: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let never = Tensor::full(f32::NEG_INFINITY, bias.shape(), bias.device())?;
    hidden.where_cond(&never, bias)
}

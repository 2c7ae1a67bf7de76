//! A scale and a minimum per block: Q4_1 and Q5_1, w = d·code + m.
//!
//! A block is d, m (f16), then its codes ([`packing`](super::packing)). `block_q4_1` and `block_q5_1` of
//! <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.

use std::marker::PhantomData;

use half::f16;

use super::best::Best;
use super::block::{self, PerWeight};
use super::codec::BlockCodec;
use super::lanes::Lanes;
use super::packing::{FiveBits, FourBits, Packing};
use super::parts::Parts;
use super::weighing::Weighing;
use crate::tensor::BlockType;

/// Q4_1: 32 weights, codes of 4 bits.
pub(crate) type Q4_1 = Affine<FourBits, 16>;
/// Q5_1: 32 weights, codes of 5 bits.
pub(crate) type Q5_1 = Affine<FiveBits, 20>;

const _: () = assert!(Q4_1::BYTES == BlockType::Q4_1.block_bytes());
const _: () = assert!(Q5_1::BYTES == BlockType::Q5_1.block_bytes());

/// Blocks of one scale and one minimum, whose codes are packed by P.
pub(crate) struct Affine<P, const N: usize>(PhantomData<P>);

impl<P: Packing<N>, const N: usize> Affine<P, N> {
    const BYTES: usize = 4 + N;
    /// The largest code.
    const LAST: u8 = 2 * P::LEVELS - 1;
}

impl<P: Packing<N>, const N: usize> BlockCodec for Affine<P, N> {
    #[inline(always)]
    fn quantize_row<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let weighing = Weighing::new(x, importance, 1.0);
        for (i, (x, out)) in x.as_chunks().0.iter().zip(out.chunks_exact_mut(Self::BYTES)).enumerate() {
            let line = Line::of::<L>(x, weighing.as_ref().map(|w| w.block(i, x)), Self::LAST);
            let (units, codes) = out.split_at_mut(4);
            units[..2].copy_from_slice(&line.scale.to_le_bytes());
            units[2..].copy_from_slice(&line.minimum.to_le_bytes());
            P::pack(&line.codes(x, Self::LAST), block::first_mut(codes));
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (bytes, out) in bytes.chunks_exact(Self::BYTES).zip(out.as_chunks_mut().0) {
            let (d, m) = (block::half(bytes).to_f32(), block::half(&bytes[2..]).to_f32());
            let [low, high] = P::halves(block::first(&bytes[4..]));
            *out = block::each(|j| f32::from(low[j] | high[j]) * d + m);
        }
    }

    fn parts(bytes: &[u8]) -> Parts {
        let bytes = &bytes[..Self::BYTES];
        Parts::of_one_group(
            block::half(bytes),
            -block::half(&bytes[2..]),
            P::unpack(block::first(&bytes[4..])),
        )
    }

    fn put_codes(bytes: &mut [u8], codes: &[u8]) {
        P::pack(block::first(codes), block::first_mut(&mut bytes[4..]));
    }
}

/// A block's scale and minimum.
struct Line {
    /// The scale, as stored.
    scale: f16,
    /// The minimum, as stored.
    minimum: f16,
    base: f32,
    inverse: f32,
}

impl Line {
    /// Returns the line of a block: the search's if there are weights and it finds one.
    #[inline(always)]
    fn of<L: Lanes>(x: &PerWeight<f32>, weights: Option<PerWeight<f32>>, last: u8) -> Line {
        match weights.and_then(|weights| search::<L>(x, &weights, f32::from(last))) {
            Some(line) => Line::rounded(line),
            None => Line::spanning(x, last),
        }
    }

    /// Returns the line from the smallest to the largest value; as in llama.cpp, codes are those of the unrounded scale and
    /// minimum.
    #[inline(always)]
    fn spanning(x: &PerWeight<f32>, last: u8) -> Line {
        let [low, high] = block::extent(x);
        let base = block::clamp_to_f16(low);
        let d = block::clamp_to_f16((high - low) / f32::from(last));
        Line { scale: f16::from_f32(d), minimum: f16::from_f32(base), base, inverse: block::reciprocal(d) }
    }

    /// Returns a line whose codes are those of its stored values.
    #[inline(always)]
    fn rounded([d, m]: [f32; 2]) -> Line {
        let [scale, minimum] = [d, m].map(|v| f16::from_f32(block::clamp_to_f16(v)));
        Line { scale, minimum, base: minimum.to_f32(), inverse: block::reciprocal(scale.to_f32()) }
    }

    /// Returns the codes, 0..=last.
    #[inline(always)]
    fn codes(&self, x: &PerWeight<f32>, last: u8) -> PerWeight<u8> {
        block::codes(x, self.base, self.inverse, 0.5, last)
    }
}

/// The number of codes that a candidate goes beyond 0.
const BELOW: [f32; 6] = [-0.5, 0.0, 0.5, 1.0, 2.0, 3.0];

/// The number of codes that a candidate goes beyond the last.
const ABOVE: [f32; 8] = [-0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0];

/// Returns the [d, m] that minimize Σ weight·(x − d·code − m)² over candidates that clip the values at both ends, from not at
/// all to 3 codes each: a candidate fixes the codes, and they the regression line.
///
/// llama.cpp (`make_qkx3_quants` of
/// <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-quants.c>) tries
/// 37 widths of the range instead, which leaves larger errors. Here m may be positive, too.
///
/// `None` if all weight lies on one value, or all values are the same, or their range overflows.
#[inline(always)]
fn search<L: Lanes>(x: &PerWeight<f32>, weights: &PerWeight<f32>, last: f32) -> Option<[f32; 2]> {
    let [low, high] = block::extent(x);
    let range = high - low;
    let relative = block::each(|j| (x[j] - low) / range);
    let (total, mean) = weighted_mean::<L>(&relative, weights);
    let mut best = Best::new();
    for below in BELOW {
        let inverse = L::splat(last + below).add(L::load(&ABOVE));
        let [code, square, moment] = sums(&relative, weights, inverse, L::splat(below), L::splat(last));
        let center = code.div(total);
        let (square, moment) = (square.sub(center.mul(code)), moment.sub(mean.mul(code)));
        let slope = moment.div(square);
        // A smaller square is rounding error.
        let gain = square.if_less(L::splat(1e-5).mul(total), L::splat(0.0), slope.mul(moment));
        best.offer(gain, [slope, mean.sub(slope.mul(center))]);
    }
    let line = best.into_fit().map(|[slope, intercept]| [range * slope, low + range * intercept]);
    line.filter(|line| line.iter().all(|v| v.is_finite()))
}

/// Returns Σ weight, and Σ weight·x over it.
#[inline(always)]
fn weighted_mean<L: Lanes>(x: &PerWeight<f32>, weights: &PerWeight<f32>) -> (L, L) {
    let [mut total, mut sum] = [L::splat(0.0); 2];
    for (x, weight) in x.as_chunks().0.iter().zip(weights.as_chunks().0) {
        total = total.add(L::load(weight));
        sum = sum.add(L::load(weight).mul(L::load(x)));
    }
    (L::splat(total.sum()), L::splat(sum.sum() / total.sum()))
}

/// Returns the weighted sums of [code, code², code·x] of the codes x·inverse − below.
#[inline(always)]
fn sums<L: Lanes>(x: &PerWeight<f32>, weights: &PerWeight<f32>, inverse: L, below: L, last: L) -> [L; 3] {
    let zero = L::splat(0.0);
    let [mut sum, mut square, mut moment] = [zero; 3];
    for (&x, &weight) in x.iter().zip(weights) {
        let x = L::splat(x);
        let code = x.mul(inverse).sub(below).max(zero).min(last).round();
        let weighted = L::splat(weight).mul(code);
        sum = sum.add(weighted);
        square = square.add(weighted.mul(code));
        moment = moment.add(weighted.mul(x));
    }
    [sum, square, moment]
}

//! One scale per block and no minimum: Q4_0 and Q5_0, w = d·(code − levels). Q8_0 shares the search.
//!
//! A block is d (f16), then its codes ([`packing`](super::packing)). `block_q4_0` and `block_q5_0` of
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

/// Q4_0: 32 weights, codes of 4 bits.
pub(crate) type Q4_0 = Symmetric<FourBits, 16>;
/// Q5_0: 32 weights, codes of 5 bits.
pub(crate) type Q5_0 = Symmetric<FiveBits, 20>;

const _: () = assert!(Q4_0::BYTES == BlockType::Q4_0.block_bytes());
const _: () = assert!(Q5_0::BYTES == BlockType::Q5_0.block_bytes());

/// Blocks of one scale, whose codes are packed by P.
pub(crate) struct Symmetric<P, const N: usize>(PhantomData<P>);

impl<P: Packing<N>, const N: usize> Symmetric<P, N> {
    const BYTES: usize = 2 + N;
}

impl<P: Packing<N>, const N: usize> BlockCodec for Symmetric<P, N> {
    #[inline(always)]
    fn quantize_row<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let weighing = Weighing::new(x, importance, 1.0);
        for (i, (x, out)) in x.as_chunks().0.iter().zip(out.chunks_exact_mut(Self::BYTES)).enumerate() {
            let scale = Scale::of::<L>(x, weighing.as_ref().map(|w| w.block(i, x)), P::LEVELS);
            let (d, codes) = out.split_at_mut(2);
            d.copy_from_slice(&scale.stored.to_le_bytes());
            P::pack(&scale.codes(x, P::LEVELS), block::first_mut(codes));
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for (bytes, out) in bytes.chunks_exact(Self::BYTES).zip(out.as_chunks_mut().0) {
            let (d, [low, high]) = (block::half(bytes).to_f32(), P::halves(block::first(&bytes[2..])));
            *out = block::each(|j| (f32::from(low[j] | high[j]) - f32::from(P::LEVELS)) * d);
        }
    }

    fn parts(bytes: &[u8]) -> Parts {
        let bytes = &bytes[..Self::BYTES];
        Parts::of_one_group(block::half(bytes), f16::ZERO, P::unpack(block::first(&bytes[2..])))
    }

    fn put_codes(bytes: &mut [u8], codes: &[u8]) {
        P::pack(block::first(codes), block::first_mut(&mut bytes[2..]));
    }
}

/// The scale of a block whose codes are l + `levels`, with l in −levels..levels.
struct Scale {
    /// As stored.
    stored: f16,
    /// The factor from values to codes.
    inverse: f32,
    /// The code of zero.
    zero: f32,
}

impl Scale {
    /// Returns the scale of a block: the search's if there are weights and it finds one.
    #[inline(always)]
    fn of<L: Lanes>(x: &PerWeight<f32>, weights: Option<PerWeight<f32>>, levels: u8) -> Scale {
        let levels = f32::from(levels);
        match weights.and_then(|weights| search::<L>(x, &weights, -levels, levels - 1.0)) {
            Some(d) => Scale::rounded(d, levels),
            None => Scale::spanning(x, levels),
        }
    }

    /// Returns the scale that gives the value of the largest magnitude the code 0. As in llama.cpp, codes are those of the
    /// unrounded scale, and 0 if its reciprocal overflows (denormals): the result on x86 of a conversion that C leaves
    /// undefined.
    #[inline(always)]
    fn spanning(x: &PerWeight<f32>, levels: f32) -> Scale {
        let d = block::clamp_to_f16(block::signed_absmax(x) / -levels);
        let inverse = block::reciprocal(d);
        let zero = if inverse == 0.0 && d != 0.0 { 0.0 } else { levels };
        Scale { stored: f16::from_f32(d), inverse, zero }
    }

    /// Returns a scale whose codes are those of its stored value.
    #[inline(always)]
    fn rounded(d: f32, levels: f32) -> Scale {
        let stored = f16::from_f32(block::clamp_to_f16(d));
        Scale { stored, inverse: block::reciprocal(stored.to_f32()), zero: levels }
    }

    /// Returns the codes of a block, 0..2·levels.
    #[inline(always)]
    fn codes(&self, x: &PerWeight<f32>, levels: u8) -> PerWeight<u8> {
        // The offset is exact: 0.5, 8.5 or 16.5.
        block::codes(x, 0.0, self.inverse, self.zero + 0.5, 2 * levels - 1)
    }
}

/// The distances of the candidates for the reciprocal from the ends of the codes: those of `make_qx_quants` of
/// <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-quants.c>, which
/// tries them around −levels only.
const OFFSETS: [[f32; 8]; 2] =
    [[-0.9, -0.78, -0.66, -0.54, -0.42, -0.3, -0.18, -0.06], [0.06, 0.18, 0.3, 0.42, 0.54, 0.66, 0.78, 0.9]];

/// Returns the scale that minimizes Σ weight·(x − d·l)² over candidates for its reciprocal around low/max and high/max, where
/// max is the value of the largest magnitude: each candidate fixes the codes l, and they the best d.
///
/// `None` if every weight or every value is zero.
#[inline(always)]
pub(crate) fn search<L: Lanes>(
    x: &PerWeight<f32>,
    weights: &PerWeight<f32>,
    low: f32,
    high: f32,
) -> Option<f32> {
    let max = block::signed_absmax(x);
    let relative = block::each(|j| x[j] / max);
    let [low, high] = [L::splat(low), L::splat(high)];
    let mut best = Best::new();
    for offsets in &OFFSETS {
        let offsets = L::load(offsets);
        for inverse in [low.sub(offsets), high.add(offsets)] {
            let [moment, square] = projection(&relative, weights, inverse, [low, high]);
            let d = moment.div(square);
            best.offer(d.mul(moment), [d]);
        }
    }
    best.into_fit().map(|[d]| max * d).filter(|d| d.is_finite())
}

/// Returns [Σ weight·x·l, Σ weight·l²] of the codes l that `inverse` gives.
#[inline(always)]
fn projection<L: Lanes>(
    x: &PerWeight<f32>,
    weights: &PerWeight<f32>,
    inverse: L,
    [low, high]: [L; 2],
) -> [L; 2] {
    let [mut moment, mut square] = [L::splat(0.0); 2];
    for (&x, &weight) in x.iter().zip(weights) {
        let (x, weight) = (L::splat(x), L::splat(weight));
        let code = x.mul(inverse).max(low).min(high).round();
        moment = moment.add(weight.mul(code).mul(x));
        square = square.add(weight.mul(code).mul(code));
    }
    [moment, square]
}

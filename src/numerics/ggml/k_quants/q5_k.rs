//! Q5_K: 5-bit codes, 8 sub-blocks of 32, 6-bit scales and mins; 5.5 bits per weight.

use half::f16;

use super::affine::{AffineBlock, Plan, quantize};
use super::lanes::Lanes;
use super::layout::layout;
use super::six_bits;
use super::weights::{Alone, Rule};
use super::{Parts, SUPER_BLOCK, SuperBlock};

layout! {
    /// `block_q5_K` of <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.
    Layout: 176 { d: 2, dmin: 2, scales: 12, qh: 32, qs: 128 }
}

const PLAN: Plan = Plan {
    top: 31.0,
    scale_top: 63.0,
    steps: &[-1.6, -1.4, -1.2, -1.0, -0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4],
    rule: Rule { alone: Alone::RmsPlusAbs, spread: Some(2.0) },
};

/// The type.
pub(super) struct Q5K;

impl SuperBlock for Q5K {
    const BYTES: usize = size_of::<Layout>();

    #[inline(always)]
    fn quantize<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        pack(&quantize::<L, 32, 1>(x, importance, &PLAN)).write(out);
    }

    #[inline(always)]
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        unpack(&Layout::read(bytes)).dequantize::<32>(out);
    }
}

#[inline(always)]
fn pack(block: &AffineBlock) -> Layout {
    let (mut qh, mut qs) = ([0; SUPER_BLOCK / 8], [0; SUPER_BLOCK / 2]);
    for (j, (qs, codes)) in qs.chunks_exact_mut(32).zip(block.codes.chunks_exact(64)).enumerate() {
        for (i, (q, h)) in qs.iter_mut().zip(&mut qh).enumerate() {
            let (low, high) = (codes[i], codes[i + 32]);
            *q = low & 15 | high << 4;
            *h |= (low >> 4) << (2 * j) | (high >> 4) << (2 * j + 1);
        }
    }
    let scales = six_bits::pack(&block.scales, &block.mins);
    Layout { d: block.d.to_le_bytes(), dmin: block.dmin.to_le_bytes(), scales, qh, qs }
}

#[inline(always)]
fn unpack(layout: &Layout) -> AffineBlock {
    let mut codes = [0; SUPER_BLOCK];
    for (j, (codes, qs)) in codes.chunks_exact_mut(64).zip(layout.qs.chunks_exact(32)).enumerate() {
        for (i, (q, h)) in qs.iter().zip(&layout.qh).enumerate() {
            codes[i] = q & 15 | (h >> (2 * j) & 1) << 4;
            codes[i + 32] = q >> 4 | (h >> (2 * j + 1) & 1) << 4;
        }
    }
    let (scales, mins) = six_bits::unpack(&layout.scales);
    AffineBlock {
        d: f16::from_le_bytes(layout.d),
        dmin: f16::from_le_bytes(layout.dmin),
        scales,
        mins,
        codes,
    }
}

/// Quantizes a row of whole super-blocks of 256 values; `importance` is one non-negative number per value.
pub fn quantize_row(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    super::quantize_row::<Q5K>(x, importance, out);
}

/// Dequantizes a row of whole super-blocks: any bytes, to the bit as ggml's `dequantize_row_q5_K`.
pub fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
    super::dequantize_row::<Q5K>(bytes, out);
}

/// A block's numbers: see [`parts`](super::super::parts).
pub fn parts(bytes: &[u8]) -> Parts {
    unpack(&Layout::read(bytes)).into()
}

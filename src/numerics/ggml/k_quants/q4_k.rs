//! Q4_K: 4-bit codes, 8 sub-blocks of 32, 6-bit scales and mins; 4.5 bits per weight.

use half::f16;

use super::affine::{AffineBlock, Plan, quantize};
use super::lanes::Lanes;
use super::layout::layout;
use super::six_bits;
use super::weights::{Alone, Rule};
use super::{Parts, SUPER_BLOCK, SuperBlock};

layout! {
    /// `block_q4_K` of <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.
    Layout: 144 { d: 2, dmin: 2, scales: 12, qs: 128 }
}

const PLAN: Plan = Plan {
    top: 15.0,
    scale_top: 63.0,
    steps: &[-1.6, -1.4, -1.2, -1.0, -0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4],
    rule: Rule { alone: Alone::RmsPlusAbs, spread: Some(2.0) },
};

/// The type.
pub(super) struct Q4K;

impl SuperBlock for Q4K {
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
    let mut qs = [0; SUPER_BLOCK / 2];
    for (qs, codes) in qs.chunks_exact_mut(32).zip(block.codes.chunks_exact(64)) {
        for (i, q) in qs.iter_mut().enumerate() {
            *q = codes[i] | codes[i + 32] << 4;
        }
    }
    let scales = six_bits::pack(&block.scales, &block.mins);
    Layout { d: block.d.to_le_bytes(), dmin: block.dmin.to_le_bytes(), scales, qs }
}

#[inline(always)]
fn unpack(layout: &Layout) -> AffineBlock {
    let mut codes = [0; SUPER_BLOCK];
    for (codes, qs) in codes.chunks_exact_mut(64).zip(layout.qs.chunks_exact(32)) {
        for (i, q) in qs.iter().enumerate() {
            codes[i] = q & 15;
            codes[i + 32] = q >> 4;
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
    super::quantize_row::<Q4K>(x, importance, out);
}

/// Dequantizes a row of whole super-blocks: any bytes, to the bit as ggml's `dequantize_row_q4_K`.
pub fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
    super::dequantize_row::<Q4K>(bytes, out);
}

/// A block's numbers: see [`parts`](super::super::parts).
pub fn parts(bytes: &[u8]) -> Parts {
    unpack(&Layout::read(bytes)).into()
}

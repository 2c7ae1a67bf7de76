//! Q2_K: 2-bit codes, 16 sub-blocks of 16, 4-bit scales and mins; 2.625 bits per weight.

use half::f16;

use super::affine::{AffineBlock, Plan, quantize};
use super::lanes::Lanes;
use super::layout::layout;
use super::quarters;
use super::weights::{Alone, Rule};
use super::{Parts, SuperBlock};

layout! {
    /// `block_q2_K` of <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.
    Layout: 84 { scales: 16, qs: 64, d: 2, dmin: 2 }
}

const PLAN: Plan = Plan {
    top: 3.0,
    scale_top: 15.0,
    steps: &[-1.0, -0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
    rule: Rule { alone: Alone::RmsPlusAbs, spread: Some(1.0) },
};

/// The type.
pub(super) struct Q2K;

impl SuperBlock for Q2K {
    const BYTES: usize = size_of::<Layout>();

    #[inline(always)]
    fn quantize<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        pack(&quantize::<L, 16, 2>(x, importance, &PLAN)).write(out);
    }

    #[inline(always)]
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        unpack(&Layout::read(bytes)).dequantize::<16>(out);
    }
}

#[inline(always)]
fn pack(block: &AffineBlock) -> Layout {
    let mut scales = block.scales;
    for (scale, min) in scales.iter_mut().zip(block.mins) {
        *scale |= min << 4;
    }
    let qs = quarters::pack(&block.codes);
    Layout { scales, qs, d: block.d.to_le_bytes(), dmin: block.dmin.to_le_bytes() }
}

#[inline(always)]
fn unpack(layout: &Layout) -> AffineBlock {
    AffineBlock {
        d: f16::from_le_bytes(layout.d),
        dmin: f16::from_le_bytes(layout.dmin),
        scales: layout.scales.map(|s| s & 15),
        mins: layout.scales.map(|s| s >> 4),
        codes: quarters::unpack(&layout.qs),
    }
}

/// Quantizes a row of whole super-blocks of 256 values; `importance` is one non-negative number per value.
pub fn quantize_row(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    super::quantize_row::<Q2K>(x, importance, out);
}

/// Dequantizes a row of whole super-blocks: any bytes, to the bit as ggml's `dequantize_row_q2_K`.
pub fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
    super::dequantize_row::<Q2K>(bytes, out);
}

/// A block's numbers: see [`parts`](super::super::parts).
pub fn parts(bytes: &[u8]) -> Parts {
    unpack(&Layout::read(bytes)).into()
}

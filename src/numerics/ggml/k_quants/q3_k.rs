//! Q3_K: 3-bit codes, 16 sub-blocks of 16, 6-bit signed scales; 3.4375 bits per weight.

use half::f16;

use super::lanes::Lanes;
use super::layout::layout;
use super::quarters;
use super::signed::{Effort, Plan, SignedBlock, quantize};
use super::weights::{Alone, Rule};
use super::{Parts, SUPER_BLOCK, SuperBlock};

layout! {
    /// `block_q3_K` of <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.
    Layout: 110 { hmask: 32, qs: 64, scales: 12, d: 2 }
}

const PLAN: Plan = Plan {
    half: 4.0,
    scale_half: 32.0,
    alone: Effort {
        steps: &[-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75],
        neighbours: &[0.0, -1.0, 1.0],
        rounds: 1,
    },
    given: Effort {
        steps: &[-1.3, -1.1, -0.9, -0.7, -0.5, -0.3, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3],
        neighbours: &[0.0, -1.0, 1.0, -2.0, 2.0],
        rounds: 2,
    },
    rule: Rule { alone: Alone::Square(1.0), spread: Some(2.0) },
};

/// The type.
pub(super) struct Q3K;

impl SuperBlock for Q3K {
    const BYTES: usize = size_of::<Layout>();

    #[inline(always)]
    fn quantize<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        pack(&quantize::<L>(x, importance, &PLAN)).write(out);
    }

    #[inline(always)]
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        unpack(&Layout::read(bytes)).dequantize(4, out);
    }
}

#[inline(always)]
fn pack(block: &SignedBlock) -> Layout {
    let mut hmask = [0; SUPER_BLOCK / 8];
    for (j, codes) in block.codes.chunks_exact(32).enumerate() {
        for (h, code) in hmask.iter_mut().zip(codes) {
            *h |= code >> 2 << j;
        }
    }
    let qs = quarters::pack(&block.codes.map(|code| code & 3));
    Layout { hmask, qs, scales: pack_scales(&block.scales), d: block.d.to_le_bytes() }
}

#[inline(always)]
fn unpack(layout: &Layout) -> SignedBlock {
    let mut codes = quarters::unpack(&layout.qs);
    for (j, codes) in codes.chunks_exact_mut(32).enumerate() {
        for (h, code) in layout.hmask.iter().zip(codes) {
            *code |= (h >> j & 1) << 2;
        }
    }
    SignedBlock { d: f16::from_le_bytes(layout.d), scales: unpack_scales(&layout.scales), codes }
}

/// Scale j plus 32: its low 4 bits in nibble j/8 of byte j%8, its high 2 bits in pair j/4 of byte 8 + j%4.
#[inline(always)]
fn pack_scales(scales: &[i8; 16]) -> [u8; 12] {
    let mut out = [0; 12];
    for (j, scale) in scales.iter().enumerate() {
        let scale = (scale + 32).cast_unsigned();
        out[j % 8] |= (scale & 15) << (4 * (j / 8));
        out[8 + j % 4] |= (scale >> 4) << (2 * (j / 4));
    }
    out
}

#[inline(always)]
fn unpack_scales(packed: &[u8; 12]) -> [i8; 16] {
    let mut out = [0; 16];
    for (j, scale) in out.iter_mut().enumerate() {
        let low = packed[j % 8] >> (4 * (j / 8)) & 15;
        let high = packed[8 + j % 4] >> (2 * (j / 4)) & 3;
        *scale = (low | high << 4).cast_signed() - 32;
    }
    out
}

/// Quantizes a row of whole super-blocks of 256 values; `importance` is one non-negative number per value.
pub fn quantize_row(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    super::quantize_row::<Q3K>(x, importance, out);
}

/// Dequantizes a row of whole super-blocks: any bytes, to the bit as ggml's `dequantize_row_q3_K`.
pub fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
    super::dequantize_row::<Q3K>(bytes, out);
}

/// A block's numbers: see [`parts`](super::super::parts).
pub fn parts(bytes: &[u8]) -> Parts {
    unpack(&Layout::read(bytes)).into()
}

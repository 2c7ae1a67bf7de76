//! Q6_K: 6-bit codes, 16 sub-blocks of 16, 8-bit signed scales; 6.5625 bits per weight.

use half::f16;

use super::lanes::Lanes;
use super::layout::layout;
use super::signed::{Effort, Plan, SignedBlock, quantize};
use super::weights::{Alone, Rule};
use super::{Parts, SUPER_BLOCK, SuperBlock};

layout! {
    /// `block_q6_K` of <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.
    Layout: 210 { ql: 128, qh: 64, scales: 16, d: 2 }
}

const EFFORT: Effort = Effort {
    steps: &[-0.9, -0.7, -0.5, -0.3, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9],
    neighbours: &[0.0, -1.0, 1.0],
    rounds: 1,
};

const PLAN: Plan = Plan {
    half: 32.0,
    scale_half: 128.0,
    alone: EFFORT,
    given: EFFORT,
    rule: Rule { alone: Alone::Square(0.25), spread: None },
};

/// The type.
pub(super) struct Q6K;

impl SuperBlock for Q6K {
    const BYTES: usize = size_of::<Layout>();

    #[inline(always)]
    fn quantize<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        pack(&quantize::<L>(x, importance, &PLAN)).write(out);
    }

    #[inline(always)]
    fn dequantize(bytes: &[u8], out: &mut [f32]) {
        unpack(&Layout::read(bytes)).dequantize(32, out);
    }
}

#[inline(always)]
fn pack(block: &SignedBlock) -> Layout {
    let (mut ql, mut qh) = ([0; SUPER_BLOCK / 2], [0; SUPER_BLOCK / 4]);
    for (h, codes) in block.codes.chunks_exact(128).enumerate() {
        let (ql, qh) = (&mut ql[64 * h..][..64], &mut qh[32 * h..][..32]);
        for i in 0..32 {
            let [a, b, c, d] = [codes[i], codes[i + 32], codes[i + 64], codes[i + 96]];
            ql[i] = a & 15 | c << 4;
            ql[i + 32] = b & 15 | d << 4;
            qh[i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
    Layout { ql, qh, scales: block.scales.map(i8::cast_unsigned), d: block.d.to_le_bytes() }
}

#[inline(always)]
fn unpack(layout: &Layout) -> SignedBlock {
    let mut codes = [0; SUPER_BLOCK];
    for (h, codes) in codes.chunks_exact_mut(128).enumerate() {
        let (ql, qh) = (&layout.ql[64 * h..][..64], &layout.qh[32 * h..][..32]);
        for i in 0..32 {
            codes[i] = ql[i] & 15 | (qh[i] & 3) << 4;
            codes[i + 32] = ql[i + 32] & 15 | (qh[i] >> 2 & 3) << 4;
            codes[i + 64] = ql[i] >> 4 | (qh[i] >> 4 & 3) << 4;
            codes[i + 96] = ql[i + 32] >> 4 | (qh[i] >> 6) << 4;
        }
    }
    SignedBlock { d: f16::from_le_bytes(layout.d), scales: layout.scales.map(u8::cast_signed), codes }
}

/// Quantizes a row of whole super-blocks of 256 values; `importance` is one non-negative number per value.
pub fn quantize_row(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    super::quantize_row::<Q6K>(x, importance, out);
}

/// Dequantizes a row of whole super-blocks: any bytes, to the bit as ggml's `dequantize_row_q6_K`.
pub fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
    super::dequantize_row::<Q6K>(bytes, out);
}

/// A block's numbers: see [`parts`](super::super::parts).
pub fn parts(bytes: &[u8]) -> Parts {
    unpack(&Layout::read(bytes)).into()
}

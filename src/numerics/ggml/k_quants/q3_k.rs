//! Q3_K: 3-bit codes, 16 sub-blocks of 16, 6-bit signed scales; 3.4375 bits per weight.

use half::f16;

use super::layout::layout;
use super::quarters;
use super::signed::{self, Effort, SearchParameters};
use super::super_block::{SUPER_BLOCK, SuperBlock};
use super::weights::{Alone, Rule};
use crate::numerics::ggml::lanes::Lanes;
use crate::numerics::ggml::parts::Parts;

layout! {
    /// `block_q3_K` of <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.
    Q3K: 110 { hmask: 32, qs: 64, scales: 12, d: 2 }
}

const SEARCH: SearchParameters = SearchParameters {
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

impl SuperBlock for Q3K {
    #[inline(always)]
    fn quantize<L: Lanes>(x: &[f32], importance: Option<&[f32]>) -> Parts {
        signed::quantize::<L>(x, importance, &SEARCH)
    }

    #[inline(always)]
    fn dequantize(parts: &Parts, out: &mut [f32]) {
        signed::dequantize(4, parts, out);
    }

    #[inline(always)]
    fn pack(parts: &Parts) -> Self {
        let mut hmask = [0; SUPER_BLOCK / 8];
        for (j, codes) in parts.codes.chunks_exact(32).enumerate() {
            for (h, code) in hmask.iter_mut().zip(codes) {
                *h |= code >> 2 << j;
            }
        }
        let qs = quarters::pack(&parts.codes.map(|code| code & 3));
        Q3K { hmask, qs, scales: pack_scales(&parts.scales), d: parts.d.to_le_bytes() }
    }

    #[inline(always)]
    fn unpack(&self) -> Parts {
        let mut codes = quarters::unpack(&self.qs);
        for (j, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (h, code) in self.hmask.iter().zip(codes) {
                *code |= (h >> j & 1) << 2;
            }
        }
        Parts {
            d: f16::from_le_bytes(self.d),
            dmin: f16::ZERO,
            minimums: [0; 16],
            scales: unpack_scales(&self.scales),
            codes,
        }
    }
}

/// Packs scale j plus 32: its low 4 bits in nibble j/8 of byte j%8, its high 2 bits in pair j/4 of byte 8 + j%4.
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

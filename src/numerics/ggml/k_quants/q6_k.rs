//! Q6_K: 6-bit codes, 16 sub-blocks of 16, 8-bit signed scales; 6.5625 bits per weight.

use half::f16;

use super::layout::layout;
use super::signed::{self, Effort, SearchParameters};
use super::super_block::{SUPER_BLOCK, SuperBlock};
use super::weights::{Alone, Rule};
use crate::numerics::ggml::lanes::Lanes;
use crate::numerics::ggml::parts::Parts;

layout! {
    /// `block_q6_K` of <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.
    Q6K: 210 { ql: 128, qh: 64, scales: 16, d: 2 }
}

const EFFORT: Effort = Effort {
    steps: &[-0.9, -0.7, -0.5, -0.3, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9],
    neighbours: &[0.0, -1.0, 1.0],
    rounds: 1,
};

const SEARCH: SearchParameters = SearchParameters {
    half: 32.0,
    scale_half: 128.0,
    alone: EFFORT,
    given: EFFORT,
    rule: Rule { alone: Alone::Square(0.25), spread: None },
};

impl SuperBlock for Q6K {
    #[inline(always)]
    fn quantize<L: Lanes>(x: &[f32], importance: Option<&[f32]>) -> Parts {
        signed::quantize::<L>(x, importance, &SEARCH)
    }

    #[inline(always)]
    fn dequantize(parts: &Parts, out: &mut [f32]) {
        signed::dequantize(32, parts, out);
    }

    #[inline(always)]
    fn pack(parts: &Parts) -> Self {
        let (mut ql, mut qh) = ([0; SUPER_BLOCK / 2], [0; SUPER_BLOCK / 4]);
        for (h, codes) in parts.codes.chunks_exact(128).enumerate() {
            let (ql, qh) = (&mut ql[64 * h..][..64], &mut qh[32 * h..][..32]);
            for i in 0..32 {
                let [a, b, c, d] = [codes[i], codes[i + 32], codes[i + 64], codes[i + 96]];
                ql[i] = a & 15 | c << 4;
                ql[i + 32] = b & 15 | d << 4;
                qh[i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
            }
        }
        Q6K { ql, qh, scales: parts.scales.map(i8::cast_unsigned), d: parts.d.to_le_bytes() }
    }

    #[inline(always)]
    fn unpack(&self) -> Parts {
        let mut codes = [0; SUPER_BLOCK];
        for (h, codes) in codes.chunks_exact_mut(128).enumerate() {
            let (ql, qh) = (&self.ql[64 * h..][..64], &self.qh[32 * h..][..32]);
            for i in 0..32 {
                codes[i] = ql[i] & 15 | (qh[i] & 3) << 4;
                codes[i + 32] = ql[i + 32] & 15 | (qh[i] >> 2 & 3) << 4;
                codes[i + 64] = ql[i] >> 4 | (qh[i] >> 4 & 3) << 4;
                codes[i + 96] = ql[i + 32] >> 4 | (qh[i] >> 6) << 4;
            }
        }
        Parts {
            d: f16::from_le_bytes(self.d),
            dmin: f16::ZERO,
            minimums: [0; 16],
            scales: self.scales.map(u8::cast_signed),
            codes,
        }
    }
}

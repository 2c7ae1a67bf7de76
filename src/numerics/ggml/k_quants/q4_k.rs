//! Q4_K: 4-bit codes, 8 sub-blocks of 32, 6-bit scales and mins; 4.5 bits per weight.

use half::f16;

use super::affine::{self, SearchParameters};
use super::layout::layout;
use super::six_bits;
use super::super_block::{SUPER_BLOCK, SuperBlock};
use super::weights::{Alone, Rule};
use crate::numerics::ggml::lanes::Lanes;
use crate::numerics::ggml::parts::Parts;

layout! {
    /// `block_q4_K` of <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.
    Q4K: 144 { d: 2, dmin: 2, scales: 12, qs: 128 }
}

/// The search.
pub(crate) const SEARCH: SearchParameters = SearchParameters {
    top: 15.0,
    scale_top: 63.0,
    steps: &[-1.6, -1.4, -1.2, -1.0, -0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4],
    rule: Rule { alone: Alone::RmsPlusAbs, spread: Some(2.0) },
};

impl SuperBlock for Q4K {
    #[inline(always)]
    fn quantize<L: Lanes>(x: &[f32], importance: Option<&[f32]>) -> Parts {
        affine::quantize::<L, 32, 1>(x, importance, &SEARCH)
    }

    #[inline(always)]
    fn dequantize(parts: &Parts, out: &mut [f32]) {
        affine::dequantize::<32>(parts, out);
    }

    #[inline(always)]
    fn pack(parts: &Parts) -> Self {
        let mut qs = [0; SUPER_BLOCK / 2];
        for (qs, codes) in qs.chunks_exact_mut(32).zip(parts.codes.chunks_exact(64)) {
            for (i, q) in qs.iter_mut().enumerate() {
                *q = codes[i] | codes[i + 32] << 4;
            }
        }
        let scales = six_bits::pack(parts);
        Q4K { d: parts.d.to_le_bytes(), dmin: parts.dmin.to_le_bytes(), scales, qs }
    }

    #[inline(always)]
    fn unpack(&self) -> Parts {
        let mut codes = [0; SUPER_BLOCK];
        for (codes, qs) in codes.chunks_exact_mut(64).zip(self.qs.chunks_exact(32)) {
            for (i, q) in qs.iter().enumerate() {
                codes[i] = q & 15;
                codes[i + 32] = q >> 4;
            }
        }
        let (scales, minimums) = six_bits::unpack(&self.scales);
        Parts { d: f16::from_le_bytes(self.d), dmin: f16::from_le_bytes(self.dmin), scales, minimums, codes }
    }
}

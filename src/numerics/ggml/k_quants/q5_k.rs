//! Q5_K: 5-bit codes, 8 sub-blocks of 32, 6-bit scales and mins; 5.5 bits per weight.

use half::f16;

use super::affine::{self, SearchParameters};
use super::layout::layout;
use super::q4_k;
use super::six_bits;
use super::super_block::{SUPER_BLOCK, SuperBlock};
use crate::numerics::ggml::lanes::Lanes;
use crate::numerics::ggml::parts::Parts;

layout! {
    /// `block_q5_K` of <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.
    Q5K: 176 { d: 2, dmin: 2, scales: 12, qh: 32, qs: 128 }
}

/// The search of Q4_K, with twice the codes.
const SEARCH: SearchParameters = SearchParameters { top: 31.0, ..q4_k::SEARCH };

impl SuperBlock for Q5K {
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
        let (mut qh, mut qs) = ([0; SUPER_BLOCK / 8], [0; SUPER_BLOCK / 2]);
        for (j, (qs, codes)) in qs.chunks_exact_mut(32).zip(parts.codes.chunks_exact(64)).enumerate() {
            for (i, (q, h)) in qs.iter_mut().zip(&mut qh).enumerate() {
                let (low, high) = (codes[i], codes[i + 32]);
                *q = low & 15 | high << 4;
                *h |= (low >> 4) << (2 * j) | (high >> 4) << (2 * j + 1);
            }
        }
        let scales = six_bits::pack(parts);
        Q5K { d: parts.d.to_le_bytes(), dmin: parts.dmin.to_le_bytes(), scales, qh, qs }
    }

    #[inline(always)]
    fn unpack(&self) -> Parts {
        let mut codes = [0; SUPER_BLOCK];
        for (j, (codes, qs)) in codes.chunks_exact_mut(64).zip(self.qs.chunks_exact(32)).enumerate() {
            for (i, (q, h)) in qs.iter().zip(&self.qh).enumerate() {
                codes[i] = q & 15 | (h >> (2 * j) & 1) << 4;
                codes[i + 32] = q >> 4 | (h >> (2 * j + 1) & 1) << 4;
            }
        }
        let (scales, minimums) = six_bits::unpack(&self.scales);
        Parts { d: f16::from_le_bytes(self.d), dmin: f16::from_le_bytes(self.dmin), scales, minimums, codes }
    }
}

//! Q2_K: 2-bit codes, 16 sub-blocks of 16, 4-bit scales and mins; 2.625 bits per weight.

use half::f16;

use super::affine::{self, SearchParameters};
use super::layout::layout;
use super::quarters;
use super::super_block::SuperBlock;
use super::weights::{Alone, Rule};
use crate::numerics::ggml::lanes::Lanes;
use crate::numerics::ggml::parts::Parts;

layout! {
    /// `block_q2_K` of <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.
    Q2K: 84 { scales: 16, qs: 64, d: 2, dmin: 2 }
}

const SEARCH: SearchParameters = SearchParameters {
    top: 3.0,
    scale_top: 15.0,
    steps: &[-1.0, -0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
    rule: Rule { alone: Alone::RmsPlusAbs, spread: Some(1.0) },
};

impl SuperBlock for Q2K {
    #[inline(always)]
    fn quantize<L: Lanes>(x: &[f32], importance: Option<&[f32]>) -> Parts {
        affine::quantize::<L, 16, 2>(x, importance, &SEARCH)
    }

    #[inline(always)]
    fn dequantize(parts: &Parts, out: &mut [f32]) {
        affine::dequantize::<16>(parts, out);
    }

    #[inline(always)]
    fn pack(parts: &Parts) -> Self {
        let mut scales = parts.scales.map(i8::cast_unsigned);
        for (scale, min) in scales.iter_mut().zip(parts.minimums) {
            *scale |= min << 4;
        }
        let qs = quarters::pack(&parts.codes);
        Q2K { scales, qs, d: parts.d.to_le_bytes(), dmin: parts.dmin.to_le_bytes() }
    }

    #[inline(always)]
    fn unpack(&self) -> Parts {
        Parts {
            d: f16::from_le_bytes(self.d),
            dmin: f16::from_le_bytes(self.dmin),
            scales: self.scales.map(|s| (s & 15).cast_signed()),
            minimums: self.scales.map(|s| s >> 4),
            codes: quarters::unpack(&self.qs),
        }
    }
}

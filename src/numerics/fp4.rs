//! FP4 (E2M1) in small groups: MXFP4 and NVFP4.
//!
//! MXFP4 (OCP Microscaling 1.0): a power of two per group of 32. The exponent is that of the largest magnitude as E2M1's
//! two significant bits would round it, less 2 (6 = 1.5·2²), as in compressed-tensors (`mxfp_utils.py`): a group whose
//! maximum would round past 6 takes the next power instead of clipping.
//!
//! NVFP4: an E4M3 scale per group of 16 under one f32 per tensor, global = 448·6/absmax(tensor), which lets the E4M3
//! scales use their whole range: scale = e4m3(global·(absmax(group)/6)), w = e2m1·(scale/global). Order of operations as
//! in compressed-tensors (`calculate_qparams`, `generate_gparam`), in f32.
//!
//! A code is the sign in bit 3 and the magnitude's index in bits 0–2. Ties go to even; NaN becomes ±6.

use ndarray::ArrayView2;

use super::codec::Codec;
use super::extremes;
use super::minifloat::{E2M1, E4M3};
use super::{Context, Grid, ScaleType, Scheme, simd};

/// The values of the codes.
pub(crate) const VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// E2M1 codes.
pub(crate) struct Fp4Codec;

impl Codec for Fp4Codec {
    #[inline(always)]
    fn encode(&self, scaled: f32, _zero: f32) -> u8 {
        let sign = if scaled < 0.0 { 8 } else { 0 };
        E2M1.encode(simd::min(scaled.abs(), E2M1.max)) | sign
    }

    #[inline(always)]
    fn decode(&self, code: u8, _zero: f32) -> f32 {
        VALUES[usize::from(code & 15)]
    }
}

/// Returns the min-max grid.
pub(crate) fn fit(scheme: &Scheme, w: ArrayView2<f32>, context: &Context) -> Grid {
    let absmax = || extremes::absmax(scheme, w, context).into_iter();
    match scheme.scale {
        ScaleType::E8M0 => Grid { scales: absmax().map(mx_scale).collect(), ..Grid::default() },
        ScaleType::E4M3 => {
            let global = global_scale(extremes::tensor_extent(context).absmax());
            let scales = absmax().map(|absmax| nv_scale(absmax, global)).collect();
            Grid { scales, global_scale: Some(global), ..Grid::default() }
        }
        _ => extremes::fit_absmax(scheme, w, context, E2M1.max),
    }
}

/// Returns the power of two of a group, from the bits of its largest magnitude. Zero and too small a magnitude give 2^-127.
fn mx_scale(absmax: f32) -> f32 {
    const TWO_SIGNIFICANT_BITS: u32 = 1 << (23 - 1 - 1);
    let exponent = ((absmax.to_bits() + TWO_SIGNIFICANT_BITS) >> 23).saturating_sub(2);
    if exponent == 0 { ScaleType::E8M0.of_zeros() } else { f32::from_bits(exponent << 23) }
}

/// Returns NVFP4's divisor of scales; 1 for a tensor of zeros (or with an infinity). Multiplies by the reciprocal, as torch
/// does when it divides a number by a tensor.
fn global_scale(absmax: f32) -> f32 {
    let global = E4M3.max * E2M1.max * absmax.recip();
    if global.is_finite() && global > 0.0 { global } else { 1.0 }
}

fn nv_scale(absmax: f32, global: f32) -> f32 {
    if absmax == 0.0 {
        return ScaleType::E4M3.of_zeros();
    }
    ScaleType::E4M3.nearest(global * (absmax / E2M1.max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mx_scales_follow_the_rounded_maximum() {
        // 7 = 1.75·2² rounds to 8: the next power, so that 7 becomes 4·2 and is not clipped to 6.
        let cases =
            [(6.0, 1.0), (6.99, 1.0), (7.0, 2.0), (4.0, 1.0), (3.9, 1.0), (3.4, 0.5), (0.0, 2f32.powi(-127))];
        for (absmax, scale) in cases {
            assert_eq!(mx_scale(absmax), scale, "{absmax}");
        }
        assert_eq!(mx_scale(f32::MAX), 2f32.powi(126));
    }

    #[test]
    fn codes_of_ties_signs_and_excess() {
        let scaled = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 5.1, 1e9, -0.2, -0.0, -7.0, f32::NAN];
        let codes = [0, 2, 2, 4, 4, 6, 6, 7, 7, 8, 0, 15, 7];
        assert_eq!(scaled.map(|x| Fp4Codec.encode(x, 0.0)), codes);
    }

    #[test]
    fn a_tensor_of_zeros_has_no_global_scale() {
        assert_eq!(global_scale(0.0), 1.0);
        assert_eq!(global_scale(1e-37), 1.0);
        assert_eq!(global_scale(f32::INFINITY), 1.0);
        assert_eq!(global_scale(6.0), 448.0);
        assert_eq!(nv_scale(0.0, 1.0), 0.125);
        assert_eq!(nv_scale(1e-12, 1.0), 1.0 / 512.0);
    }
}

//! NF4: the 16 quantiles of a normal distribution, scaled to [−1, 1], under the largest magnitude of each group.
//!
//! QLoRA (Dettmers et al. 2023, <https://arxiv.org/abs/2305.14314>), values and thresholds as in bitsandbytes
//! (<https://github.com/bitsandbytes-foundation/bitsandbytes>, `csrc/kernels.cu`). bitsandbytes multiplies by the
//! reciprocal of an f32 absmax; we divide by the scale as stored. No double quantization of the scales.

use super::codec::Codec;

/// The values of the codes.
pub(crate) const VALUES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A value above `THRESHOLDS[i]` has a code above i: the middles between neighbours.
const THRESHOLDS: [f32; 15] = [
    -0.848_096_4,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_43,
    -0.234_607_4,
    -0.137_911_73,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_25,
    0.203_521_25,
    0.292_013_77,
    0.389_312_53,
    0.501_663_4,
    0.642_786_9,
    0.861_478_4,
];

/// NF4; a value in the middle of two takes the lower code.
pub(crate) struct Nf4Codec;

impl Codec for Nf4Codec {
    #[inline(always)]
    fn encode(&self, scaled: f32, _zero: f32) -> u8 {
        THRESHOLDS.iter().fold(0u32, |code, &threshold| code + u32::from(scaled > threshold)) as u8
    }

    #[inline(always)]
    fn decode(&self, code: u8, _zero: f32) -> f32 {
        VALUES[usize::from(code & 15)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_lie_in_the_middle() {
        for (pair, threshold) in VALUES.windows(2).zip(THRESHOLDS) {
            let middle = (f64::from(pair[0]) + f64::from(pair[1])) / 2.0;
            assert!((middle - f64::from(threshold)).abs() < 5e-8, "{pair:?}");
        }
    }

    #[test]
    fn every_value_is_its_own_code() {
        for (code, value) in VALUES.into_iter().enumerate() {
            assert_eq!(usize::from(Nf4Codec.encode(value, 0.0)), code);
        }
    }
}

//! The functions exp, tanh, erf and the activations that use them, on vectors: range reduction and polynomials, without
//! tables.
//!
//! Coefficients are those of the Cephes library's single-precision functions (S. Moshier,
//! <https://www.netlib.org/cephes/>), and of `erfcc` in Numerical Recipes §6.2. The tests below measure errors against
//! f64: exp within 2 ulp, tanh and sigmoid within 2·10⁻⁷, erf within 10⁻⁷.

use super::simd::Simd;
use crate::backend::Activation;

/// Evaluates c₀·xⁿ + c₁·xⁿ⁻¹ + … + cₙ by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::V, coefficients: [f32; N]) -> S::V {
    let mut sum = simd.splat(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = simd.mul_add(sum, x, simd.splat(coefficient));
    }
    sum
}

/// Computes eˣ: 0 below -104, infinite above 89; NaN stays NaN.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    // x = n·ln 2 + r, |r| ≤ ln 2/2. ln 2 is split in two parts; the first has so few bits that n times it is exact.
    let x = simd.min(simd.splat(89.0), simd.max(simd.splat(-104.0), x));
    let n = simd.round(simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.mul_add(n, simd.splat(-0.693_359_4), x);
    let r = simd.mul_add(n, simd.splat(2.121_944_4e-4), r);
    let p = polynomial(
        simd,
        r,
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5],
    );
    let fraction = simd.add(simd.mul_add(p, simd.mul(r, r), r), simd.splat(1.0));
    simd.times_power_of_two(fraction, n)
}

/// Computes tanh x: an odd polynomial if |x| < 0.625, else 1 − 2/(e²ˣ + 1).
#[inline(always)]
pub(super) fn tanh<S: Simd>(simd: S, x: S::V) -> S::V {
    let magnitude = simd.abs(x);
    let squared = simd.mul(x, x);
    let p = polynomial(
        simd,
        squared,
        [-5.704_988_7e-3, 0.020_639_09, -5.373_971_6e-2, 1.333_144_2e-1, -0.333_332_8],
    );
    let small = simd.mul_add(simd.mul(p, squared), x, x);
    let one = simd.splat(1.0);
    let power = exp(simd, simd.add(magnitude, magnitude));
    let large = simd.sub(one, simd.div(simd.splat(2.0), simd.add(power, one)));
    simd.where_less(magnitude, simd.splat(0.625), small, with_sign_of(simd, large, x))
}

/// Computes erf x: an odd polynomial if |x| < 1, else 1 − erfc x.
#[inline(always)]
pub(super) fn erf<S: Simd>(simd: S, x: S::V) -> S::V {
    let magnitude = simd.abs(x);
    let p = polynomial(
        simd,
        simd.mul(x, x),
        [
            7.853_861e-5,
            -8.010_194e-4,
            5.188_327e-3,
            -2.685_381_3e-2,
            1.128_358_5e-1,
            -3.761_262_6e-1,
            0.128_379_17,
        ],
    );
    let large = simd.sub(simd.splat(1.0), erfc_of_positive(simd, magnitude));
    // x + x·p: the first coefficient is reduced by 1, so that the sum is rounded once.
    let small = simd.mul_add(x, p, x);
    simd.where_less(magnitude, simd.splat(1.0), small, with_sign_of(simd, large, x))
}

/// Computes erfc x = t·exp(−x² + P(t)), t = 1/(1 + x/2).
#[inline(always)]
fn erfc_of_positive<S: Simd>(simd: S, x: S::V) -> S::V {
    let one = simd.splat(1.0);
    let t = simd.div(one, simd.mul_add(x, simd.splat(0.5), one));
    let p = polynomial(
        simd,
        t,
        [
            0.170_872_77,
            -0.822_152_23,
            1.488_515_9,
            -1.135_204,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_7,
            -1.265_512_2,
        ],
    );
    simd.mul(t, exp(simd, simd.sub(p, simd.mul(x, x))))
}

#[inline(always)]
fn with_sign_of<S: Simd>(simd: S, magnitude: S::V, x: S::V) -> S::V {
    let zero = simd.splat(0.0);
    simd.where_less(x, zero, simd.sub(zero, magnitude), magnitude)
}

/// Computes σ(x) = 1/(1 + e⁻ˣ).
#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::V) -> S::V {
    let one = simd.splat(1.0);
    simd.div(one, simd.add(one, exp(simd, simd.sub(simd.splat(0.0), x))))
}

/// Computes cap·tanh(x/cap).
#[inline(always)]
pub(super) fn soft_cap<S: Simd>(simd: S, x: S::V, cap: f32) -> S::V {
    simd.mul(simd.splat(cap), tanh(simd, simd.div(x, simd.splat(cap))))
}

/// Computes an element-wise function of [`Activation`].
#[inline(always)]
pub(super) fn activate<S: Simd>(simd: S, x: S::V, activation: Activation) -> S::V {
    let (half, one) = (simd.splat(0.5), simd.splat(1.0));
    match activation {
        Activation::Silu => simd.mul(x, sigmoid(simd, x)),
        Activation::Gelu => {
            let phi = erf(simd, simd.mul(x, simd.splat(std::f32::consts::FRAC_1_SQRT_2)));
            simd.mul(simd.mul(half, x), simd.add(one, phi))
        }
        Activation::GeluTanh => {
            // tanh(√(2/π)·(x + 0.044715·x³)).
            let cubic = simd.mul_add(simd.mul(x, x), simd.mul(x, simd.splat(0.044_715)), x);
            let t = tanh(simd, simd.mul(cubic, simd.splat(0.797_884_6)));
            simd.mul(simd.mul(half, x), simd.add(one, t))
        }
        // This order of arguments keeps NaN.
        Activation::Relu => simd.max(simd.splat(0.0), x),
        Activation::Sigmoid => sigmoid(simd, x),
        Activation::Clip(limit) => simd.max(simd.splat(-limit), simd.min(simd.splat(limit), x)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::elementwise::{Function, apply};
    use super::super::level::Level;
    use super::super::simd::{LevelKernel, Unary};
    use super::*;
    use crate::test_support::largest;

    #[derive(Clone, Copy)]
    enum Of {
        Exp,
        Tanh,
        Erf,
    }

    struct Map<'a>(&'a mut [f32], Of);

    impl LevelKernel for Map<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            simd.map(self.0, self.1);
        }
    }

    impl Unary for Of {
        #[inline(always)]
        fn of<S: Simd>(self, simd: S, x: S::V) -> S::V {
            match self {
                Of::Exp => exp(simd, x),
                Of::Tanh => tanh(simd, x),
                Of::Erf => erf(simd, x),
            }
        }
    }

    /// Returns the largest error of `f` at every level, as `error(x, computed)` measures it.
    fn worst(f: Of, range: std::ops::Range<f64>, error: impl Fn(f64, f64) -> f64) -> f64 {
        const N: usize = 200_003;
        let step = (range.end - range.start) / N as f64;
        let x: Vec<f32> = (0..N).map(|i| (range.start + i as f64 * step) as f32).collect();
        let worst = Level::usable().into_iter().map(|level| {
            let mut y = x.clone();
            level.run(Map(&mut y, f));
            largest(x.iter().zip(&y).map(|(&x, &y)| error(f64::from(x), f64::from(y))))
        });
        largest(worst)
    }

    /// Computes erf by its Taylor series if |x| < 3, else by the continued fraction of erfc; within 10⁻¹³.
    fn erf_in_f64(x: f64) -> f64 {
        let (magnitude, squared) = (x.abs(), x * x);
        if magnitude < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= -squared / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let fraction = (1..60).rev().fold(0.0, |below, k| f64::from(k) / 2.0 / (magnitude + below));
        let erfc = (-squared).exp() / (std::f64::consts::PI.sqrt() * (magnitude + fraction));
        (1.0 - erfc).copysign(x)
    }

    /// Returns the distance of neighbouring floats at y.
    fn ulp(y: f64) -> f64 {
        let y = (y.abs() as f32).max(f32::MIN_POSITIVE);
        f64::from(f32::from_bits(y.to_bits() + 1)) - f64::from(y)
    }

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        let error = |x: f64, y: f64| (y - x.exp()).abs() / ulp(x.exp());
        assert!(worst(Of::Exp, -103.0..88.7, error) <= 2.0);
        assert!(worst(Of::Exp, -1e-3..1e-3, error) <= 2.0);
    }

    #[test]
    fn tanh_and_erf_are_within_their_bounds() {
        let tanh = |range| worst(Of::Tanh, range, |x, y| (y - x.tanh()).abs());
        assert!(tanh(-12.0..12.0) <= 2e-7);
        let relative = worst(Of::Tanh, 1e-4..0.7, |x, y| (y - x.tanh()).abs() / x.tanh());
        assert!(relative <= 3e-7, "tanh: {relative}");
        let erf = worst(Of::Erf, -6.0..6.0, |x, y| (y - erf_in_f64(x)).abs());
        assert!(erf <= 1e-7, "erf: {erf}");
        // Abramowitz & Stegun, table 7.1.
        for (x, expected) in [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf_in_f64(x) - expected).abs() < 1e-10);
        }
    }

    #[test]
    fn the_ends_of_the_range_are_limits() {
        for level in Level::usable() {
            let of = |f, x: f32| {
                let mut y = [x; 3];
                level.run(Map(&mut y, f));
                assert!(y.iter().all(|v| v.to_bits() == y[0].to_bits()), "{level:?}: the last lanes differ");
                y[0]
            };
            let infinity = f32::INFINITY;
            let exp = [-infinity, f32::MIN, -104.0, 0.0, 89.0, infinity].map(|x| of(Of::Exp, x));
            assert_eq!(exp, [0.0, 0.0, 0.0, 1.0, infinity, infinity], "{level:?}");
            for f in [Of::Tanh, Of::Erf] {
                let limits = [-infinity, f32::MIN, 0.0, f32::MAX, infinity].map(|x| of(f, x));
                assert_eq!(limits, [-1.0, -1.0, 0.0, 1.0, 1.0], "{level:?}");
            }
            assert!([Of::Exp, Of::Tanh, Of::Erf].iter().all(|f| of(*f, f32::NAN).is_nan()), "{level:?}");
        }
    }

    fn in_f64(activation: Activation, x: f64) -> f64 {
        let sigmoid = 1.0 / (1.0 + (-x).exp());
        match activation {
            Activation::Silu => x * sigmoid,
            Activation::Gelu => 0.5 * x * (1.0 + erf_in_f64(x / 2f64.sqrt())),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::Relu => x.max(0.0),
            Activation::Sigmoid => sigmoid,
            Activation::Clip(limit) => x.clamp(-f64::from(limit), f64::from(limit)),
        }
    }

    #[test]
    fn activations_are_what_their_formulas_say() {
        use Activation::*;
        let x: Vec<f32> = (-30_001..30_000).map(|i| i as f32 * 1e-3).chain([-1e4, 1e4, 0.0]).collect();
        for level in Level::usable() {
            for activation in [Silu, Gelu, GeluTanh, Relu, Sigmoid, Clip(0.7)] {
                let mut y = x.clone();
                apply(level, &mut y, Function::Activation(activation));
                for (&x, &y) in x.iter().zip(&y) {
                    let expected = in_f64(activation, f64::from(x));
                    let close = (f64::from(y) - expected).abs() <= 3e-7 * expected.abs().max(1.0);
                    assert!(close, "{level:?} {activation:?}({x}) = {y}, not {expected}");
                }
            }
            for cap in [1.0, 30.0, 50.0] {
                let mut y = x.clone();
                apply(level, &mut y, Function::SoftCap(cap));
                for (&x, &y) in x.iter().zip(&y) {
                    let cap = f64::from(cap);
                    let expected = cap * (f64::from(x) / cap).tanh();
                    assert!((f64::from(y) - expected).abs() <= 3e-7 * cap, "{level:?} {cap} {x}: {y}");
                }
            }
        }
    }
}

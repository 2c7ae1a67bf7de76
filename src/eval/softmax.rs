//! Log-probabilities of rows of logits, and the divergence of two rows: f32 in lanes that the compiler vectorizes, sums in
//! f64. Every figure of a row comes from [`LogSoftmax::log_probability`], so that a row beside itself diverges by exactly 0.

/// Values that are worked on side by side.
const LANES: usize = 16;
/// Values whose f32 sums are added up before they go to f64: each lane adds 16.
const BLOCK: usize = 16 * LANES;

/// What turns the logits of a row into log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogSoftmax {
    /// The largest logit.
    pub max: f32,
    /// Where it first stands.
    pub top: usize,
    /// ln Σ e^logit.
    pub log_sum_exp: f32,
}

impl LogSoftmax {
    /// Of a row of at least one value. `None` where it holds NaN or +∞, or nothing but −∞.
    pub fn new(row: &[f32]) -> Option<LogSoftmax> {
        let (top, max) = largest(row)?;
        let sum = sum(row, |x| exp(x - max));
        let log_sum_exp = (f64::from(max) + sum.ln()) as f32;
        log_sum_exp.is_finite().then_some(LogSoftmax { max, top, log_sum_exp })
    }

    /// ln p of a logit of the row.
    pub fn log_probability(&self, logit: f32) -> f32 {
        logit - self.log_sum_exp
    }

    /// Σ p_base·(ln p_base − ln p) over the row, for the base's log-probabilities above `floor`.
    pub fn divergence(&self, row: &[f32], base: &[f32], floor: f32) -> f64 {
        sum_pairs(row, base, |x, b| {
            let p = exp(b);
            // Without p > 0, a base of −∞ would give 0·∞.
            if b > floor && p > 0.0 { p * (b - self.log_probability(x)) } else { 0.0 }
        })
    }
}

/// The first of the largest values; `None` in an empty row.
pub fn largest(row: &[f32]) -> Option<(usize, f32)> {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = if *x > *lane { *x } else { *lane });
    }
    let max = lanes.into_iter().chain(rest).fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|x| *x == max).map(|top| (top, max))
}

fn sum(row: &[f32], term: impl Fn(f32) -> f32) -> f64 {
    row.chunks(BLOCK)
        .map(|block| {
            let chunks = block.chunks_exact(LANES);
            let rest: f32 = chunks.remainder().iter().map(|x| term(*x)).sum();
            let mut lanes = [0f32; LANES];
            for chunk in chunks {
                lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += term(*x));
            }
            f64::from(lanes.iter().sum::<f32>() + rest)
        })
        .sum()
}

fn sum_pairs(row: &[f32], base: &[f32], term: impl Fn(f32, f32) -> f32) -> f64 {
    let blocks = row.chunks(BLOCK).zip(base.chunks(BLOCK));
    blocks
        .map(|(row, base)| {
            let (row, base) = (row.chunks_exact(LANES), base.chunks_exact(LANES));
            let rest: f32 = row.remainder().iter().zip(base.remainder()).map(|(x, b)| term(*x, *b)).sum();
            let mut lanes = [0f32; LANES];
            for (row, base) in row.zip(base) {
                (0..LANES).for_each(|i| lanes[i] += term(row[i], base[i]));
            }
            f64::from(lanes.iter().sum::<f32>() + rest)
        })
        .sum()
}

/// e^x to 2 units in the last place for x ≤ 88; 0 below −87.3, where f32 would become subnormal. NaN stays NaN.
///
/// x = n·ln 2 + r, |r| ≤ ½ ln 2; e^r by the polynomial of Cephes (<https://www.netlib.org/cephes/>, expf).
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Added, it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut series = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.3 { 0.0 } else { series * power }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Values of every size between −scale and scale.
    fn row(seed: u32, len: usize, scale: f32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next() * scale).collect()
    }

    fn plain_log_sum_exp(row: &[f32]) -> f64 {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(max) + row.iter().map(|x| f64::from(x - max).exp()).sum::<f64>().ln()
    }

    #[test]
    fn exponentials_are_close_to_the_libraries() {
        for i in 0..200_000 {
            let x = -87.3 + i as f32 * (175.0 / 200_000.0);
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / expected - 1.0).abs() < 2.4e-7, "e^{x}: {found}, expected {expected}");
        }
        assert_eq!([exp(0.0), exp(-88.0), exp(-1e30), exp(f32::NEG_INFINITY)], [1.0, 0.0, 0.0, 0.0]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_agree_with_a_plain_loop_for_any_length() {
        for len in [1, 2, 15, 16, 17, 255, 256, 257, 1000, 49152] {
            for scale in [0.0, 1e-3, 5.0, 80.0] {
                let row = row(len as u32, len, scale);
                let found = LogSoftmax::new(&row).unwrap();
                let expected = plain_log_sum_exp(&row);
                let bound = 3e-7 * expected.abs().max(1.0);
                assert!((f64::from(found.log_sum_exp) - expected).abs() < bound, "{len} of {scale}");
                assert_eq!(found.top, row.iter().position(|x| *x == found.max).unwrap());
            }
        }
        let worked = LogSoftmax::new(&[0.0, 3f32.ln()]).unwrap();
        assert!((worked.log_sum_exp - 4f32.ln()).abs() < 1e-6);
        assert_eq!((worked.top, worked.max), (1, 3f32.ln()));
    }

    #[test]
    fn ties_go_to_the_first() {
        assert_eq!(largest(&[1.0, 7.0, 7.0]), Some((1, 7.0)));
        assert_eq!(largest(&[]), None);
        let mut long = vec![0.0; 100];
        (long[40], long[97]) = (2.0, 2.0);
        assert_eq!(largest(&long), Some((40, 2.0)));
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            for place in [0, 5, 39] {
                let mut row = row(1, 40, 4.0);
                row[place] = bad;
                assert_eq!(LogSoftmax::new(&row), None, "{bad} at {place}");
            }
        }
        assert_eq!(LogSoftmax::new(&[f32::NEG_INFINITY; 20]), None);
        assert_eq!(LogSoftmax::new(&[]), None);
        assert!(LogSoftmax::new(&[f32::NEG_INFINITY, 1.0]).is_some(), "masked tokens are fine");
    }

    #[test]
    fn divergence_of_worked_distributions() {
        // ½ ½ against ¼ ¾: ½ ln 2 + ½ ln ⅔.
        let base = [0.5f32.ln(), 0.5f32.ln()];
        let row = [0.0, 3f32.ln()];
        let found = LogSoftmax::new(&row).unwrap().divergence(&row, &base, f32::NEG_INFINITY);
        assert!((found - (0.5 * 2f64.ln() + 0.5 * (2f64 / 3.0).ln())).abs() < 1e-6, "{found}");
        // What the base rules out counts nothing, whatever the model says of it.
        let base = [f32::NEG_INFINITY, 0.0];
        let found = LogSoftmax::new(&row).unwrap().divergence(&row, &base, f32::NEG_INFINITY);
        assert!((found - (4f64 / 3.0).ln()).abs() < 1e-6, "{found}");
    }

    #[test]
    fn divergence_agrees_with_a_plain_loop() {
        for len in [1, 17, 300, 5000] {
            let (a, b) = (row(1, len, 9.0), row(2, len, 9.0));
            let (of_a, of_b) = (LogSoftmax::new(&a).unwrap(), LogSoftmax::new(&b).unwrap());
            let base: Vec<f32> = b.iter().map(|x| of_b.log_probability(*x)).collect();
            let plain = |i: usize| {
                let base = f64::from(b[i]) - plain_log_sum_exp(&b);
                base.exp() * (base - (f64::from(a[i]) - plain_log_sum_exp(&a)))
            };
            let expected: f64 = (0..len).map(plain).sum();
            let found = of_a.divergence(&a, &base, f32::NEG_INFINITY);
            assert!((found - expected).abs() < 1e-5, "{len}: {found}, expected {expected}");
            assert_eq!(of_b.divergence(&b, &base, f32::NEG_INFINITY), 0.0, "itself");
        }
    }
}

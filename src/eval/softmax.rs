//! Log-probabilities of rows of logits, and the divergence of two rows. Values are f32, sums f64. Every figure of a row comes
//! from its [`LogSoftmax::log_probability`], so that a row beside itself diverges by exactly 0.

use crate::backend::cpu;

/// Values that are compared side by side.
const LANES: usize = 16;

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
        let log_sum_exp = cpu::log_sum_exp(row) as f32;
        log_sum_exp.is_finite().then_some(LogSoftmax { max, top, log_sum_exp })
    }

    /// ln p of a logit of the row.
    pub fn log_probability(&self, logit: f32) -> f32 {
        logit - self.log_sum_exp
    }

    /// Σ p_base·(ln p_base − ln p) over the row, for the base's log-probabilities above `floor`.
    pub fn divergence(&self, row: &[f32], base: &[f32], floor: f32) -> f64 {
        cpu::divergence(base, row, self.log_sum_exp, floor)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_worked_row() {
        let found = LogSoftmax::new(&[0.0, 3f32.ln()]).unwrap();
        assert!((found.log_sum_exp - 4f32.ln()).abs() < 1e-6);
        assert_eq!((found.top, found.max), (1, 3f32.ln()));
        assert!((found.log_probability(0.0) - 0.25f32.ln()).abs() < 1e-6);
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
                let mut row = [4.0; 40];
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
}

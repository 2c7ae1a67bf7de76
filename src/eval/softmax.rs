//! Log-probabilities of rows of logits, and the divergence of two rows. Values are f32, sums f64. All figures of a row use
//! [`LogSoftmax::log_probability`], so that the divergence of a row from itself is exactly 0.

use crate::backend::cpu;

/// The number of maxima that [`largest`] keeps in parallel.
const LANES: usize = 16;

/// The hint for logits that are not finite.
pub(super) const NOT_FINITE: &str =
    "its weights contain NaN or infinity (`llmc verify` finds them), or its activations overflow";

/// The log-softmax of a row of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LogSoftmax {
    /// The largest logit.
    pub max: f32,
    /// The first index of the largest logit.
    pub top: usize,
    /// ln Σ e^logit.
    pub log_sum_exp: f32,
}

impl LogSoftmax {
    /// Computes the log-softmax of a row. `None` if the row is empty, contains NaN or +∞, or only −∞.
    pub(crate) fn new(row: &[f32]) -> Option<LogSoftmax> {
        let (top, max) = largest(row)?;
        let log_sum_exp = cpu::log_sum_exp(row) as f32;
        log_sum_exp.is_finite().then_some(LogSoftmax { max, top, log_sum_exp })
    }

    /// ln p for a logit of the row.
    pub(crate) fn log_probability(&self, logit: f32) -> f32 {
        logit - self.log_sum_exp
    }

    /// Σ p_base·(ln p_base − ln p) over the entries of the row whose ln p_base is above `floor`.
    pub(crate) fn divergence(&self, row: &[f32], base: &[f32], floor: f32) -> f64 {
        cpu::divergence(base, row, self.log_sum_exp, floor)
    }
}

/// The index and value of the first maximum; `None` for an empty row.
pub(crate) fn largest(row: &[f32]) -> Option<(usize, f32)> {
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
    fn rows_without_a_softmax_are_refused() {
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
        // Base ½ ½, row ¼ ¾: ½ ln 2 + ½ ln ⅔.
        let base = [0.5f32.ln(), 0.5f32.ln()];
        let row = [0.0, 3f32.ln()];
        let found = LogSoftmax::new(&row).unwrap().divergence(&row, &base, f32::NEG_INFINITY);
        assert!((found - (0.5 * 2f64.ln() + 0.5 * (2f64 / 3.0).ln())).abs() < 1e-6, "{found}");
        // A token with base probability 0 adds nothing.
        let base = [f32::NEG_INFINITY, 0.0];
        let found = LogSoftmax::new(&row).unwrap().divergence(&row, &base, f32::NEG_INFINITY);
        assert!((found - (4f64 / 3.0).ln()).abs() < 1e-6, "{found}");
    }
}

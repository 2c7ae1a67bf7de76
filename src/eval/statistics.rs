//! Means, covariances and percentiles by the definitions of llama-perplexity
//! (<https://github.com/ggml-org/llama.cpp/blob/master/tools/perplexity/perplexity.cpp>). They use f64 and two passes, so
//! that long texts lose no digits.

use serde::{Deserialize, Serialize};

use crate::json::null_is_nan;

/// A value and its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// The standard error; NaN for fewer than two samples.
    #[serde(deserialize_with = "null_is_nan")]
    pub error: f64,
}

impl Estimate {
    /// e^x, with the error to first order.
    pub(crate) fn exp(self) -> Estimate {
        let value = self.value.exp();
        Estimate { value, error: value * self.error }
    }

    /// √x, with the error to first order.
    pub(crate) fn sqrt(self) -> Estimate {
        let value = self.value.sqrt();
        let error = if self.error == 0.0 { 0.0 } else { 0.5 / value * self.error };
        Estimate { value, error }
    }

    /// self − other, given their covariance.
    pub(crate) fn minus(self, other: Estimate, covariance: f64) -> Estimate {
        let variance = self.error * self.error + other.error * other.error - 2.0 * covariance;
        // Rounding may make the variance of equal samples negative.
        Estimate { value: self.value - other.value, error: variance.max(0.0).sqrt() }
    }
}

/// The mean, with standard error σ/√(n−1) for σ² = E\[x²\] − E\[x\]².
pub(crate) fn mean(values: &[f64]) -> Estimate {
    let value = average(values.iter().copied(), values.len());
    Estimate { value, error: covariance(values, values).sqrt() }
}

/// The covariance of the means of two paired samples: (E\[xy\] − E\[x\]·E\[y\])/(n−1).
pub(crate) fn covariance(x: &[f64], y: &[f64]) -> f64 {
    let n = x.len();
    if n < 2 {
        return f64::NAN;
    }
    let (mean_x, mean_y) = (average(x.iter().copied(), n), average(y.iter().copied(), n));
    let products = x.iter().zip(y).map(|(x, y)| (x - mean_x) * (y - mean_y));
    average(products, n) / (n - 1) as f64
}

fn average(values: impl Iterator<Item = f64>, n: usize) -> f64 {
    values.sum::<f64>() / n as f64
}

/// The share p = hits/of, with the error of a binomial: √(p(1−p)/(n−1)).
pub(crate) fn share(hits: usize, of: usize) -> Estimate {
    let value = hits as f64 / of as f64;
    let error = if of < 2 { f64::NAN } else { (value * (1.0 - value) / (of - 1) as f64).sqrt() };
    Estimate { value, error }
}

/// The percentile of `sorted` (ascending, not empty), interpolated between the neighbours of index percent/100·(n−1).
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let place = (percent / 100.0).clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = place as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let share = place - below as f64;
    if share == 0.0 { sorted[below] } else { (1.0 - share) * sorted[below] + share * sorted[above] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "expected {expected}, found {found}");
    }

    #[test]
    fn the_error_of_a_mean() {
        // E[x] = 2, E[x²] = 14/3, σ² = 2/3, σ²/(n−1) = 1/3.
        let found = mean(&[1.0, 2.0, 3.0]);
        close(found.value, 2.0);
        close(found.error, (1.0f64 / 3.0).sqrt());
        assert!(mean(&[5.0]).error.is_nan());
        // A large offset costs no digits.
        close(mean(&[1e9 + 1.0, 1e9 + 2.0, 1e9 + 3.0]).error, (1.0f64 / 3.0).sqrt());
    }

    #[test]
    fn covariances_and_differences() {
        // x − E = −1 0 1, y − E = −2 −1 3: the mean of the products is 5/3; divided by n−1: 5/6.
        let (x, y) = ([1.0, 2.0, 3.0], [2.0, 3.0, 7.0]);
        close(covariance(&x, &y), 5.0 / 6.0);
        // Var(x̄) = 1/3, Var(ȳ) = (14/3)/2 = 7/3. The paired differences are 1 1 4: σ² = 2; divided by 2: 1.
        let difference = mean(&y).minus(mean(&x), covariance(&x, &y));
        close(difference.value, 2.0);
        close(difference.error, 1.0);
        assert_eq!(mean(&x).minus(mean(&x), covariance(&x, &x)), Estimate { value: 0.0, error: 0.0 });
    }

    #[test]
    fn errors_propagate_to_first_order() {
        let e = Estimate { value: 2.0f64.ln(), error: 0.1 }.exp();
        close(e.value, 2.0);
        close(e.error, 0.2);
        assert_eq!(Estimate { value: 4.0, error: 0.4 }.sqrt(), Estimate { value: 2.0, error: 0.1 });
        assert_eq!(Estimate { value: 0.0, error: 0.0 }.sqrt(), Estimate { value: 0.0, error: 0.0 });
    }

    #[test]
    fn binomial_shares() {
        let found = share(4, 5);
        close(found.value, 0.8);
        close(found.error, 0.2);
        assert_eq!(share(3, 3).error, 0.0);
    }

    #[test]
    fn percentiles_are_interpolated() {
        let sorted = [10.0, 20.0, 30.0, 40.0, 60.0];
        for (percent, expected) in
            [(0.0, 10.0), (25.0, 20.0), (50.0, 30.0), (60.0, 34.0), (90.0, 52.0), (100.0, 60.0)]
        {
            close(percentile(&sorted, percent), expected);
        }
        assert_eq!(percentile(&[7.0], 99.9), 7.0);
        // The median of an even count is the mean of the middle two.
        close(percentile(&[1.0, 2.0, 4.0, 8.0], 50.0), 3.0);
        assert_eq!(percentile(&[0.0, f64::INFINITY], 0.0), 0.0, "no 0·∞");
    }
}

//! [`Times`]: the time of several runs of the same work.

use serde::Serialize;

/// Seconds of one piece of work, over several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Times {
    /// Median of the runs, in seconds.
    pub median: f64,
    /// The fastest run.
    pub fastest: f64,
    /// The slowest run.
    pub slowest: f64,
    /// Number of runs.
    pub runs: usize,
}

impl Times {
    /// Summarizes runs; returns `None` if there are none.
    pub(crate) fn of(mut seconds: Vec<f64>) -> Option<Times> {
        seconds.sort_by(f64::total_cmp);
        let (fastest, slowest) = (*seconds.first()?, *seconds.last()?);
        let half = seconds.len() / 2;
        let median = match seconds.len() % 2 {
            1 => seconds[half],
            _ => (seconds[half - 1] + seconds[half]) / 2.0,
        };
        Some(Times { median, fastest, slowest, runs: seconds.len() })
    }

    /// Returns (slowest − fastest)/median: 0.02 is a spread of 2 %.
    pub(crate) fn spread(&self) -> f64 {
        (self.slowest - self.fastest) / self.median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        assert_eq!(Times::of(vec![]), None);
        let one = Times::of(vec![2.0]).map(|t| (t.median, t.spread()));
        assert_eq!(one, Some((2.0, 0.0)));
        let four = Times { median: 2.5, fastest: 1.0, slowest: 6.0, runs: 4 };
        assert_eq!(Times::of(vec![6.0, 2.0, 1.0, 3.0]), Some(four));
        assert_eq!(four.spread(), 2.0);
    }
}

//! The sources of `--data`, with weights, and the number of sequences from each.

use crate::error::{Error, Result};

/// A source, and what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// Its name, without its weight.
    pub source: String,
    /// Sequences that it is to give.
    pub samples: usize,
}

/// Parses `SOURCE` or `WEIGHT*SOURCE`, and divides the samples by the weights, which need not add up to anything: rounded
/// down, the rest to the largest remainders, of equals to the first.
///
/// # Errors
/// No source, a weight that is not above zero, a source whose part is less than one sequence.
pub(crate) fn shares(data: &[String], samples: usize) -> Result<Vec<Share>> {
    let weighted = data.iter().map(|spec| parse(spec)).collect::<Result<Vec<_>>>()?;
    if weighted.is_empty() {
        let hint = "name a text with --data, a hub dataset, or --data self, which the model writes";
        return Err(Error::usage("nothing to calibrate on", hint));
    }
    let counts = divide(&weighted.iter().map(|(weight, _)| *weight).collect::<Vec<_>>(), samples);
    if let Some(nothing) = counts.iter().position(|count| *count == 0) {
        let what = format!("{}: its part of {samples} sequences is less than one", weighted[nothing].1);
        return Err(Error::usage(what, "raise --samples or its weight, or leave it out"));
    }
    let shares = weighted.into_iter().zip(counts);
    Ok(shares.map(|((_, source), samples)| Share { source, samples }).collect())
}

/// A path or hub id may hold `*`, but not after what is a number.
fn parse(spec: &str) -> Result<(f64, String)> {
    let Some((number, source)) = spec.split_once('*') else { return Ok((1.0, spec.to_owned())) };
    let Ok(weight) = number.trim().parse::<f64>() else { return Ok((1.0, spec.to_owned())) };
    if !(weight > 0.0 && weight.is_finite()) || source.is_empty() {
        let what = format!("--data {spec}: expected a weight above zero and a source");
        return Err(Error::usage(what, "two parts of three from a, one from b: --data 2*a.txt --data b.txt"));
    }
    Ok((weight, source.to_owned()))
}

fn divide(weights: &[f64], samples: usize) -> Vec<usize> {
    let largest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let total: f64 = weights.iter().map(|weight| weight / largest).sum();
    let exact: Vec<f64> = weights.iter().map(|weight| weight / largest / total * samples as f64).collect();
    let mut counts: Vec<usize> = exact.iter().map(|part| part.floor() as usize).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    let remainder = |source: &usize| exact[*source] - exact[*source].floor();
    order.sort_by(|a, b| remainder(b).total_cmp(&remainder(a)).then(a.cmp(b)));
    let left = samples.saturating_sub(counts.iter().sum());
    order.iter().take(left).for_each(|source| counts[*source] += 1);
    counts
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(data: &[&str], samples: usize, expected: &[(&str, usize)]) {
        let data: Vec<String> = data.iter().map(|spec| spec.to_string()).collect();
        let found = shares(&data, samples).unwrap();
        let found: Vec<_> = found.iter().map(|share| (share.source.as_str(), share.samples)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn weights_divide_the_samples() {
        check(&["a.txt"], 128, &[("a.txt", 128)]);
        check(&["a", "b", "c"], 128, &[("a", 43), ("b", 43), ("c", 42)]);
        check(&["0.7*a", "0.3*org/b:train"], 10, &[("a", 7), ("org/b:train", 3)]);
        check(&["2*a", "b", "5e-1*self"], 7, &[("a", 4), ("b", 2), ("self", 1)]);
        check(&["1e308*a", "1e308*b"], 3, &[("a", 2), ("b", 1)]);
        check(&["dir/*a", "n*m"], 2, &[("dir/*a", 1), ("n*m", 1)]);
    }

    #[test]
    fn what_divides_nothing_is_an_error() {
        let check = |data: &[&str], samples: usize, expected: &str| {
            let data: Vec<String> = data.iter().map(|spec| spec.to_string()).collect();
            let error = shares(&data, samples).unwrap_err();
            assert!(error.to_string().contains(expected) && error.exit_code() == 2, "{error}");
        };
        check(&[], 8, "nothing to calibrate on");
        for wrong in ["-1*a", "0*a", "nan*a", "inf*a", "1*"] {
            check(&[wrong], 8, "expected a weight above zero and a source");
        }
        check(&["a", "0.01*b"], 8, "b: its part of 8 sequences is less than one");
        check(&["a"], 0, "its part of 0 sequences");
    }
}

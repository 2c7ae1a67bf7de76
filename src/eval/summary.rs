//! From one score per target to what is reported: perplexity, and its comparison with a base as the KL mode of
//! llama-perplexity prints it.

use serde::{Deserialize, Serialize};

use crate::json::null_is_nan;

use super::statistics::{Estimate, covariance, mean, percentile, share};

/// What the tails of the divergence are read at, in %.
const KLD_PERCENTILES: &[f64] = &[99.9, 99.0, 95.0, 90.0, 10.0, 5.0, 1.0, 0.1];
/// The same for Δp.
const DELTA_P_PERCENTILES: &[f64] = &[99.9, 99.0, 95.0, 90.0, 75.0, 25.0, 10.0, 5.0, 1.0, 0.1];

/// What a target scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Negative log-likelihood of the token that stands there, in nats.
    pub nll: f64,
    /// The same position by the base.
    pub against: Option<Against>,
}

/// A position of the model beside that of its base.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Against {
    /// Negative log-likelihood by the base.
    pub nll: f64,
    /// Σ p_base·(ln p_base − ln p) over the vocabulary.
    pub kld: f64,
    /// Whether both find the same token likeliest.
    pub same_top: bool,
}

impl Score {
    /// p − p_base of the token that stands there.
    pub fn delta_p(&self) -> Option<f64> {
        self.against.map(|base| (-self.nll).exp() - (-base.nll).exp())
    }
}

/// e^(mean NLL).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// The perplexity.
    pub perplexity: Estimate,
    /// Its logarithm: the mean NLL in nats.
    pub nll: Estimate,
}

impl Perplexity {
    /// Of the NLL of each target.
    pub fn new(nll: &[f64]) -> Perplexity {
        let nll = mean(nll);
        Perplexity { perplexity: nll.exp(), nll }
    }
}

/// One percentile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percentile {
    /// How many % lie below.
    pub percent: f64,
    /// The value there.
    pub value: f64,
}

/// How the values of a quantity are spread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Their mean.
    pub mean: Estimate,
    /// The largest.
    pub maximum: f64,
    /// Half are larger.
    pub median: f64,
    /// The smallest.
    pub minimum: f64,
    /// The rest of them, falling.
    pub percentiles: Vec<Percentile>,
}

impl Distribution {
    /// Of one value or more.
    fn new(mut values: Vec<f64>, percents: &[f64]) -> Distribution {
        let mean = mean(&values);
        values.sort_unstable_by(f64::total_cmp);
        let at = |percent: &f64| Percentile { percent: *percent, value: percentile(&values, *percent) };
        Distribution {
            mean,
            maximum: percentile(&values, 100.0),
            median: percentile(&values, 50.0),
            minimum: percentile(&values, 0.0),
            percentiles: percents.iter().map(at).collect(),
        }
    }
}

/// A model beside its base, over the same targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The base's own perplexity.
    pub base: Perplexity,
    /// Correlation of the two mean NLLs, −1 to 1.
    #[serde(deserialize_with = "null_is_nan")]
    pub correlation: f64,
    /// ln(PPL/PPL_base).
    pub ln_ratio: Estimate,
    /// PPL/PPL_base.
    pub ratio: Estimate,
    /// PPL − PPL_base.
    pub difference: Estimate,
    /// KL divergence from the base, in nats.
    pub kld: Distribution,
    /// p − p_base of the right token.
    pub delta_p: Distribution,
    /// Root of the mean of Δp².
    pub delta_p_rms: Estimate,
    /// Share of positions where both find the same token likeliest.
    pub same_top: Estimate,
}

/// What all scores come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many there were.
    pub targets: usize,
    /// The model's.
    #[serde(flatten)]
    pub model: Perplexity,
    /// Where every score has a base beside it.
    pub against: Option<Comparison>,
}

impl Summary {
    /// Of one score or more.
    pub fn new(scores: &[Score]) -> Summary {
        let nll: Vec<f64> = scores.iter().map(|score| score.nll).collect();
        let base: Option<Vec<Against>> = scores.iter().map(|score| score.against).collect();
        let against = base.map(|base| {
            let delta_p = scores.iter().filter_map(Score::delta_p).collect();
            compare(&nll, &base, delta_p)
        });
        Summary { targets: scores.len(), model: Perplexity::new(&nll), against }
    }
}

fn compare(nll: &[f64], against: &[Against], delta_p: Vec<f64>) -> Comparison {
    let nll_base: Vec<f64> = against.iter().map(|base| base.nll).collect();
    let (model, base) = (Perplexity::new(nll), Perplexity::new(&nll_base));
    let covariance = covariance(nll, &nll_base);
    let ln_ratio = model.nll.minus(base.nll, covariance);
    let squares: Vec<f64> = delta_p.iter().map(|delta| delta * delta).collect();
    let same = against.iter().filter(|base| base.same_top).count();
    Comparison {
        base,
        correlation: covariance / (model.nll.error * base.nll.error),
        ln_ratio,
        ratio: ln_ratio.exp(),
        difference: model
            .perplexity
            .minus(base.perplexity, model.perplexity.value * base.perplexity.value * covariance),
        kld: Distribution::new(against.iter().map(|base| base.kld).collect(), KLD_PERCENTILES),
        delta_p: Distribution::new(delta_p, DELTA_P_PERCENTILES),
        delta_p_rms: mean(&squares).sqrt(),
        same_top: share(same, against.len()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "expected {expected}, found {found}");
    }

    fn score(p: f64, p_base: f64, kld: f64, same_top: bool) -> Score {
        Score { nll: -p.ln(), against: Some(Against { nll: -p_base.ln(), kld, same_top }) }
    }

    #[test]
    fn perplexity_of_known_probabilities() {
        // Probabilities ½, ¼, ⅛: the mean NLL is 2 ln 2, with σ² = ⅔ ln² 2.
        let scores = [0.5, 0.25, 0.125].map(|p: f64| Score { nll: -p.ln(), against: None });
        let found = Summary::new(&scores);
        close(found.model.perplexity.value, 4.0);
        close(found.model.perplexity.error, 4.0 * 2f64.ln() * (1.0f64 / 3.0).sqrt());
        assert_eq!((found.targets, found.against), (3, None));
    }

    #[test]
    fn a_comparison_worked_by_hand() {
        // NLL in units of ln 2: 2 3 4 against 1 1 4: paired differences 1 2 0, of mean 1 and σ² = 2/3.
        let scores =
            [score(0.25, 0.5, 0.3, true), score(0.125, 0.5, 0.1, true), score(0.0625, 0.0625, 0.2, false)];
        let found = Summary::new(&scores).against.unwrap();
        let ln2 = 2f64.ln();
        close(found.base.perplexity.value, 4.0);
        close(found.ln_ratio.value, ln2);
        close(found.ln_ratio.error, ln2 * (1.0f64 / 3.0).sqrt());
        close(found.ratio.value, 2.0);
        close(found.ratio.error, 2.0 * ln2 * (1.0f64 / 3.0).sqrt());
        // PPL 8 and 4; Var: ⅓, 1 and covariance 3/3/2 = ½, in ln² 2: 64/3 + 16 − 2·32·½ = 16/3.
        close(found.difference.value, 4.0);
        close(found.difference.error, ln2 * (16.0f64 / 3.0).sqrt());
        close(found.correlation, 0.5 / (1.0f64 / 3.0).sqrt());
        close(found.kld.mean.value, 0.2);
        assert_eq!((found.kld.maximum, found.kld.median, found.kld.minimum), (0.3, 0.2, 0.1));
        assert_eq!(found.kld.percentiles[3].percent, 90.0);
        close(found.kld.percentiles[3].value, 0.28);
        // Δp: −¼ −⅜ 0.
        close(found.delta_p.mean.value, -0.625 / 3.0);
        close(found.delta_p_rms.value, ((0.0625 + 0.140625) / 3.0f64).sqrt());
        close(found.same_top.value, 2.0 / 3.0);
        close(found.same_top.error, 1.0 / 3.0);
    }

    #[test]
    fn a_model_beside_itself() {
        let scores = [score(0.5, 0.5, 0.0, true), score(0.25, 0.25, 0.0, true)];
        let found = Summary::new(&scores).against.unwrap();
        assert_eq!(found.ln_ratio, Estimate { value: 0.0, error: 0.0 });
        assert_eq!(found.delta_p_rms, Estimate { value: 0.0, error: 0.0 });
        close(found.correlation, 1.0);
    }
}

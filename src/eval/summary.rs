//! Summarizes the scores of all targets: perplexity, and the comparison with a base, with the figures of llama-perplexity's
//! KL mode.

use serde::{Deserialize, Serialize};

use crate::json::null_is_nan;

use super::statistics::{Estimate, covariance, mean, percentile, share};

const KLD_PERCENTILES: &[f64] = &[99.9, 99.0, 95.0, 90.0, 10.0, 5.0, 1.0, 0.1];
const DELTA_P_PERCENTILES: &[f64] = &[99.9, 99.0, 95.0, 90.0, 75.0, 25.0, 10.0, 5.0, 1.0, 0.1];

/// The score of a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The negative log-likelihood of the target, in nats.
    pub nll: f64,
    /// The comparison with the base.
    pub base: Option<BaseScore>,
}

/// The comparison of a target's score with the base.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BaseScore {
    /// The base's negative log-likelihood.
    pub nll: f64,
    /// Σ p_base·(ln p_base − ln p) over the vocabulary.
    pub kld: f64,
    /// True if both models rank the same token first.
    pub same_top: bool,
}

impl Score {
    /// p − p_base of the target.
    pub fn delta_p(&self) -> Option<f64> {
        self.base.map(|base| (-self.nll).exp() - (-base.nll).exp())
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
    /// Computes the perplexity from the NLL of each target.
    pub fn new(nll: &[f64]) -> Perplexity {
        let nll = mean(nll);
        Perplexity { perplexity: nll.exp(), nll }
    }
}

/// One percentile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percentile {
    /// The share of smaller values, in %.
    pub percent: f64,
    /// The value.
    pub value: f64,
}

/// The distribution of a quantity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The mean.
    pub mean: Estimate,
    /// The largest value.
    pub maximum: f64,
    /// The median.
    pub median: f64,
    /// The smallest value.
    pub minimum: f64,
    /// Other percentiles, in descending order.
    pub percentiles: Vec<Percentile>,
}

impl Distribution {
    /// Summarizes at least one value.
    fn new(mut values: Vec<f64>, percents: &[f64]) -> Distribution {
        let mean = mean(&values);
        values.sort_unstable_by(f64::total_cmp);
        let percentiles =
            percents.iter().map(|&percent| Percentile { percent, value: percentile(&values, percent) });
        Distribution {
            mean,
            maximum: percentile(&values, 100.0),
            median: percentile(&values, 50.0),
            minimum: percentile(&values, 0.0),
            percentiles: percentiles.collect(),
        }
    }
}

/// The comparison of a model with its base, over the same targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The base's perplexity.
    pub base: Perplexity,
    /// The correlation of the two mean NLLs, −1 to 1.
    #[serde(deserialize_with = "null_is_nan")]
    pub correlation: f64,
    /// ln(PPL/PPL_base).
    pub ln_ratio: Estimate,
    /// PPL/PPL_base.
    pub ratio: Estimate,
    /// PPL − PPL_base.
    pub difference: Estimate,
    /// The KL divergence from the base, in nats.
    pub kld: Distribution,
    /// p − p_base of the target.
    pub delta_p: Distribution,
    /// The root of the mean of Δp².
    pub delta_p_rms: Estimate,
    /// The share of targets where both models rank the same token first.
    pub same_top: Estimate,
}

/// The summary of all scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The number of scores.
    pub targets: usize,
    /// The model's perplexity.
    #[serde(flatten)]
    pub model: Perplexity,
    /// The comparison with the base, if every score has one.
    #[serde(rename = "against")]
    pub comparison: Option<Comparison>,
}

impl Summary {
    /// Summarizes at least one score.
    pub fn new(scores: &[Score]) -> Summary {
        let nll: Vec<f64> = scores.iter().map(|score| score.nll).collect();
        let base_scores: Option<Vec<BaseScore>> = scores.iter().map(|score| score.base).collect();
        let comparison = base_scores.map(|base_scores| {
            let delta_p = scores.iter().filter_map(Score::delta_p).collect();
            compare(&nll, &base_scores, delta_p)
        });
        Summary { targets: scores.len(), model: Perplexity::new(&nll), comparison }
    }
}

fn compare(nll: &[f64], base_scores: &[BaseScore], delta_p: Vec<f64>) -> Comparison {
    let nll_base: Vec<f64> = base_scores.iter().map(|base| base.nll).collect();
    let model = Perplexity::new(nll);
    let base = Perplexity::new(&nll_base);
    let covariance = covariance(nll, &nll_base);
    let ln_ratio = model.nll.minus(base.nll, covariance);
    let squares: Vec<f64> = delta_p.iter().map(|delta| delta * delta).collect();
    let same = base_scores.iter().filter(|base| base.same_top).count();
    Comparison {
        base,
        correlation: covariance / (model.nll.error * base.nll.error),
        ln_ratio,
        ratio: ln_ratio.exp(),
        difference: model
            .perplexity
            .minus(base.perplexity, model.perplexity.value * base.perplexity.value * covariance),
        kld: Distribution::new(base_scores.iter().map(|base| base.kld).collect(), KLD_PERCENTILES),
        delta_p: Distribution::new(delta_p, DELTA_P_PERCENTILES),
        delta_p_rms: mean(&squares).sqrt(),
        same_top: share(same, base_scores.len()),
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
        Score { nll: -p.ln(), base: Some(BaseScore { nll: -p_base.ln(), kld, same_top }) }
    }

    #[test]
    fn perplexity_of_known_probabilities() {
        // Probabilities ½, ¼, ⅛: the mean NLL is 2 ln 2, with σ² = ⅔ ln² 2.
        let scores = [0.5, 0.25, 0.125].map(|p: f64| Score { nll: -p.ln(), base: None });
        let found = Summary::new(&scores);
        close(found.model.perplexity.value, 4.0);
        close(found.model.perplexity.error, 4.0 * 2f64.ln() * (1.0f64 / 3.0).sqrt());
        assert_eq!((found.targets, found.comparison), (3, None));
    }

    #[test]
    fn a_comparison_worked_by_hand() {
        // NLL in units of ln 2: model 2 3 4, base 1 1 4. The differences are 1 2 0, with mean 1 and σ² = 2/3.
        let scores =
            [score(0.25, 0.5, 0.3, true), score(0.125, 0.5, 0.1, true), score(0.0625, 0.0625, 0.2, false)];
        let found = Summary::new(&scores).comparison.unwrap();
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
    fn a_model_compared_with_itself() {
        let scores = [score(0.5, 0.5, 0.0, true), score(0.25, 0.25, 0.0, true)];
        let found = Summary::new(&scores).comparison.unwrap();
        assert_eq!(found.ln_ratio, Estimate { value: 0.0, error: 0.0 });
        assert_eq!(found.delta_p_rms, Estimate { value: 0.0, error: 0.0 });
        close(found.correlation, 1.0);
    }
}

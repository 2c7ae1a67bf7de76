//! Chooses the next token: greedily, or at random from the softmax of the logits with temperature, top-k and top-p.
//!
//! The order is that of transformers: temperature, then top-k, then the nucleus (Holtzman et al. 2020, "The Curious
//! Case of Neural Text Degeneration", <https://arxiv.org/abs/1904.09751>): the smallest set of likeliest tokens whose
//! probabilities reach p. The same seed and logits give the same tokens, on every machine and in every version.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::numerics::random::SplitMix64;

/// Sampling settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// The divisor of the logits; 0 always chooses the likeliest token.
    pub temperature: f32,
    /// The probability mass to choose from, in (0, 1]; 1 keeps all tokens.
    pub top_p: f32,
    /// The number of likeliest tokens to choose from; 0 keeps all.
    pub top_k: usize,
    /// The seed of the random numbers.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, seed: 0 };
}

/// Chooses tokens by [`Sampling`], with its own random numbers.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
}

/// A token and its share, which is not normalized.
type Candidate = (u32, f64);

impl Sampler {
    /// Checks the settings.
    ///
    /// # Errors
    /// A temperature below 0, a top-p outside (0, 1].
    pub fn new(sampling: Sampling) -> Result<Sampler> {
        let Sampling { temperature, top_p, seed, .. } = sampling;
        if !(temperature.is_finite() && temperature >= 0.0) {
            let what = format!("temperature {temperature}: expected 0 or more");
            return Err(Error::usage(what, "0 chooses the likeliest token; 0.7 or 1 are usual"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            let what = format!("top-p {top_p}: expected more than 0 and at most 1");
            return Err(Error::usage(what, "1 keeps all tokens; 0.9 is usual"));
        }
        Ok(Sampler { sampling, random: SplitMix64(seed) })
    }

    /// Draws the random numbers of tokens that were chosen before.
    pub(crate) fn skip(&mut self, tokens: usize) {
        for _ in 0..tokens {
            self.random.unit();
        }
    }

    /// Chooses the next token from the logits of the whole vocabulary. Draws one random number, unless greedy.
    ///
    /// # Errors
    /// A logit that is NaN or +∞: the model is broken, and a choice would hide it.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        let best = likeliest(logits)?;
        if self.sampling.temperature == 0.0 {
            return Ok(best);
        }
        let mut candidates = self.shares(logits, logits[best as usize]);
        self.keep_top_k(&mut candidates);
        self.keep_nucleus(&mut candidates);
        Ok(draw(&candidates, self.random.unit()))
    }

    /// exp((logit − max) / temperature), in the vocabulary's order.
    fn shares(&self, logits: &[f32], max: f32) -> Vec<Candidate> {
        let temperature = f64::from(self.sampling.temperature);
        (0..).zip(logits.iter().map(|&logit| (f64::from(logit - max) / temperature).exp())).collect()
    }

    fn keep_top_k(&self, candidates: &mut Vec<Candidate>) {
        let k = self.sampling.top_k;
        if (1..candidates.len()).contains(&k) {
            candidates.select_nth_unstable_by(k - 1, likelier);
            candidates.truncate(k);
            candidates.sort_unstable_by(likelier);
        }
    }

    /// Keeps the likeliest candidates, up to and including the one that makes their sum reach p.
    fn keep_nucleus(&self, candidates: &mut Vec<Candidate>) {
        let p = f64::from(self.sampling.top_p);
        if p == 1.0 {
            return;
        }
        let total = total(candidates);
        // Candidates under (1 − p)/n sum to less than 1 − p, so the rest reaches p without them: they need no sorting.
        let least = total * (1.0 - p) / candidates.len() as f64;
        candidates.retain(|(_, share)| *share >= least);
        candidates.sort_unstable_by(likelier);
        let mut sum = 0.0;
        let reached = candidates.iter().position(|(_, share)| {
            sum += share;
            sum >= p * total
        });
        candidates.truncate(reached.map_or(candidates.len(), |last| last + 1));
    }
}

fn likeliest(logits: &[f32]) -> Result<u32> {
    if let Some(at) = logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY) {
        return Err(broken(&format!("{} as the logit of token {at}", logits[at])));
    }
    let best = (0..).zip(logits).reduce(|best: (u32, &f32), next| if next.1 > best.1 { next } else { best });
    match best {
        Some((id, logit)) if logit.is_finite() => Ok(id),
        _ => Err(broken("no finite logit")),
    }
}

fn broken(what: &str) -> Error {
    let hint = "the weights are damaged or compressed too much: `llmc verify` lists the bad tensors";
    Error::unsupported(format!("the model computed {what}"), hint)
}

/// Orders the likelier candidate first; equal ones by id.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|(_, share)| share).sum()
}

/// The candidate whose share contains `unit`, in [0, 1); the shares lie side by side, scaled to a sum of 1.
fn draw(candidates: &[Candidate], unit: f64) -> u32 {
    let mut left = unit * total(candidates);
    let hit = candidates.iter().find(|(_, share)| {
        left -= share;
        left < 0.0
    });
    // Rounding may leave a rest at the end: then the last candidate with a share is chosen.
    let hit = hit.or_else(|| candidates.iter().rfind(|(_, share)| *share > 0.0));
    hit.expect("the likeliest has a share of 1").0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Probabilities that sum to 1. Their logarithms are the test's logits.
    const HALVES: [f64; 5] = [0.125, 0.5, 0.0625, 0.25, 0.0625];

    fn logits() -> Vec<f32> {
        HALVES.iter().map(|p| p.ln() as f32 + 3.0).collect()
    }

    fn sampler(temperature: f32, top_p: f32, top_k: usize) -> Sampler {
        Sampler::new(Sampling { temperature, top_p, top_k, seed: 1 }).unwrap()
    }

    /// The share of draws of each token.
    fn frequencies(mut sampler: Sampler, logits: &[f32]) -> Vec<f64> {
        const DRAWS: usize = 20_000;
        let mut counts = vec![0.0; logits.len()];
        (0..DRAWS).for_each(|_| counts[sampler.choose(logits).unwrap() as usize] += 1.0 / DRAWS as f64);
        counts
    }

    fn check(sampler: Sampler, expected: [f64; 5]) {
        let found = frequencies(sampler, &logits());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            // Four standard deviations of a share of 20 000 draws are at most 0.014.
            assert!((found - expected).abs() <= 0.015, "token {i}: {found}, expected {expected}");
            assert!(expected > 0.0 || *found == 0.0, "token {i} must never be chosen");
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let mut greedy = Sampler::new(Sampling::GREEDY).unwrap();
        assert_eq!(greedy.choose(&logits()).unwrap(), 1);
        assert_eq!(greedy.choose(&[f32::NEG_INFINITY, 2.0, 7.0, 7.0]).unwrap(), 2);
        assert_eq!(greedy.choose(&[-1e30]).unwrap(), 0);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        check(sampler(1.0, 1.0, 0), HALVES);
        check(sampler(1.0, 1.0, 99), HALVES);
    }

    #[test]
    fn temperature_sharpens_and_flattens() {
        // Temperature ½ squares p: (1/64, 1/4, 1/256, 1/16, 1/256) over their sum, 86/256.
        check(sampler(0.5, 1.0, 0), [4.0 / 86.0, 64.0 / 86.0, 1.0 / 86.0, 16.0 / 86.0, 1.0 / 86.0]);
        check(sampler(1e6, 1.0, 0), [0.2; 5]);
        check(sampler(1e-6, 1.0, 0), [0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn top_k_takes_the_likeliest_and_of_equals_the_first() {
        check(sampler(1.0, 1.0, 1), [0.0, 1.0, 0.0, 0.0, 0.0]);
        check(sampler(1.0, 1.0, 2), [0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0, 0.0]);
        check(sampler(1.0, 1.0, 4), [2.0 / 15.0, 8.0 / 15.0, 1.0 / 15.0, 4.0 / 15.0, 0.0]);
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_reaches_p() {
        check(sampler(1.0, 0.01, 0), [0.0, 1.0, 0.0, 0.0, 0.0]);
        check(sampler(1.0, 0.49, 0), [0.0, 1.0, 0.0, 0.0, 0.0]);
        check(sampler(1.0, 0.7, 0), [0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0, 0.0]);
        check(sampler(1.0, 0.8, 0), [1.0 / 7.0, 4.0 / 7.0, 0.0, 2.0 / 7.0, 0.0]);
        check(sampler(1.0, 0.9, 0), [2.0 / 15.0, 8.0 / 15.0, 1.0 / 15.0, 4.0 / 15.0, 0.0]);
        check(sampler(1.0, 0.99, 0), HALVES);
    }

    #[test]
    fn the_nucleus_is_chosen_after_temperature_and_top_k() {
        // The first of the two likeliest has 2/3.
        check(sampler(1.0, 0.6, 2), [0.0, 1.0, 0.0, 0.0, 0.0]);
        // At temperature ½ the first has 64/86 = 0.74.
        check(sampler(0.5, 0.7, 0), [0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_nucleus_found_without_sorting_all_is_the_same() {
        let mut random = SplitMix64(7);
        let logits: Vec<f32> = (0..1000).map(|_| (random.unit() * 12.0) as f32).collect();
        for p in [0.05f32, 0.3, 0.6, 0.9, 0.999] {
            let sampler = sampler(1.0, p, 0);
            let mut kept = sampler.shares(&logits, likeliest(&logits).map(|id| logits[id as usize]).unwrap());
            let whole = total(&kept);
            let mut all = kept.clone();
            all.sort_by(likelier);
            let mut sum = 0.0;
            let fewest = all.iter().take_while(|(_, share)| {
                let before = sum;
                sum += share;
                before < f64::from(p) * whole
            });
            let fewest: Vec<Candidate> = fewest.copied().collect();
            sampler.keep_nucleus(&mut kept);
            assert_eq!(kept, fewest, "p = {p}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_tokens() {
        let run = |seed| {
            let mut sampler = Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::GREEDY }).unwrap();
            (0..20).map(|_| sampler.choose(&logits()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }

    #[test]
    fn bad_logits_and_settings_are_errors() {
        for logits in [&[1.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 2], &[]] {
            let error = Sampler::new(Sampling::GREEDY).unwrap().choose(logits).unwrap_err();
            assert!(error.to_string().contains("the model computed"), "{error}");
        }
        for (temperature, top_p) in [(-1.0, 1.0), (f32::NAN, 1.0), (1.0, 0.0), (1.0, 1.1), (1.0, f32::NAN)] {
            let error = Sampler::new(Sampling { temperature, top_p, top_k: 0, seed: 0 }).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }
}

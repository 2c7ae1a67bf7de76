//! The scores of questions and their means: pure arithmetic. The definitions are those of lm-evaluation-harness
//! (`lm_eval/api/task.py`, `process_results`, and `lm_eval/api/metrics.py`, at
//! <https://github.com/EleutherAI/lm-evaluation-harness/tree/4e7e0d47f33bc71070c1d38394bafbb52b117163>), so that scores compare.
//!
//! ℓᵢ is the log-likelihood of choice i after the question, summed over its tokens. `acc` is 1 if argmax ℓᵢ is the right
//! choice; `acc_norm` if argmax ℓᵢ/characters is, without the delimiter before the choice; `acc_bytes` if argmax ℓᵢ/bytes
//! (UTF-8) is; `exact_match` if every token of the right choice is the likeliest at its position. The first of equal choices
//! wins. The standard error of a mean is the sample's standard deviation over √n.

/// The likelihood of a continuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// Σ log p(token), over the continuation's tokens.
    pub sum: f64,
    /// True if each token is the likeliest at its position.
    pub greedy: bool,
}

/// A mean over questions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// The standard error; `None` for a single question.
    pub stderr: Option<f64>,
    /// The number of questions.
    pub count: usize,
}

/// The index of the likeliest choice.
pub(crate) fn likeliest(likelihoods: &[Likelihood]) -> usize {
    argmax(likelihoods.iter().map(|choice| choice.sum))
}

/// The index of the likeliest choice per character (Unicode scalar values, as in Python).
pub(crate) fn likeliest_per_character(likelihoods: &[Likelihood], choices: &[String]) -> usize {
    argmax(likelihoods.iter().zip(choices).map(|(choice, text)| choice.sum / text.chars().count() as f64))
}

/// The index of the likeliest choice per byte of UTF-8.
pub(crate) fn likeliest_per_byte(likelihoods: &[Likelihood], choices: &[String]) -> usize {
    argmax(likelihoods.iter().zip(choices).map(|(choice, text)| choice.sum / text.len() as f64))
}

/// Σ p over the true choices / Σ p over all, p = exp ℓ: mc2 of TruthfulQA (Lin et al. 2021, <https://arxiv.org/abs/2109.07958>).
pub(crate) fn true_share(likelihoods: &[Likelihood], labels: &[bool]) -> f64 {
    let most = likelihoods.iter().map(|choice| choice.sum).fold(f64::NEG_INFINITY, f64::max);
    let shares = || likelihoods.iter().map(|choice| (choice.sum - most).exp());
    let all: f64 = shares().sum();
    shares().zip(labels).filter(|(_, label)| **label).map(|(share, _)| share).sum::<f64>() / all
}

/// The index of the first maximum.
fn argmax(values: impl Iterator<Item = f64>) -> usize {
    let best = values
        .enumerate()
        .fold((0, f64::NEG_INFINITY), |best, each| if each.1 > best.1 { each } else { best });
    best.0
}

/// The mean of scores.
pub(crate) fn mean(scores: &[f64]) -> Mean {
    let count = scores.len();
    let value = scores.iter().sum::<f64>() / count as f64;
    let squares: f64 = scores.iter().map(|score| (score - value).powi(2)).sum();
    let stderr = (count > 1).then(|| (squares / (count - 1) as f64 / count as f64).sqrt());
    Mean { value, stderr, count }
}

/// The mean over the questions of all parts, with the harness's pooled standard error:
/// √(Σ (nᵢ−1)·nᵢ·seᵢ² / (Σnᵢ − parts) / Σnᵢ).
pub(crate) fn mean_by_size(parts: &[Mean]) -> Mean {
    let count: usize = parts.iter().map(|part| part.count).sum();
    let value = parts.iter().map(|part| part.value * part.count as f64).sum::<f64>() / count as f64;
    let terms = parts.iter().map(|part| {
        let weight = (part.count - 1) as f64 * part.count as f64;
        Some(weight * part.stderr?.powi(2))
    });
    let pooled: Option<f64> = terms.sum();
    let stderr = pooled.map(|sum| (sum / (count - parts.len()) as f64 / count as f64).sqrt());
    Mean { value, stderr, count }
}

/// The unweighted mean over the parts, with the standard error of a mean of independent values: √Σseᵢ² / parts.
pub(crate) fn mean_of_parts(parts: &[Mean]) -> Mean {
    let value = parts.iter().map(|part| part.value).sum::<f64>() / parts.len() as f64;
    let squares: Option<f64> = parts.iter().map(|part| Some(part.stderr?.powi(2))).sum();
    let stderr = squares.map(|sum| sum.sqrt() / parts.len() as f64);
    Mean { value, stderr, count: parts.iter().map(|part| part.count).sum() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn likelihoods(sums: &[f64]) -> Vec<Likelihood> {
        sums.iter().map(|&sum| Likelihood { sum, greedy: false }).collect()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| text.to_string()).collect()
    }

    /// −6/6 = −1 per character for "tomato", −4/2 = −2 for "ox"; "ΔΔΔΔ" has 4 characters and 8 bytes: −5/4 and −5/8.
    #[test]
    fn characters_and_bytes_give_different_choices() {
        let (sums, choices) = (likelihoods(&[-6.0, -4.0, -5.0]), texts(&["tomato", "ox", "ΔΔΔΔ"]));
        assert_eq!(likeliest(&sums), 1);
        assert_eq!(likeliest_per_character(&sums, &choices), 0);
        assert_eq!(likeliest_per_byte(&sums, &choices), 2);
    }

    #[test]
    fn the_first_of_equals_wins() {
        assert_eq!(likeliest(&likelihoods(&[-2.0, -1.0, -1.0])), 1);
        assert_eq!(likeliest(&likelihoods(&[f64::NEG_INFINITY; 2])), 0);
        // An empty choice: −1/0 is −∞, as in numpy.
        assert_eq!(likeliest_per_character(&likelihoods(&[-1.0, -50.0]), &texts(&["", "b"])), 1);
    }

    /// p = ½, ¼, ¼ with the first and the last true: ¾. The same for logarithms whose exponential underflows.
    #[test]
    fn the_share_of_true_answers() {
        let [half, quarter] = [0.5f64.ln(), 0.25f64.ln()];
        let labels = [true, false, true];
        for shift in [0.0, -2000.0] {
            let share = true_share(&likelihoods(&[half + shift, quarter + shift, quarter + shift]), &labels);
            assert!((share - 0.75).abs() < 1e-9, "{share}");
        }
    }

    /// 1, 0, 1, 1: mean ¾; squares 3·(¼)² + (¾)² = ¾; √(¾/3/4) = ¼.
    #[test]
    fn a_mean_has_the_standard_error_of_its_sample() {
        assert_eq!(mean(&[1.0, 0.0, 1.0, 1.0]), Mean { value: 0.75, stderr: Some(0.25), count: 4 });
        assert_eq!(mean(&[1.0]), Mean { value: 1.0, stderr: None, count: 1 });
    }

    /// ¾ of 4 (se ¼) and ½ of 2 (se ½): by size (3+1)/6; pooled √((3·4/16 + 1·2/4)/(6−2)/6) = √(1.25/24).
    /// Unweighted: (¾+½)/2; √(1/16+1/4)/2.
    #[test]
    fn parts_are_averaged_by_size_and_unweighted() {
        let parts = [mean(&[1.0, 0.0, 1.0, 1.0]), mean(&[1.0, 0.0])];
        let (by_size, of_parts) = (mean_by_size(&parts), mean_of_parts(&parts));
        assert!((by_size.value - 4.0 / 6.0).abs() < 1e-12 && by_size.count == 6);
        assert!((by_size.stderr.unwrap_or_default() - (1.25f64 / 24.0).sqrt()).abs() < 1e-12);
        assert_eq!(of_parts.value, 0.625);
        assert!((of_parts.stderr.unwrap_or_default() - 0.3125f64.sqrt() / 2.0).abs() < 1e-12);
        assert_eq!(mean_by_size(&[mean(&[1.0]), mean(&[0.0, 1.0])]).stderr, None);
    }
}

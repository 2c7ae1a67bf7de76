//! Generates the answers to many prompts at once. New prompts join when answers end, so that batches stay full: each pass
//! runs the new prompts together with the last token of every unfinished answer.
//!
//! An answer ends at an EOS token, at one of the definition's stops, or at the token limit. The text before the first stop
//! counts (`generate_until` in lm-evaluation-harness's `lm_eval/models/huggingface.py`).

use std::collections::VecDeque;

use super::runner::{Monitor, Runner, not_finite};
use crate::engine::Tokenizer;
use crate::error::Result;
use crate::eval::softmax;
use crate::eval::tasks::definition::Generate;
use crate::model::Batch;

struct PartialAnswer {
    prompt: usize,
    slot: usize,
    /// The number of tokens in the slot.
    past: usize,
    tokens: Vec<u32>,
}

/// The prompts and settings of one call of [`all`].
struct WritingJob<'a> {
    tokenizer: &'a Tokenizer,
    prompts: &'a [Vec<u32>],
    settings: &'a Generate,
    budget: usize,
}

/// Generates the answer to each prompt, greedily.
///
/// # Errors
/// Errors of the runner, logits that are not finite, an interruption.
pub(crate) fn all(
    runner: &mut dyn Runner,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    settings: &Generate,
    budget: usize,
    monitor: &Monitor,
) -> Result<Vec<String>> {
    let job = WritingJob { tokenizer, prompts, settings, budget };
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&prompt| std::cmp::Reverse(prompts[prompt].len()));
    let mut waiting = VecDeque::from(order);
    let mut free: Vec<usize> = (0..job.slots()).rev().collect();
    runner.make_slots(free.len())?;
    let mut active = Vec::new();
    let mut texts = vec![String::new(); prompts.len()];
    while !(waiting.is_empty() && active.is_empty()) {
        job.admit(&mut waiting, &mut free, &mut active);
        add_tokens(runner, &job, &mut active)?;
        let mut unfinished = Vec::with_capacity(active.len());
        for answer in active {
            if job.has_ended(&answer)? {
                texts[answer.prompt] = job.text(&answer)?;
                free.push(answer.slot);
            } else {
                unfinished.push(answer);
            }
        }
        active = unfinished;
        monitor.answered(prompts.len() - waiting.len() - active.len(), prompts.len())?;
    }
    Ok(texts)
}

impl WritingJob<'_> {
    /// The number of answers at a time: the budget divided by the maximum length.
    fn slots(&self) -> usize {
        let longest = self.prompts.iter().map(Vec::len).max().unwrap_or(0) + self.settings.max_tokens;
        (self.budget / longest).clamp(1, self.prompts.len().max(1))
    }

    /// Adds prompts while slots are free and the pass stays within the budget.
    fn admit(&self, waiting: &mut VecDeque<usize>, free: &mut Vec<usize>, active: &mut Vec<PartialAnswer>) {
        let mut tokens = active.len();
        while let (Some(&prompt), Some(&slot)) = (waiting.front(), free.last()) {
            tokens += self.prompts[prompt].len();
            if tokens > self.budget && !active.is_empty() {
                break;
            }
            waiting.pop_front();
            free.pop();
            active.push(PartialAnswer { prompt, slot, past: 0, tokens: Vec::new() });
        }
    }

    fn has_ended(&self, answer: &PartialAnswer) -> Result<bool> {
        let ends = answer.tokens.last().is_some_and(|token| self.tokenizer.eos().contains(token));
        if ends || answer.tokens.len() >= self.settings.max_tokens {
            return Ok(true);
        }
        // Stops may be special tokens, so the text includes them here.
        let text = self.tokenizer.decode(&answer.tokens, false)?;
        Ok(self.stops().any(|stop| text.contains(stop)))
    }

    fn stops(&self) -> impl Iterator<Item = &str> {
        self.settings.until.iter().map(String::as_str).filter(|stop| !stop.is_empty())
    }

    /// The text before the first EOS and the first stop.
    fn text(&self, answer: &PartialAnswer) -> Result<String> {
        let ends = self.tokenizer.eos();
        let tokens = answer.tokens.split(|token| ends.contains(token)).next().unwrap_or_default();
        let text = self.tokenizer.decode(tokens, true)?;
        let end = self.stops().filter_map(|stop| text.find(stop)).min().unwrap_or(text.len());
        Ok(text[..end].to_owned())
    }
}

/// Adds a token to every answer.
fn add_tokens(runner: &mut dyn Runner, job: &WritingJob, active: &mut [PartialAnswer]) -> Result<()> {
    let mut batch = Batch::default();
    let mut rows = Vec::new();
    for answer in active.iter_mut() {
        let tokens = answer.tokens.last().map_or(job.prompts[answer.prompt].as_slice(), std::slice::from_ref);
        batch.push(answer.slot, answer.past, tokens);
        answer.past += tokens.len();
        rows.push(batch.tokens.len() as u32 - 1);
    }
    runner.logits(&batch, &rows, &mut |row, logits| {
        let (token, _) = softmax::largest(logits).ok_or_else(not_finite)?;
        active[row].tokens.push(token as u32);
        Ok(())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::test_support::{RuleRunner, monitor, tokenizer};
    use super::*;

    fn settings(until: &[&str], max_tokens: usize) -> Generate {
        let until = until.iter().map(|stop| stop.to_string()).collect();
        Generate {
            context: String::new(),
            target: String::new(),
            until,
            max_tokens,
            ignore: vec![],
            ignore_case: false,
            filters: vec![],
        }
    }

    fn write(prompts: &[Vec<u32>], settings: &Generate, budget: usize) -> Vec<String> {
        let tokenizer = tokenizer();
        let mut runner = RuleRunner { vocabulary: tokenizer.vocabulary_size(), ..RuleRunner::default() };
        all(&mut runner, &tokenizer, prompts, settings, budget, &monitor()).unwrap()
    }

    #[test]
    fn texts_are_the_same_alone_and_together() {
        let prompts: Vec<Vec<u32>> =
            (1..8).map(|len| (0..len * 3).map(|i| (i * 7 + len) % 50).collect()).collect();
        for limit in [1, 2, 9] {
            let settings = settings(&[], limit);
            let alone: Vec<String> =
                prompts.iter().flat_map(|prompt| write(std::slice::from_ref(prompt), &settings, 1)).collect();
            for budget in [1, 40, 75, 10_000] {
                assert_eq!(write(&prompts, &settings, budget), alone, "{limit} tokens, budget {budget}");
            }
        }
    }

    #[test]
    fn texts_end_before_the_first_stop() {
        let prompts = [vec![1, 2, 3], vec![4, 5]];
        let whole = write(&prompts, &settings(&[], 12), 100);
        let stop: String = whole[0].chars().skip(3).take(2).collect();
        let cut = write(&prompts, &settings(&[&stop, ""], 12), 100);
        for (cut, whole) in cut.iter().zip(&whole) {
            assert_eq!(cut, whole.split(stop.as_str()).next().unwrap());
        }
        assert!(cut[0].len() < whole[0].len(), "{whole:?}");
        assert!(write(&[], &settings(&[], 3), 9).is_empty());
    }
}

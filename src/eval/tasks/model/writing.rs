//! Lets a model write after many prompts at once. Prompts join as others end, so that batches stay full: each pass runs the
//! prompts that join beside the last token of every text under way.
//!
//! A text ends at a token that ends texts, where one of the definition's stops stands in it, or at the limit of tokens; what
//! stands before the first stop counts (`generate_until` in lm-evaluation-harness's `lm_eval/models/huggingface.py`).

use std::collections::VecDeque;

use super::{Runner, Watch};
use crate::engine::Tokenizer;
use crate::error::{Error, Result};
use crate::eval::softmax;
use crate::eval::tasks::definition::Generate;
use crate::model::Batch;

/// A text under way.
struct Writer {
    prompt: usize,
    slot: usize,
    /// Tokens that the slot holds.
    past: usize,
    written: Vec<u32>,
}

/// Everything that does not change while a task is written.
struct Room<'a> {
    tokenizer: &'a Tokenizer,
    prompts: &'a [Vec<u32>],
    how: &'a Generate,
    budget: usize,
}

/// What is written after each prompt, the likeliest token each time.
///
/// # Errors
/// Those of the runner; logits that are no numbers; an interruption.
pub fn all(
    runner: &mut dyn Runner,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    how: &Generate,
    budget: usize,
    watch: &Watch,
) -> Result<Vec<String>> {
    let room = Room { tokenizer, prompts, how, budget };
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&prompt| std::cmp::Reverse(prompts[prompt].len()));
    let mut waiting = VecDeque::from(order);
    let mut free: Vec<usize> = (0..room.slots()).rev().collect();
    runner.make_slots(free.len())?;
    let (mut active, mut texts) = (Vec::new(), vec![String::new(); prompts.len()]);
    while !(waiting.is_empty() && active.is_empty()) {
        room.admit(&mut waiting, &mut free, &mut active);
        step(runner, &room, &mut active)?;
        let mut going = Vec::with_capacity(active.len());
        for writer in active {
            if room.ended(&writer)? {
                texts[writer.prompt] = room.text(&writer)?;
                free.push(writer.slot);
            } else {
                going.push(writer);
            }
        }
        active = going;
        watch.answered(prompts.len() - waiting.len() - active.len(), prompts.len())?;
    }
    Ok(texts)
}

impl Room<'_> {
    /// Texts that can be under way at a time: the budget, by the longest that there could be.
    fn slots(&self) -> usize {
        let longest = self.prompts.iter().map(Vec::len).max().unwrap_or(0) + self.how.max_tokens;
        (self.budget / longest).clamp(1, self.prompts.len().max(1))
    }

    /// Lets prompts join while there are slots, and as long as one pass does not grow beyond the budget.
    fn admit(&self, waiting: &mut VecDeque<usize>, free: &mut Vec<usize>, active: &mut Vec<Writer>) {
        let mut tokens = active.len();
        while let (Some(&prompt), Some(&slot)) = (waiting.front(), free.last()) {
            tokens += self.prompts[prompt].len();
            if tokens > self.budget && !active.is_empty() {
                break;
            }
            waiting.pop_front();
            free.pop();
            active.push(Writer { prompt, slot, past: 0, written: Vec::new() });
        }
    }

    fn ended(&self, writer: &Writer) -> Result<bool> {
        let ends = writer.written.last().is_some_and(|token| self.tokenizer.eos().contains(token));
        if ends || writer.written.len() >= self.how.max_tokens {
            return Ok(true);
        }
        // Stops may be special tokens: they are looked for where these are spelled out.
        let text = self.tokenizer.decode(&writer.written, false)?;
        Ok(self.stops().any(|stop| text.contains(stop)))
    }

    fn stops(&self) -> impl Iterator<Item = &str> {
        self.how.until.iter().map(String::as_str).filter(|stop| !stop.is_empty())
    }

    /// What counts of what was written.
    fn text(&self, writer: &Writer) -> Result<String> {
        let ends = self.tokenizer.eos();
        let tokens = writer.written.split(|token| ends.contains(token)).next().unwrap_or_default();
        let text = self.tokenizer.decode(tokens, true)?;
        let end = self.stops().filter_map(|stop| text.find(stop)).min().unwrap_or(text.len());
        Ok(text[..end].to_owned())
    }
}

/// Adds a token to every text.
fn step(runner: &mut dyn Runner, room: &Room, active: &mut [Writer]) -> Result<()> {
    let (mut batch, mut rows) = (Batch::default(), Vec::new());
    for writer in active.iter_mut() {
        let tokens =
            writer.written.last().map_or(room.prompts[writer.prompt].as_slice(), std::slice::from_ref);
        batch.push(writer.slot, writer.past, tokens);
        writer.past += tokens.len();
        rows.push(batch.tokens.len() as u32 - 1);
    }
    runner.logits(&batch, &rows, &mut |row, logits| {
        let (token, _) = softmax::largest(logits).ok_or_else(|| {
            Error::unsupported(
                "the model's logits are no numbers",
                "verify the checkpoint: some weight is NaN",
            )
        })?;
        active[row].written.push(token as u32);
        Ok(())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{Rule, tokenizer, watch};
    use super::*;

    fn how(until: &[&str], max_tokens: usize) -> Generate {
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

    fn write(prompts: &[Vec<u32>], how: &Generate, budget: usize) -> Vec<String> {
        let tokenizer = tokenizer();
        let mut rule = Rule { vocabulary: tokenizer.vocabulary_size(), ..Rule::default() };
        all(&mut rule, &tokenizer, prompts, how, budget, &watch()).unwrap()
    }

    #[test]
    fn texts_are_the_same_alone_and_together() {
        let prompts: Vec<Vec<u32>> =
            (1..8).map(|len| (0..len * 3).map(|i| (i * 7 + len) % 50).collect()).collect();
        for limit in [1, 2, 9] {
            let how = how(&[], limit);
            let alone: Vec<String> =
                prompts.iter().flat_map(|prompt| write(std::slice::from_ref(prompt), &how, 1)).collect();
            for budget in [1, 40, 75, 10_000] {
                assert_eq!(write(&prompts, &how, budget), alone, "{limit} tokens, budget {budget}");
            }
        }
    }

    #[test]
    fn texts_end_before_the_first_stop() {
        let prompts = [vec![1, 2, 3], vec![4, 5]];
        let whole = write(&prompts, &how(&[], 12), 100);
        let stop: String = whole[0].chars().skip(3).take(2).collect();
        let cut = write(&prompts, &how(&[&stop, ""], 12), 100);
        for (cut, whole) in cut.iter().zip(&whole) {
            assert_eq!(cut, whole.split(stop.as_str()).next().unwrap());
        }
        assert!(cut[0].len() < whole[0].len(), "{whole:?}");
        assert!(write(&[], &how(&[], 3), 9).is_empty());
    }
}

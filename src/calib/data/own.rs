//! The model's own text as calibration data, as in LLM-QAT (Liu et al. 2023, <https://arxiv.org/abs/2305.17888>): what a
//! model writes freely is near to what it was trained on, and needs nothing but the model.
//!
//! Every text begins with BOS (else with what ends a text, else with a random token), and goes on with tokens drawn from the
//! model's own probabilities. The temperature falls from 2 to 1 over the first [`WARM`] tokens, so that texts differ
//! (Williams et al. 2024, "Self-calibration for Language Model Quantization and Pruning",
//! <https://arxiv.org/abs/2410.17170>). Where the model ends a text, it begins another in the same sequence. Each sequence
//! draws its own random numbers, so that none depends on which others are written beside it.

use rayon::prelude::*;

use super::pieces::{Cut, Found};
use super::watch::Watch;
use crate::engine::{Cache, LanguageModel, Sampler, Sampling, Tokenizer};
use crate::error::Result;
use crate::model::Batch;
use crate::numerics::random::SplitMix64;

/// Tokens that are drawn at more than the model's own temperature.
const WARM: usize = 10;
/// The temperature of the first of them.
const HOT: f32 = 2.0;
/// Bytes of keys and values that are held at a time, about.
const CACHE_BYTES: usize = 1 << 30;
/// Sequences that are written at a time at most: more do not make the matrix products any faster.
const MOST: usize = 64;

/// Steps between two writings of the file that keeps the text.
const KEEP_EVERY: usize = 32;
/// Positions of each sequence that are run together where a text goes on.
const CATCH_UP: usize = 16;

/// A sequence under way.
struct Writer {
    tokens: Vec<u32>,
    sampler: Sampler,
}

/// Lets the model write.
///
/// # Errors
/// Logits that are no numbers; an interruption; a file of kept text that cannot be written.
pub(crate) fn written(
    model: &LanguageModel,
    tokenizer: &Tokenizer,
    cut: &Cut,
    random: &mut SplitMix64,
    watch: &Watch,
) -> Result<Found> {
    // Rows of the embedding beyond the vocabulary mean nothing.
    let vocabulary = tokenizer.vocabulary_size().min(model.vocabulary());
    let first = tokenizer.bos().or_else(|| tokenizer.eos().first().copied());
    let mut key = blake3::Hasher::new();
    let mut writers = Vec::with_capacity(cut.samples);
    for _ in 0..cut.samples {
        let sampling = Sampling { temperature: 1.0, seed: random.next(), ..Sampling::GREEDY };
        let first = first.unwrap_or_else(|| random.below(vocabulary) as u32);
        key.update(format!("{} {first} ", sampling.seed).as_bytes());
        writers.push(Writer { tokens: vec![first], sampler: Sampler::new(sampling)? });
    }
    let text = Text { model, vocabulary, cut, watch, key: text_key(key, vocabulary, cut, watch) };
    text.recall(&mut writers);
    text.write(&mut writers)?;
    let sequences = writers.into_iter().map(|writer| writer.tokens).collect();
    Ok(Found { sequences, ..Found::default() })
}

/// The key of kept text: blake3 over everything that it depends on.
fn text_key(mut key: blake3::Hasher, vocabulary: usize, cut: &Cut, watch: &Watch) -> String {
    let model = watch.kept.as_ref().map_or("", |kept| kept.model.as_str());
    key.update(format!("{} {model} {vocabulary} {}", env!("CARGO_PKG_VERSION"), cut.seq_len).as_bytes());
    key.finalize().to_hex().to_string()
}

/// A text to write.
struct Text<'a> {
    model: &'a LanguageModel,
    vocabulary: usize,
    cut: &'a Cut,
    watch: &'a Watch<'a>,
    key: String,
}

impl Text<'_> {
    /// Takes the tokens that an interrupted run has kept.
    fn recall(&self, writers: &mut [Writer]) {
        let kept = self.watch.kept.as_ref().and_then(|kept| kept.read(&self.key)).unwrap_or_default();
        let fits = |writer: &Writer, tokens: &[u32]| {
            tokens.first() == writer.tokens.first()
                && tokens.len() <= self.cut.seq_len
                && tokens.iter().all(|token| (*token as usize) < self.vocabulary)
        };
        for (writer, tokens) in writers.iter_mut().zip(kept) {
            if fits(writer, &tokens) {
                writer.sampler.skip(tokens.len() - 1);
                writer.tokens = tokens;
            }
        }
    }

    /// Keeps the tokens so far, if there is a file for them.
    fn keep(&self, writers: &[Writer]) -> Result<()> {
        let sequences = || writers.iter().map(|writer| writer.tokens.clone()).collect();
        self.watch.kept.as_ref().map_or(Ok(()), |kept| kept.write(&self.key, sequences()))
    }

    /// Writes every sequence to its end, a group after the other, and a token of each sequence of a group at a time.
    fn write(&self, writers: &mut [Writer]) -> Result<()> {
        let (slots, all) = (slots(self.model, self.cut), self.cut.samples * self.cut.seq_len);
        for start in (0..writers.len()).step_by(slots) {
            let group = start..writers.len().min(start + slots);
            let mut cache = self.model.cache(group.len())?;
            // Sequences of a group are equally long.
            let begun = writers[group.clone()].iter().map(|writer| writer.tokens.len()).min().unwrap_or(1);
            self.catch_up(&writers[group.clone()], begun - 1, &mut cache)?;
            for past in begun - 1..self.cut.seq_len - 1 {
                self.step(&mut writers[group.clone()], past, &mut cache)?;
                let progress = start * self.cut.seq_len + (past + 2) * group.len();
                let going_on = self.watch.written(progress, all);
                if going_on.is_err() || past % KEEP_EVERY == 0 {
                    self.keep(writers)?;
                }
                going_on?;
            }
        }
        self.keep(writers)
    }

    /// Runs the tokens of an earlier run but the last, which fills the cache.
    fn catch_up(&self, writers: &[Writer], past: usize, cache: &mut Cache) -> Result<()> {
        for start in (0..past).step_by(CATCH_UP) {
            let mut batch = Batch::default();
            for (slot, writer) in writers.iter().enumerate() {
                batch.push(slot, start, &writer.tokens[start..past.min(start + CATCH_UP)]);
            }
            self.model.logits(&batch, Some(cache), &[], |_, _| Ok(()))?;
        }
        Ok(())
    }

    /// Writes a token of each sequence.
    fn step(&self, writers: &mut [Writer], past: usize, cache: &mut Cache) -> Result<()> {
        let rows: Vec<u32> = (0..writers.len() as u32).collect();
        let mut batch = Batch::default();
        for (slot, writer) in writers.iter_mut().enumerate() {
            writer.tokens.truncate(past + 1);
            batch.push(slot, past, &writer.tokens[past..]);
        }
        self.model.logits(&batch, Some(cache), &rows, |range, logits| {
            let logits = logits.par_chunks_exact(self.model.vocabulary());
            writers[range].par_iter_mut().zip(logits).try_for_each(|(writer, logits)| {
                let token = draw(&mut writer.sampler, &logits[..self.vocabulary], temperature(past))?;
                writer.tokens.push(token);
                Ok(())
            })
        })
    }
}

/// Sequences that are written together: as many as memory allows, and about as many in each round.
fn slots(model: &LanguageModel, cut: &Cut) -> usize {
    let per_token = size_of::<f32>() * model.model().state_values();
    let most = (CACHE_BYTES / per_token.saturating_mul(cut.seq_len).max(1)).clamp(1, MOST);
    cut.samples.div_ceil(cut.samples.div_ceil(most))
}

/// Of the token that is written after so many.
fn temperature(past: usize) -> f32 {
    HOT - (HOT - 1.0) * past.min(WARM) as f32 / WARM as f32
}

fn draw(sampler: &mut Sampler, logits: &[f32], temperature: f32) -> Result<u32> {
    if temperature == 1.0 {
        return sampler.choose(logits);
    }
    let cooler: Vec<f32> = logits.iter().map(|logit| logit / temperature).collect();
    sampler.choose(&cooler)
}

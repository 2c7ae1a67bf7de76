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
use crate::engine::{LanguageModel, Sampler, Sampling, Tokenizer};
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

/// A sequence under way.
struct Writer {
    tokens: Vec<u32>,
    sampler: Sampler,
}

/// Lets the model write.
///
/// # Errors
/// Logits that are no numbers; an interruption.
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
    let mut writers = Vec::with_capacity(cut.samples);
    for _ in 0..cut.samples {
        let sampling = Sampling { temperature: 1.0, seed: random.next(), ..Sampling::GREEDY };
        let first = first.unwrap_or_else(|| random.below(vocabulary) as u32);
        writers.push(Writer { tokens: vec![first], sampler: Sampler::new(sampling)? });
    }
    let slots = slots(model, cut);
    let all = cut.samples * cut.seq_len;
    for (round, group) in writers.chunks_mut(slots).enumerate() {
        let before = round * slots * cut.seq_len;
        write(model, vocabulary, cut.seq_len, group, |tokens| watch.written(before + tokens, all))?;
    }
    let sequences = writers.into_iter().map(|writer| writer.tokens).collect();
    Ok(Found { sequences, ..Found::default() })
}

/// Sequences that are written together: as many as memory allows, and about as many in each round.
fn slots(model: &LanguageModel, cut: &Cut) -> usize {
    let per_token = size_of::<f32>() * model.model().state_values();
    let most = (CACHE_BYTES / per_token.saturating_mul(cut.seq_len).max(1)).clamp(1, MOST);
    cut.samples.div_ceil(cut.samples.div_ceil(most))
}

/// Writes a group of sequences to the end, a token of each at a time.
fn write(
    model: &LanguageModel,
    vocabulary: usize,
    seq_len: usize,
    writers: &mut [Writer],
    written: impl Fn(usize) -> Result<()>,
) -> Result<()> {
    let mut cache = model.cache(writers.len())?;
    let rows: Vec<u32> = (0..writers.len() as u32).collect();
    for past in 0..seq_len - 1 {
        let mut batch = Batch::default();
        for (slot, writer) in writers.iter().enumerate() {
            batch.push(slot, past, &writer.tokens[past..]);
        }
        model.logits(&batch, Some(&mut cache), &rows, |range, logits| {
            let logits = logits.par_chunks_exact(model.vocabulary());
            writers[range].par_iter_mut().zip(logits).try_for_each(|(writer, logits)| {
                let token = draw(&mut writer.sampler, &logits[..vocabulary], temperature(past))?;
                writer.tokens.push(token);
                Ok(())
            })
        })?;
        written((past + 2) * writers.len())?;
    }
    Ok(())
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

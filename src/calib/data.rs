//! Calibration sequences: which texts, how they are cut, and which of the pieces are taken.
//!
//! 1. Each source (`sources`) is asked for its share of the sequences, by its weight.
//! 2. Its files are read as documents (`documents`): a text is one, a row of a table is one, a conversation is rendered
//!    with the model's chat template.
//! 3. Documents become token sequences (`pieces`), packed or one each; the source `self` is written by the model (`own`).
//!
//! The same calibration, tokenizer and files give the same sequences, on any machine; `self` the same on the same kind of
//! CPU. Limits: a source is read whole into memory, and `self` needs the whole model in memory.

mod documents;
mod kept;
mod own;
mod pieces;
mod sources;
mod spread;
mod watch;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::corpus::TextSource;
use crate::engine::{LanguageModel, Options, Tokenizer, tokenizer};
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::io::hub::Hub;
use crate::model;
use crate::numerics::random::SplitMix64;
use crate::recipe::Calibration;
use documents::Encoder;
pub use kept::KeptText;
use kept::digest;
use pieces::Cut;
use sources::Share;
pub use watch::Watch;

/// The source that is the model itself.
pub(crate) const SELF: &str = "self";
/// The split of a hub dataset that is taken where none is named.
const SPLIT: &str = "train";

/// Token sequences, and where they are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samples {
    /// Token ids: sources in their order, the sequences of each in the order of its text.
    pub sequences: Vec<Vec<u32>>,
    /// The share of each source.
    pub sources: Vec<SourceSamples>,
    /// blake3, in hexadecimal, of the sequences: each its length and its token ids, as little-endian u32.
    pub digest: String,
}

/// The share of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSamples {
    /// As the user named it, without its weight.
    pub source: String,
    /// Documents that it was chosen from; 0 where the model wrote them.
    pub documents: usize,
    /// Sequences taken.
    pub sequences: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Documents left out because they are shorter than 16 tokens.
    pub too_short: usize,
}

impl Samples {
    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }
}

impl Calibration {
    /// Returns true if the text lies ready, and is still there after it was read.
    pub(crate) fn at_hand(&self) -> bool {
        let shares = sources::shares(&self.data, self.samples);
        let awaited = |share: &Share| [SELF, "-"].contains(&share.source.as_str());
        self.statistics.is_empty() && !shares.is_ok_and(|shares| shares.iter().any(awaited))
    }

    /// Returns true if the model writes some of the text itself.
    pub(crate) fn writes_own(&self) -> bool {
        let shares = sources::shares(&self.data, self.samples).unwrap_or_default();
        self.statistics.is_empty() && shares.iter().any(|share| share.source == SELF)
    }

    /// The sequences for a model.
    ///
    /// # Errors
    /// Settings that make no sense; sources that are not there, hold no text, or too little; a model without a tokenizer,
    /// or, for conversations, without a chat template.
    pub fn sequences(&self, checkpoint: &Arc<Checkpoint>, watch: &Watch) -> Result<Samples> {
        self.sequences_from(checkpoint, watch, &Hub::from_env().cache)
    }

    fn sequences_from(&self, checkpoint: &Arc<Checkpoint>, watch: &Watch, cache: &Path) -> Result<Samples> {
        let shares = sources::shares(&self.data, self.samples)?;
        self.check_length(checkpoint)?;
        let tokenizer = Tokenizer::open(checkpoint)?;
        let encoder = Encoder::new(checkpoint, &tokenizer);
        let mut random = SplitMix64(u64::from(self.seed));
        let (mut sequences, mut drawn) = (Vec::new(), Vec::new());
        for Share { source, samples } in &shares {
            let cut = Cut { samples: *samples, seq_len: self.seq_len, packing: self.packing };
            let found = match source.as_str() {
                SELF => own::written(&open(checkpoint)?, &tokenizer, &cut, &mut random, watch)?,
                _ => {
                    pieces::of(source, &TextSource::find(source, SPLIT, cache)?, &encoder, &cut, &mut random)?
                }
            };
            drawn.push(SourceSamples {
                source: source.clone(),
                documents: found.documents,
                sequences: found.sequences.len(),
                tokens: found.sequences.iter().map(Vec::len).sum(),
                too_short: found.too_short,
            });
            sequences.extend(found.sequences);
        }
        check_ids(checkpoint, &sequences)?;
        Ok(Samples { digest: digest(&sequences), sequences, sources: drawn })
    }

    /// The tokens of all of the text, and of the sequences of it: each once, in ascending order.
    ///
    /// # Errors
    /// Those of [`Calibration::sequences`].
    pub(crate) fn tokens(&self, checkpoint: &Checkpoint, sequences: &[Vec<u32>]) -> Result<BTreeSet<u32>> {
        let tokenizer = Tokenizer::open(checkpoint)?;
        let encoder = Encoder::new(checkpoint, &tokenizer);
        let mut found: BTreeSet<u32> = sequences.iter().flatten().copied().collect();
        for Share { source, .. } in sources::shares(&self.data, self.samples)? {
            if source == SELF {
                continue; // its text is the sequences
            }
            let documents =
                documents::read(&source, &TextSource::find(&source, SPLIT, &Hub::from_env().cache)?)?;
            let encoded = documents.par_iter().map(|document| encoder.encode(document, false, usize::MAX));
            found.extend(encoded.collect::<Result<Vec<_>>>()?.into_iter().flatten());
        }
        Ok(found)
    }

    /// That sequences have a length, and that the model has positions for it.
    fn check_length(&self, checkpoint: &Checkpoint) -> Result<()> {
        if self.seq_len < 2 || self.samples.checked_mul(self.seq_len).is_none() {
            let what = format!("{} sequences of {} tokens", self.samples, self.seq_len);
            return Err(Error::usage(what, "--samples 128 --seq-len 512 is usual"));
        }
        let configure =
            |config| model::configure(config).map_err(|error| error.in_checkpoint(&checkpoint.path));
        let model = checkpoint.config.as_ref().map(configure).transpose()?;
        match model.and_then(|model| model.context).filter(|context| *context < self.seq_len) {
            Some(context) => {
                let what =
                    format!("sequences of {} tokens, for a model of {context} positions", self.seq_len);
                Err(Error::usage(what, format!("set --seq-len to {context} at most")))
            }
            None => Ok(()),
        }
    }
}

fn open(checkpoint: &Arc<Checkpoint>) -> Result<LanguageModel> {
    LanguageModel::open(Arc::clone(checkpoint), Options::default())
}

/// That every token has a row in the embedding, where that can be told.
fn check_ids(checkpoint: &Checkpoint, sequences: &[Vec<u32>]) -> Result<()> {
    let Some(config) = &checkpoint.config else { return Ok(()) };
    let model = model::configure(config).map_err(|error| error.in_checkpoint(&checkpoint.path))?;
    let name = format!("{}.weight", model.frame.embedding.tokens);
    let embedding = checkpoint.tensors.iter().find(|(full, _)| full.ends_with(&name));
    let Some((name, source)) = embedding else { return Ok(()) };
    let (rows, largest) = (source.rows_cols()[0], sequences.iter().flatten().max());
    match largest.filter(|id| **id as usize >= rows) {
        Some(id) => Err(Error::malformed_tensor(
            &checkpoint.path,
            name,
            format!("a row for token {id}"),
            format!("{rows} rows"),
            tokenizer::WRONG_TOKENIZER,
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

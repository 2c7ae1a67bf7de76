//! Sequences cut from the documents of a source.
//!
//! Packed: documents are tokenized one by one, texts with an empty line behind them, joined, and cut into pieces of full
//! length; where the tokenizer adds BOS, every sequence begins with it. Of n pieces for s sequences, sequence i is drawn at
//! random from pieces ⌊i·n/s⌋ to ⌊(i+1)·n/s⌋: the sequences are spread over the whole source, and none is taken twice.
//!
//! Not packed: documents are shuffled, and those of at least [`SHORTEST`] tokens taken until there are enough.

use rayon::prelude::*;

use super::documents::{self, Document, Encoder};
use super::spread::spread;
use crate::corpus::TextSource;
use crate::error::{Error, Result};
use crate::numerics::random::SplitMix64;

/// Documents of fewer tokens are no sequences of their own: mostly headings, and a prompt's first tokens are unlike others.
pub(crate) const SHORTEST: usize = 16;
/// Bytes of text that are tokenized for each token that is asked for; a token is about four bytes of English.
const PLENTY: usize = 64;

/// The request to a source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// Sequences.
    pub samples: usize,
    /// Their tokens.
    pub seq_len: usize,
    /// True if documents are joined.
    pub packing: bool,
}

/// The sequences of a source.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Token ids.
    pub sequences: Vec<Vec<u32>>,
    /// Documents that they were chosen from.
    pub documents: usize,
    /// Documents left out for being short.
    pub too_short: usize,
}

/// The sequences of a source that is read.
///
/// # Errors
/// Those of [`documents::read`]; fewer tokens, or documents, than are asked for.
pub(crate) fn of(
    name: &str,
    source: &TextSource,
    encoder: &Encoder,
    cut: &Cut,
    random: &mut SplitMix64,
) -> Result<Found> {
    let documents = documents::read(name, source)?;
    match cut.packing {
        true => packed(name, documents, encoder, cut, random),
        false => single(name, &documents, encoder, cut, random),
    }
}

fn packed(
    name: &str,
    documents: Vec<Document>,
    encoder: &Encoder,
    cut: &Cut,
    random: &mut SplitMix64,
) -> Result<Found> {
    let count = documents.len();
    let bos = encoder.tokenizer.bos().filter(|_| encoder.tokenizer.adds_bos());
    let fresh = cut.seq_len - usize::from(bos.is_some());
    let needed = cut.samples * fresh;
    let documents = documents::thin(documents, needed.saturating_mul(PLENTY), random);
    let encoded = documents.par_iter().map(|document| encoder.encode(document, false, usize::MAX));
    let tokens = encoded.collect::<Result<Vec<_>>>()?.concat();
    let pieces: Vec<&[u32]> = tokens.chunks_exact(fresh).collect();
    if pieces.len() < cut.samples {
        return Err(too_few(name, cut, needed, tokens.len(), pieces.len()));
    }
    let chosen = spread(cut.samples, pieces.len(), random);
    let sequence = |piece: usize| bos.iter().chain(pieces[piece]).copied().collect();
    Ok(Found { sequences: chosen.into_iter().map(sequence).collect(), documents: count, too_short: 0 })
}

fn too_few(name: &str, cut: &Cut, needed: usize, found: usize, pieces: usize) -> Error {
    let Cut { samples, seq_len, .. } = cut;
    let lower = match pieces {
        0 => "lower --seq-len".to_owned(),
        pieces => format!("lower --samples to {pieces}, or --seq-len"),
    };
    Error::malformed(
        name,
        format!("{needed} tokens for {samples} sequences of {seq_len}"),
        format!("{found}"),
        format!("{lower}, or name more text with --data"),
    )
}

fn single(
    name: &str,
    documents: &[Document],
    encoder: &Encoder,
    cut: &Cut,
    random: &mut SplitMix64,
) -> Result<Found> {
    let shortest = SHORTEST.min(cut.seq_len);
    let (mut found, mut too_short) = (Vec::new(), 0);
    for index in shuffled(documents.len(), random) {
        if found.len() == cut.samples {
            break;
        }
        let mut tokens = encoder.encode(&documents[index], true, cut.seq_len.saturating_mul(PLENTY))?;
        tokens.truncate(cut.seq_len);
        match tokens.len() < shortest {
            true => too_short += 1,
            false => found.push((index, tokens)),
        }
    }
    if found.len() < cut.samples {
        return Err(too_few_documents(name, cut.samples, found.len(), too_short, shortest));
    }
    found.sort_unstable_by_key(|(index, _)| *index);
    let sequences = found.into_iter().map(|(_, tokens)| tokens).collect();
    Ok(Found { sequences, documents: documents.len(), too_short })
}

fn too_few_documents(name: &str, samples: usize, found: usize, too_short: usize, shortest: usize) -> Error {
    let expected = format!("{samples} documents of at least {shortest} tokens");
    let found = format!("{found}, and {too_short} shorter ones");
    let hint =
        "leave --no-packing out, so that documents are joined; or lower --samples, or name more with --data";
    Error::malformed(name, expected, found, hint)
}

/// The numbers below `count` in random order (Fisher and Yates).
fn shuffled(count: usize, random: &mut SplitMix64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, random.below(last + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_spread_and_none_is_taken_twice() {
        for (count, available) in [(1, 1), (3, 3), (3, 7), (128, 560), (5, 1_000_003)] {
            for seed in 0..20 {
                let chosen = spread(count, available, &mut SplitMix64(seed));
                assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]), "{chosen:?}");
                for (i, piece) in chosen.iter().enumerate() {
                    assert!((i * available / count..(i + 1) * available / count).contains(piece));
                }
            }
        }
        assert_ne!(spread(8, 800, &mut SplitMix64(0)), spread(8, 800, &mut SplitMix64(1)));
    }

    #[test]
    fn shuffling_keeps_every_number() {
        let mut order = shuffled(50, &mut SplitMix64(3));
        assert_ne!(order, (0..50).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
        assert!(shuffled(0, &mut SplitMix64(3)).is_empty());
    }
}

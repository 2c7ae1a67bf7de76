//! Builds a tokenizer.json for models that come without one: from SentencePiece's `tokenizer.model`, or from vocab.json and
//! merges.txt.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::piece_model::PieceModel;
use super::vocabulary::Vocabulary;
use super::{companions, sentencepiece, vocab_merges};
use crate::error::Result;
use crate::io::SideFile;

/// Names of SentencePiece models whose ids are the model's own. (XLM-R's `sentencepiece.bpe.model` is shifted by one.)
const PIECE_MODELS: [&str; 2] = ["tokenizer.model", "spiece.model"];

/// A tokenizer that was built from other files.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    /// The file that most of it comes from.
    pub file: PathBuf,
    /// In the form of tokenizer.json.
    pub tokenizer: Json,
    /// The special tokens that the file itself names, in the form of special_tokens_map.json.
    pub special_tokens: Json,
    /// SentencePiece's own table: scores and types that tokenizer.json has no place for.
    pub(super) pieces: Option<Vocabulary>,
}

/// Builds a tokenizer from the side files; `None` where none of them is read. `settings` are tokenizer_config.json and
/// special_tokens_map.json (null where there is none), `config` is config.json.
///
/// # Errors
/// [`crate::Error::Malformed`] for a damaged file.
pub(crate) fn rebuild(files: &[SideFile], settings: [&Json; 2], config: &Json) -> Result<Option<Rebuilt>> {
    match files.iter().find(|file| PIECE_MODELS.contains(&file.name.as_str())) {
        Some(file) => from_pieces(file, settings[0]).map(Some),
        None => {
            let found = vocab_merges::rebuild(files, settings, config)?;
            Ok(found.map(|(file, [tokenizer, special_tokens])| Rebuilt {
                file,
                tokenizer,
                special_tokens,
                pieces: None,
            }))
        }
    }
}

fn from_pieces(file: &SideFile, settings: &Json) -> Result<Rebuilt> {
    let PieceModel { mut vocabulary, is_bpe, charsmap } = PieceModel::parse(&file.path, &file.content()?)?;
    let flag = |key: &str| settings[key].as_bool();
    vocabulary.add_bos = flag("add_bos_token");
    vocabulary.add_eos = flag("add_eos_token");
    vocabulary.add_space_prefix = flag("add_prefix_space").or(vocabulary.add_space_prefix);
    let charsmap = Some(charsmap.as_slice()).filter(|map| !map.is_empty());
    let tokenizer = if is_bpe {
        sentencepiece::bpe_json(&vocabulary, charsmap)
    } else {
        sentencepiece::unigram_json(&vocabulary, charsmap)
    };
    let special_tokens = companions::special_tokens(&vocabulary).into();
    Ok(Rebuilt { file: file.path.clone(), tokenizer, special_tokens, pieces: Some(vocabulary) })
}

#[cfg(test)]
mod tests;

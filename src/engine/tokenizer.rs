//! Text ↔ token ids, through the `tokenizers` crate and a checkpoint's tokenizer.json.
//!
//! A GGUF's tokenizer is rebuilt as a tokenizer.json by `io::tokenizer`, so there is one way for both. Ids are those of
//! transformers. What tokenizer.json says of truncation and padding is switched off: they are a batch's business, not a
//! text's. Models that come without tokenizer.json are refused, with a hint, but for GPT-2's vocab.json and merges.txt.
mod gpt2;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::companions::{self, Companions};
use crate::error::{Error, Result};
use crate::io::{Checkpoint, SideFile};

/// Files of tokenizers in forms that llmc does not read.
const OTHER_TOKENIZERS: &[&str] =
    &["tokenizer.model", "tekken.json", "tokenizer.tiktoken", "vocab.json", "vocab.txt", "spiece.model"];

/// The tokenizer of one checkpoint.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// What it was read from, for errors.
    file: PathBuf,
    bos: Option<u32>,
    eos: Vec<u32>,
    /// Whether [`Tokenizer::encode`] puts BOS before a text.
    adds_bos: bool,
    /// Whether tokenizer.json does so by itself; where the two differ, `encode` makes up for it.
    template_adds_bos: bool,
    vocabulary_size: usize,
}

impl Tokenizer {
    /// The tokenizer beside (or, for a GGUF, in) the weights.
    ///
    /// # Errors
    /// There is none, or none that llmc reads; its files are not what they should be.
    pub fn open(checkpoint: &Checkpoint) -> Result<Tokenizer> {
        let files = checkpoint.side_files()?;
        let companions = Companions::read(checkpoint)?;
        if let Some((file, bytes)) = companions::content(&files, "tokenizer.json")? {
            return Tokenizer::parse(file, &bytes, &companions);
        }
        let (file, rebuilt) =
            gpt2::rebuild(&files, &companions)?.ok_or_else(|| missing(checkpoint, &files))?;
        Tokenizer::parse(file, rebuilt.to_string().as_bytes(), &companions)
    }

    fn parse(file: PathBuf, bytes: &[u8], companions: &Companions) -> Result<Tokenizer> {
        let inner = parse(&file, bytes)?;
        let named = companions.special_token("bos_token").and_then(|token| inner.token_to_id(token));
        let bos = named.or_else(|| companions.token_ids("bos_token_id").first().copied());
        let mut tokenizer = Tokenizer {
            eos: ends(&inner, companions),
            vocabulary_size: rows(&inner, true),
            adds_bos: false,
            template_adds_bos: false,
            bos,
            file,
            inner,
        };
        let first = tokenizer.encode("", true)?.first().copied();
        tokenizer.template_adds_bos = bos.is_some() && first == bos;
        let wanted = companions.tokenizer.get("add_bos_token").and_then(Value::as_bool);
        tokenizer.adds_bos = bos.is_some() && wanted.unwrap_or(tokenizer.template_adds_bos);
        Ok(tokenizer)
    }

    /// Token ids of a text. With `special`, what the tokenizer puts around a text (BOS, `[CLS]` … `[SEP]`) is added.
    /// A special token that the text spells out becomes its id either way.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, special).map_err(|e| self.failed("encode", e))?;
        let ids = encoding.get_ids();
        Ok(match (self.adds_bos, self.template_adds_bos) {
            (true, false) if special => self.bos.iter().chain(ids).copied().collect(),
            (false, true) if special => ids[1..].to_vec(),
            _ => ids.to_vec(),
        })
    }

    /// The text of token ids, special tokens left out where `skip_special`. Bytes that are not UTF-8 become U+FFFD;
    /// ids beyond the vocabulary, nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| self.failed("decode", e))
    }

    /// Whether [`Tokenizer::encode`] puts BOS before a text: as tokenizer_config.json says (`add_bos_token`), or else as
    /// tokenizer.json does.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end a text or a turn. Empty where the files name none.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The id of a token by its text (`<|im_end|>`).
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The largest id plus one, added tokens included.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// Whether a model with so many embedding rows can be asked about any text. Tokens added behind the vocabulary may
    /// lie beyond (Gemma 3's image token does): their ids never come from plain text.
    ///
    /// # Errors
    /// An id of the vocabulary proper has no row: the tokenizer is another model's.
    pub fn check_fits(&self, vocabulary_rows: usize) -> Result<()> {
        let needed = rows(&self.inner, false);
        if self.vocabulary_size <= vocabulary_rows || needed <= vocabulary_rows {
            return Ok(());
        }
        let expected = format!("a vocabulary that fits the model's {vocabulary_rows} embedding rows");
        let hint = "this tokenizer is another model's: take tokenizer.json from where the weights came from";
        Err(Error::malformed(&self.file, expected, format!("ids up to {}", needed - 1), hint))
    }

    fn failed(&self, verb: &str, error: tokenizers::Error) -> Error {
        let hint = "take tokenizer.json again from where the model came from";
        Error::malformed(&self.file, format!("a tokenizer that can {verb}"), error, hint)
    }
}

fn parse(file: &Path, bytes: &[u8]) -> Result<tokenizers::Tokenizer> {
    let malformed = |e: tokenizers::Error| {
        let hint = "take tokenizer.json again from where the model came from; llmc reads what `tokenizers` 0.23 does";
        Error::malformed(file, "a tokenizer", e, hint)
    };
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(malformed)?;
    tokenizer.with_truncation(None).map_err(malformed)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// The largest id plus one.
fn rows(tokenizer: &tokenizers::Tokenizer, with_added: bool) -> usize {
    tokenizer.get_vocab(with_added).values().max().map_or(0, |id| *id as usize + 1)
}

/// What ends a generation: what the files number, and what they name. A chat model's configuration often numbers the end
/// of a text, and names that of a turn.
fn ends(tokenizer: &tokenizers::Tokenizer, companions: &Companions) -> Vec<u32> {
    let mut ends = companions.token_ids("eos_token_id");
    let named = companions.special_token("eos_token").and_then(|token| tokenizer.token_to_id(token));
    ends.extend(named.filter(|id| !ends.contains(id)));
    ends
}

fn missing(checkpoint: &Checkpoint, files: &[SideFile]) -> Error {
    let found = files.iter().map(|file| file.name.as_str()).find(|name| OTHER_TOKENIZERS.contains(name));
    let hint = match found {
        Some(_) => "save it with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        None => "put the model's tokenizer.json, and tokenizer_config.json, beside its weights",
    };
    Error::malformed(&checkpoint.path, "a tokenizer.json", found.unwrap_or("none"), hint)
}

#[cfg(test)]
mod tests;

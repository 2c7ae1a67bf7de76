//! Text ↔ token ids, with the `tokenizers` crate and a checkpoint's tokenizer.json. Ids are those of transformers.
//!
//! `io::tokenizer` rebuilds a GGUF's tokenizer as a tokenizer.json, so both go the same way. The truncation and padding of
//! tokenizer.json are switched off: they are for batches, not for texts. `io::tokenizer` also builds one from SentencePiece's
//! `tokenizer.model`, or from vocab.json and merges.txt; a model with neither is refused.
//!
//! The crate panics or takes all memory on some files: [`checks`] refuses those it knows, [`growth`] those whose normalizer
//! makes a text many times longer, and panics are caught where the crate is called. docs/tokenizers.md lists what was found.

mod checks;
mod growth;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use super::tokenizer_configs::{TokenizerConfigs, side_file, side_json};
use crate::error::{Error, Result};
use crate::io::tokenizer::{SAVE_WITH_TRANSFORMERS, complete, declared, rebuild};
use crate::io::{Checkpoint, SideFile};
use crate::panics;
use growth::Growth;

/// The hint for token ids that the model does not have.
pub(crate) const WRONG_TOKENIZER: &str =
    "this is another model's tokenizer: get tokenizer.json from the source of the weights";

/// A text with letters, digits, spaces and signs of several kinds.
const PROBE: &str = " The 3 quick\tfoxes'\n\n  jump: \u{e9}\u{4e2d}\u{1f600} \"ok\" (x_1)";

/// Tokenizer files that llmc cannot read.
const OTHER_TOKENIZERS: &[&str] =
    &["tekken.json", "tokenizer.tiktoken", "vocab.json", "vocab.txt", "sentencepiece.bpe.model"];

/// The tokenizer of one checkpoint.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same, with special tokens encoded like any text. Made where plain text is first encoded.
    plain: OnceLock<tokenizers::Tokenizer>,
    growth: Growth,
    /// The tokenizer's file, for errors.
    file: PathBuf,
    bos: Option<u32>,
    eos: Vec<u32>,
    adds_bos: bool,
    /// True if tokenizer.json itself adds BOS. If the two differ, `encode` adds or removes it.
    template_adds_bos: bool,
    vocabulary_size: usize,
}

impl Tokenizer {
    /// Opens the tokenizer beside the weights, or inside a GGUF.
    ///
    /// # Errors
    /// A missing, unsupported or malformed tokenizer.
    pub fn open(checkpoint: &Checkpoint) -> Result<Tokenizer> {
        let files = checkpoint.side_files()?;
        let mut configs = TokenizerConfigs::read(checkpoint)?;
        let added = side_json(&files, "added_tokens.json")?;
        let declared = declared(&configs.tokenizer, &added);
        if let Some((file, bytes)) = side_file(&files, "tokenizer.json")? {
            let parsed = parse_whole(&file, &bytes, declared)?;
            return Tokenizer::new(file, parsed, &configs);
        }
        let settings = [&configs.tokenizer, &configs.special_tokens_map];
        let rebuilt = rebuild(&files, settings, &configs.config)?;
        let mut rebuilt = rebuilt.ok_or_else(|| missing(checkpoint, &files))?;
        complete(&mut rebuilt.tokenizer, declared);
        configs.own_tokens = rebuilt.special_tokens;
        let parsed = parse(&rebuilt.file, rebuilt.tokenizer.to_string().as_bytes())?;
        Tokenizer::new(rebuilt.file, parsed, &configs)
    }

    /// Parses a tokenizer.json that has no files beside it. `file` is its name in errors.
    ///
    /// # Errors
    /// A malformed tokenizer.
    pub fn parse(file: PathBuf, bytes: &[u8]) -> Result<Tokenizer> {
        let parsed = parse(&file, bytes)?;
        Tokenizer::new(file, parsed, &TokenizerConfigs::default())
    }

    fn new(file: PathBuf, parsed: Parsed, configs: &TokenizerConfigs) -> Result<Tokenizer> {
        let Parsed { inner, growth } = parsed;
        let named = configs.special_token("bos_token").and_then(|token| inner.token_to_id(token));
        let bos = named.or_else(|| configs.token_ids("bos_token_id").first().copied());
        let mut tokenizer = Tokenizer {
            eos: ends(&inner, configs),
            vocabulary_size: rows(&inner, true),
            adds_bos: false,
            template_adds_bos: false,
            bos,
            file,
            plain: OnceLock::new(),
            growth,
            inner,
        };
        tokenizer.probe()?;
        let first = tokenizer.encode("", true)?.first().copied();
        tokenizer.template_adds_bos = bos.is_some() && first == bos;
        let wanted = configs.tokenizer.get("add_bos_token").and_then(Value::as_bool);
        tokenizer.adds_bos = bos.is_some() && wanted.unwrap_or(tokenizer.template_adds_bos);
        Ok(tokenizer)
    }

    /// The token ids of a text of prompts and templates: where it names a special token, that becomes one id. With `special`,
    /// includes the tokens that the tokenizer puts around a text (BOS, `[CLS]` … `[SEP]`).
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        self.encode_with(&self.inner, text, special)
    }

    /// The token ids of plain text: the name of a special token (`<unk>` in a corpus) is text like any other, as in
    /// llama-perplexity.
    pub fn encode_plain(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let plain = self.plain.get_or_init(|| {
            let mut plain = self.inner.clone();
            plain.set_encode_special_tokens(true);
            plain
        });
        self.encode_with(plain, text, special)
    }

    fn encode_with(&self, inner: &tokenizers::Tokenizer, text: &str, special: bool) -> Result<Vec<u32>> {
        self.growth.check(&self.inner, text).map_err(|found| self.failed("encode", found))?;
        let encoding = panics::caught_or_failed(|| inner.encode_fast(text, special));
        let encoding = encoding.map_err(|e| self.failed("encode", e))?;
        let ids = encoding.get_ids();
        Ok(match (self.adds_bos, self.template_adds_bos) {
            (true, false) if special => self.bos.iter().chain(ids).copied().collect(),
            (false, true) if special => ids.get(1..).unwrap_or_default().to_vec(),
            _ => ids.to_vec(),
        })
    }

    /// The text of token ids, without special tokens if `skip_special`. Bytes that are not UTF-8 become U+FFFD; ids beyond
    /// the vocabulary are skipped.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        if ids.is_empty() {
            return Ok(String::new());
        }
        let text = panics::caught_or_failed(|| self.inner.decode(ids, skip_special));
        text.map_err(|e| self.failed("decode", e))
    }

    /// Encodes and decodes [`PROBE`], so that a tokenizer that panics is found before the work. One that only has no token for
    /// it may be whole.
    fn probe(&self) -> Result<()> {
        let probe = || {
            let encoded = self.inner.encode_fast(PROBE, true);
            encoded.and_then(|encoded| self.inner.decode(encoded.get_ids(), false)).is_ok()
        };
        panics::caught(probe).map(drop).map_err(|e| self.failed("encode", e))
    }

    /// True if [`Tokenizer::encode`] puts BOS before a text: by `add_bos_token` in tokenizer_config.json, else by
    /// tokenizer.json.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end a text or a turn; may be empty.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The id of a token, given by its text (`<|im_end|>`).
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The largest id plus one, including added tokens.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// Checks that every id of a plain text has an embedding row. Tokens added after the vocabulary need none (like Gemma 3's
    /// image token): plain text never contains them.
    ///
    /// # Errors
    /// An id of the vocabulary without a row: the tokenizer belongs to another model.
    pub fn check_fits(&self, vocabulary_rows: usize) -> Result<()> {
        let needed = rows(&self.inner, false);
        if self.vocabulary_size <= vocabulary_rows || needed <= vocabulary_rows {
            return Ok(());
        }
        let expected = format!("a vocabulary that fits the model's {vocabulary_rows} embedding rows");
        Err(Error::malformed(&self.file, expected, format!("ids up to {}", needed - 1), WRONG_TOKENIZER))
    }

    fn failed(&self, verb: &str, found: String) -> Error {
        let hint = "get tokenizer.json again from the model's source";
        Error::malformed(&self.file, format!("a tokenizer that can {verb}"), found, hint)
    }
}

/// A tokenizer without the settings of its companions.
struct Parsed {
    inner: tokenizers::Tokenizer,
    growth: Growth,
}

/// Parses a tokenizer.json, with the added tokens that only other files declare.
fn parse_whole(file: &Path, bytes: &[u8], declared: Vec<Value>) -> Result<Parsed> {
    let parsed = parse(file, bytes)?;
    let known = parsed.inner.get_added_tokens_decoder();
    let id = |token: &Value| token["id"].as_u64().and_then(|id| u32::try_from(id).ok());
    let is_known = |token: &Value| id(token).is_some_and(|id| known.contains_key(&id));
    if declared.iter().all(is_known) {
        return Ok(parsed);
    }
    let mut whole = serde_json::from_slice(bytes).unwrap_or_default();
    complete(&mut whole, declared);
    parse(file, whole.to_string().as_bytes())
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Parsed> {
    let growth = checks::check(file, bytes)?;
    let load = || -> tokenizers::Result<tokenizers::Tokenizer> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)?;
        inner.with_truncation(None)?;
        inner.with_padding(None);
        Ok(inner)
    };
    let inner = panics::caught_or_failed(load).map_err(|e| {
        let hint =
            "get tokenizer.json again from the model's source; llmc reads the form of `tokenizers` 0.23";
        Error::malformed(file, "a tokenizer", e, hint)
    })?;
    Ok(Parsed { inner, growth })
}

/// The largest id plus one.
fn rows(tokenizer: &tokenizers::Tokenizer, with_added: bool) -> usize {
    tokenizer.get_vocab(with_added).values().max().map_or(0, |id| *id as usize + 1)
}

/// The tokens that end a generation: those given by id, and the one given by name. A chat model's files often give the end of
/// a text by id and the end of a turn by name.
fn ends(tokenizer: &tokenizers::Tokenizer, configs: &TokenizerConfigs) -> Vec<u32> {
    let mut ends = configs.token_ids("eos_token_id");
    let named = configs.special_token("eos_token").and_then(|token| tokenizer.token_to_id(token));
    ends.extend(named.filter(|id| !ends.contains(id)));
    ends
}

fn missing(checkpoint: &Checkpoint, files: &[SideFile]) -> Error {
    let found = files.iter().map(|file| file.name.as_str()).find(|name| OTHER_TOKENIZERS.contains(name));
    let hint = match found {
        Some(_) => SAVE_WITH_TRANSFORMERS,
        None => "put the model's tokenizer.json and tokenizer_config.json beside its weights",
    };
    Error::malformed(&checkpoint.path, "a tokenizer.json", found.unwrap_or("none"), hint)
}

#[cfg(test)]
mod tests;

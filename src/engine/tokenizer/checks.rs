//! The checks of a tokenizer.json before the `tokenizers` crate sees it: what the crate takes for granted, and bounds on what it
//! builds. The numbers are several times those of the largest released tokenizers (Gemma 3: 33 MB, 262k tokens, 515k merges).

use std::path::Path;

use serde_json::Value;

use super::growth::{Growth, MOST};
use crate::error::{Error, Result};

const FILE: usize = 256 << 20;
/// Commas, a bound on the values that are in memory while the file is checked.
const COMMAS: usize = 16 << 20;
const TOKENS: usize = 4 << 20;
const ADDED_TOKENS: usize = 1 << 18;
const MERGES: usize = 4 << 20;
const TOKEN_BYTES: usize = 4096;
const LARGEST_ID: u64 = 1 << 24;
/// Components of one kind, one after another.
const COMPONENTS: usize = 64;
/// Pieces of a post-processor's template, and ids of a special token in it.
const PIECES: usize = 64;
const REGEX_BYTES: usize = 16 << 10;
const REGEX_DEPTH: usize = 200;
/// Bytes of a text that a normalizer or a decoder puts in.
const CONTENT_BYTES: usize = 1024;
/// WordPiece takes the square of a word's length.
const WORD_CHARS: u64 = 4096;

/// Refuses a tokenizer that the crate would panic on, or take too much memory for. Returns the growth of its normalizers.
///
/// # Errors
/// [`Error::Malformed`], with the key.
pub(super) fn check(file: &Path, bytes: &[u8]) -> Result<Growth> {
    let checks = Checks { file };
    checks.at_most("the file", bytes.len(), FILE, "bytes")?;
    checks.at_most("the file", bytes.iter().filter(|byte| **byte == b',').count(), COMMAS, "entries")?;
    let json: Value = serde_json::from_slice(bytes).map_err(|e| {
        Error::malformed(file, "a tokenizer", e, "get tokenizer.json again from the model's source")
    })?;
    checks.model(&json["model"])?;
    checks.added_tokens(&json["added_tokens"])?;
    for pre_tokenizer in checks.components(&json, "pre_tokenizer", "pretokenizers")? {
        checks.pre_tokenizer(pre_tokenizer)?;
    }
    for processor in checks.components(&json, "post_processor", "processors")? {
        checks.post_processor(processor)?;
    }
    let decoders = checks.components(&json, "decoder", "decoders")?;
    decoders.iter().try_for_each(|decoder| checks.decoder(decoder))?;
    let normalizers = checks.components(&json, "normalizer", "normalizers")?;
    normalizers.iter().try_for_each(|normalizer| checks.replacement("normalizer", normalizer))?;
    checks.growth("decoder", &decoders)?;
    checks.growth("normalizer", &normalizers)
}

struct Checks<'a> {
    file: &'a Path,
}

impl Checks<'_> {
    /// The components of a section, without the sequences around them.
    fn components<'j>(&self, json: &'j Value, section: &str, list: &str) -> Result<Vec<&'j Value>> {
        let (mut waiting, mut found) = (vec![&json[section]], Vec::new());
        while let Some(component) = waiting.pop() {
            match component[list].as_array() {
                Some(parts) => waiting.extend(parts.iter().rev()),
                None => found.push(component),
            }
            self.at_most(section, waiting.len() + found.len(), COMPONENTS, "components")?;
        }
        Ok(found)
    }

    fn model(&self, model: &Value) -> Result<()> {
        let vocabulary = &model["vocab"];
        match vocabulary {
            Value::Object(ids) => {
                self.at_most("model.vocab", ids.len(), TOKENS, "tokens")?;
                ids.iter().try_for_each(|(token, id)| self.token("model.vocab", token, id))?;
            }
            Value::Array(pieces) => self.unigram(model, pieces)?,
            _ => {}
        }
        let words = model["max_input_chars_per_word"].as_u64().unwrap_or(0);
        if words > WORD_CHARS {
            return Err(self.wrong("model.max_input_chars_per_word", format!("at most {WORD_CHARS}"), words));
        }
        self.merges(model)
    }

    fn unigram(&self, model: &Value, pieces: &[Value]) -> Result<()> {
        self.at_most("model.vocab", pieces.len(), TOKENS, "tokens")?;
        for piece in pieces {
            self.token("model.vocab", piece[0].as_str().unwrap_or_default(), &Value::Null)?;
        }
        let unknown = model["unk_id"].as_u64().unwrap_or(0);
        if unknown >= pieces.len() as u64 {
            return Err(self.wrong("model.unk_id", format!("one of {} tokens", pieces.len()), unknown));
        }
        Ok(())
    }

    /// The crate cuts the prefix off the right part of each merge, without looking.
    fn merges(&self, model: &Value) -> Result<()> {
        let merges = model["merges"].as_array().map_or(&[][..], Vec::as_slice);
        self.at_most("model.merges", merges.len(), MERGES, "merges")?;
        let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
        let right = |merge: &Value| {
            let pair =
                merge.as_str().and_then(|merge| merge.split_once(' ')).map(|(_, right)| right.to_owned());
            pair.or_else(|| merge[1].as_str().map(str::to_owned)).unwrap_or_default()
        };
        match merges.iter().map(right).find(|right| !right.starts_with(prefix)) {
            Some(right) => {
                let expected = format!("merges whose right part begins with {prefix:?}");
                Err(self.wrong("model.merges", expected, format!("{:?}", start_of(&right))))
            }
            None => Ok(()),
        }
    }

    fn added_tokens(&self, tokens: &Value) -> Result<()> {
        let tokens = tokens.as_array().map_or(&[][..], Vec::as_slice);
        self.at_most("added_tokens", tokens.len(), ADDED_TOKENS, "tokens")?;
        tokens.iter().try_for_each(|token| {
            self.token("added_tokens", token["content"].as_str().unwrap_or_default(), &token["id"])
        })
    }

    fn token(&self, key: &str, token: &str, id: &Value) -> Result<()> {
        self.at_most(key, token.len(), TOKEN_BYTES, "bytes in a token")?;
        match id.as_u64().filter(|id| *id > LARGEST_ID) {
            Some(id) => Err(self.wrong(key, format!("ids up to {LARGEST_ID}"), id)),
            None => Ok(()),
        }
    }

    fn pre_tokenizer(&self, part: &Value) -> Result<()> {
        if part["type"] == "FixedLength" && part["length"] == 0 {
            return Err(self.wrong("pre_tokenizer.length", "at least 1", 0));
        }
        self.pattern("pre_tokenizer", &part["pattern"])
    }

    /// `Strip` counts below the first letter of a token that it strips as a whole.
    fn decoder(&self, part: &Value) -> Result<()> {
        let stop = part["stop"].as_u64().unwrap_or(0);
        if part["type"] == "Strip" && stop > 1 {
            return Err(self.wrong("decoder.stop", "at most 1", stop));
        }
        self.replacement("decoder", part)
    }

    /// `Replace`, as a normalizer or a decoder, and `Prepend`.
    fn replacement(&self, section: &str, part: &Value) -> Result<()> {
        for key in ["content", "prepend"] {
            let content = part[key].as_str().map_or(0, str::len);
            self.at_most(section, content, CONTENT_BYTES, "bytes of replacement")?;
        }
        self.pattern(section, &part["pattern"])
    }

    fn pattern(&self, section: &str, pattern: &Value) -> Result<()> {
        let regex = pattern["Regex"].as_str();
        if pattern["String"].as_str().or(regex) == Some("") {
            return Err(self.wrong(section, "a pattern", "an empty one"));
        }
        let regex = regex.unwrap_or_default();
        self.at_most(section, regex.len(), REGEX_BYTES, "bytes in a pattern")?;
        self.at_most(section, depth(regex), REGEX_DEPTH, "levels of parentheses in a pattern")
    }

    /// A template for one text uses the first sequence only, and special tokens that it describes.
    fn post_processor(&self, part: &Value) -> Result<()> {
        for template in ["single", "pair"] {
            let pieces = part[template].as_array().map_or(&[][..], Vec::as_slice);
            self.at_most("post_processor", pieces.len(), PIECES, "pieces in a template")?;
            for piece in pieces {
                self.piece(part, piece, template)?;
            }
        }
        Ok(())
    }

    fn piece(&self, part: &Value, piece: &Value, template: &str) -> Result<()> {
        if template == "single" && piece["Sequence"]["id"] == "B" {
            return Err(self.wrong("post_processor.single", "one sequence", "a second one"));
        }
        let Some(name) = piece["SpecialToken"]["id"].as_str() else { return Ok(()) };
        let token = &part["special_tokens"][name];
        let (Some(ids), Some(tokens)) = (token["ids"].as_array(), token["tokens"].as_array()) else {
            let found = format!("none for {:?}", start_of(name));
            return Err(self.wrong(
                "post_processor.special_tokens",
                "an entry for each token of the template",
                found,
            ));
        };
        if ids.len() != tokens.len() {
            return Err(self.wrong("post_processor.special_tokens", "as many ids as tokens", ids.len()));
        }
        self.at_most("post_processor.special_tokens", ids.len(), PIECES, "ids")
    }

    fn growth(&self, section: &str, parts: &[&Value]) -> Result<Growth> {
        let expected = format!("growth of at most {MOST} times");
        Growth::of(parts).ok_or_else(|| self.wrong(section, expected, "replacements that grow more"))
    }

    fn at_most(&self, key: &str, found: usize, most: usize, things: &str) -> Result<()> {
        if found <= most { Ok(()) } else { Err(self.wrong(key, format!("at most {most} {things}"), found)) }
    }

    fn wrong(&self, key: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
        let hint = "the file is damaged: get tokenizer.json again from the model's source";
        Error::malformed_tensor(self.file, key, expected, found, hint)
    }
}

/// The most parentheses that are open at once, escaped ones among them.
fn depth(regex: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for byte in regex.bytes() {
        match byte {
            b'(' => open += 1,
            b')' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// The start of a text from the file, for a message.
fn start_of(text: &str) -> String {
    text.chars().take(60).collect()
}

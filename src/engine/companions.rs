//! The small JSON files beside the weights that say which tokens begin and end a text, and how a chat is written.
//!
//! A file that is not there is an empty object; one that is there must be JSON.

use std::borrow::Cow;
use std::path::PathBuf;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::io::{Checkpoint, SideFile};

/// The special tokens that the files may name.
pub(super) const SPECIAL_TOKENS: &[&str] =
    &["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// tokenizer_config.json, special_tokens_map.json, generation_config.json and config.json of one checkpoint.
pub(super) struct Companions {
    /// How transformers sets the tokenizer up.
    pub tokenizer: Value,
    /// The special tokens by name, where tokenizer_config.json does not give them.
    special_tokens_map: Value,
    generation: Value,
    config: Value,
}

impl Companions {
    pub fn read(checkpoint: &Checkpoint) -> Result<Companions> {
        let files = checkpoint.side_files()?;
        Ok(Companions {
            tokenizer: json(&files, "tokenizer_config.json")?,
            special_tokens_map: json(&files, "special_tokens_map.json")?,
            generation: json(&files, "generation_config.json")?,
            config: checkpoint.config.clone().unwrap_or_default(),
        })
    }

    /// The text of a special token (`bos_token`), which the files spell `"<s>"` or `{"content": "<s>", …}`.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        let places = [&self.tokenizer, &self.special_tokens_map];
        places.into_iter().find_map(|file| {
            let token = file.get(name)?;
            token.as_str().or_else(|| token.get("content")?.as_str())
        })
    }

    /// The texts of all special tokens.
    pub fn special_tokens(&self) -> impl Iterator<Item = &str> {
        SPECIAL_TOKENS.iter().filter_map(|name| self.special_token(name))
    }

    /// The ids under a name (`eos_token_id`): one, several, or none. What the generation says goes before the model's
    /// configuration, and that of its language part (`text_config`) stands in where it has none.
    pub fn token_ids(&self, name: &str) -> Vec<u32> {
        let places = [Some(&self.generation), Some(&self.config), self.config.get("text_config")];
        let ids = places.into_iter().flatten().find_map(|file| file.get(name).filter(|ids| !ids.is_null()));
        let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
        match ids {
            Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
            Some(one) => id(one).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

/// The content of a side file, if there is one of that name, and where it is from.
pub(super) fn content<'a>(files: &'a [SideFile], name: &str) -> Result<Option<(PathBuf, Cow<'a, [u8]>)>> {
    let Some(file) = files.iter().find(|file| file.name == name) else { return Ok(None) };
    let bytes = match &file.bytes {
        Some(bytes) => Cow::Borrowed(bytes.as_slice()),
        None => Cow::Owned(std::fs::read(&file.path).map_err(|e| Error::io(&file.path, e))?),
    };
    Ok(Some((file.path.clone(), bytes)))
}

/// A side file as JSON; null where there is none.
pub(super) fn json(files: &[SideFile], name: &str) -> Result<Value> {
    let Some((path, bytes)) = content(files, name)? else { return Ok(Value::Null) };
    let hint = "take this file again from where the model came from";
    serde_json::from_slice(&bytes).map_err(|e| Error::malformed(path, "JSON", e, hint))
}

//! The small JSON files beside the weights: special tokens and chat template.
//!
//! A missing file counts as an empty one. An existing file must be JSON.

use std::borrow::Cow;
use std::path::PathBuf;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::io::{Checkpoint, SideFile};
use crate::json;

/// tokenizer_config.json, special_tokens_map.json, generation_config.json and config.json of one checkpoint.
#[derive(Default)]
pub(super) struct TokenizerConfigs {
    /// transformers' settings of the tokenizer.
    pub tokenizer: Value,
    /// The special tokens by name, for those missing in tokenizer_config.json.
    pub special_tokens_map: Value,
    /// The special tokens that the tokenizer's own file names; null where it is tokenizer.json.
    pub own_tokens: Value,
    generation: Value,
    /// config.json; null where there is none.
    pub config: Value,
}

impl TokenizerConfigs {
    pub(crate) fn read(checkpoint: &Checkpoint) -> Result<TokenizerConfigs> {
        let files = checkpoint.side_files()?;
        Ok(TokenizerConfigs {
            tokenizer: side_json(&files, "tokenizer_config.json")?,
            special_tokens_map: side_json(&files, "special_tokens_map.json")?,
            own_tokens: Value::Null,
            generation: side_json(&files, "generation_config.json")?,
            config: checkpoint.config.clone().unwrap_or_default(),
        })
    }

    /// The text of a special token (`bos_token`). The files have it as `"<s>"` or `{"content": "<s>", …}`.
    pub(crate) fn special_token(&self, name: &str) -> Option<&str> {
        let places = [&self.tokenizer, &self.special_tokens_map, &self.own_tokens];
        places.into_iter().find_map(|file| {
            let token = file.get(name)?;
            token.as_str().or_else(|| token.get("content")?.as_str())
        })
    }

    /// The ids under a name (`eos_token_id`): one, several, or none. The first file that has the name counts:
    /// generation_config.json, then config.json, then its `text_config`.
    pub(crate) fn token_ids(&self, name: &str) -> Vec<u32> {
        let places = [Some(&self.generation), Some(&self.config), self.config.get("text_config")];
        let ids = places.into_iter().flatten().find_map(|file| file.get(name).filter(|ids| !ids.is_null()));
        match ids {
            Some(Value::Array(ids)) => ids.iter().filter_map(token_id).collect(),
            Some(one) => token_id(one).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

fn token_id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

/// The path and content of the side file `name`, if it exists.
pub(super) fn side_file<'a>(files: &'a [SideFile], name: &str) -> Result<Option<(PathBuf, Cow<'a, [u8]>)>> {
    let Some(file) = files.iter().find(|file| file.name == name) else { return Ok(None) };
    let bytes = file.content()?;
    Ok(Some((file.path.clone(), bytes)))
}

/// A side file as JSON; null if it does not exist.
pub(super) fn side_json(files: &[SideFile], name: &str) -> Result<Value> {
    let Some((path, bytes)) = side_file(files, name)? else { return Ok(Value::Null) };
    let hint = "get this file again from the model's source";
    json::parse(&bytes).map_err(|e| Error::malformed(path, "JSON", e, hint))
}

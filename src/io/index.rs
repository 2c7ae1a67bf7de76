//! `model.safetensors.index.json`: which shard holds which tensor.
//!
//! The names of shards come from outside: each must be a plain file name, so that no index can point out of its folder.

use std::collections::BTreeSet;
use std::fmt::{self, Formatter};
use std::path::{Component, Path};

use indexmap::IndexMap;
use indexmap::map::Entry;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::error::{Error, Result};

/// The index's name in a folder.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// A parsed and validated index.
#[derive(Debug, Clone, PartialEq)]
pub struct Index {
    /// Tensor → shard, a plain file name.
    pub weight_map: IndexMap<String, String>,
    /// Bytes of all tensors, where it is given. Tools disagree about tied tensors: not to be relied upon.
    pub total_size: Option<u64>,
}

impl Index {
    /// The shards by name.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// Parses an index. `file` is its path, for errors.
pub fn parse(file: &Path, bytes: &[u8]) -> Result<Index> {
    let json: Json = serde_json::from_slice(bytes).map_err(|e| {
        let hint =
            "the index is corrupt: download it again, or delete it if the folder holds one model.safetensors";
        Error::malformed(file, "a JSON object with a weight_map of strings", e, hint)
    })?;
    if json.weight_map.0.is_empty() {
        let hint = "download the index again; a model in one file needs none";
        return Err(Error::malformed(file, "a weight_map with tensors", "an empty one", hint));
    }
    for (tensor, shard) in &json.weight_map.0 {
        check_shard_name(file, tensor, shard)?;
    }
    Ok(Index { weight_map: json.weight_map.0, total_size: json.metadata.and_then(|m| total_size(&m)) })
}

fn check_shard_name(file: &Path, tensor: &str, shard: &str) -> Result<()> {
    if is_plain_name(shard) {
        return Ok(());
    }
    let hint =
        "an index may only name files of its own folder: do not trust this checkpoint, or mend its index";
    Err(Error::malformed_tensor(
        file,
        tensor,
        "the plain name of a file in the folder",
        format!("{shard:?}"),
        hint,
    ))
}

/// Returns true if `name` names a file of a folder and nothing else: no separators of any system, no `..`, no drive, no NUL.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
    one && !name.contains(['/', '\\', ':', '\0'])
}

/// Some writers give the size as a float.
fn total_size(metadata: &Value) -> Option<u64> {
    let size = metadata.get("total_size")?;
    size.as_u64().or_else(|| size.as_f64().map(|size| size as u64))
}

#[derive(Deserialize)]
struct Json {
    weight_map: UniqueMap,
    metadata: Option<Value>,
}

/// A JSON object of strings that refuses to hold a key twice (serde_json would keep the last).
struct UniqueMap(IndexMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor).map(UniqueMap)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = IndexMap<String, String>;

    fn expecting(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = IndexMap::new();
        while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
            match entries.entry(tensor) {
                Entry::Vacant(entry) => entry.insert(shard),
                Entry::Occupied(entry) => {
                    let (tensor, first) = (entry.key(), entry.get());
                    return Err(A::Error::custom(format_args!(
                        "{tensor:?} twice, in {first:?} and {shard:?}"
                    )));
                }
            };
        }
        Ok(entries)
    }
}

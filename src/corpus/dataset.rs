//! Finds the files of a split of a dataset in the hub's cache (`datasets--org--name/snapshots/<commit>`).
//!
//! The files of a split have its name: `config/test-00000-of-00001.parquet`, `data/test-*.parquet`, `test.jsonl`, or, in the
//! hub's own conversion, `config/test/0000.parquet`.

use std::path::{Path, PathBuf};

use super::cache;
use super::rows::extension;
use crate::error::{Error, Result};
use crate::io::hub::{self, Id};

/// Levels of folders to search below a snapshot: `config/split/0000.parquet`.
const DEPTH: usize = 2;
/// Extensions of the files that can be read.
const EXTENSIONS: [&str; 3] = ["parquet", "jsonl", "txt"];

/// A split of a dataset of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DatasetSplit {
    id: Id,
    config: Option<String>,
    split: String,
}

/// Addresses of datasets, as people paste them.
const ADDRESSES: [&str; 2] = ["https://huggingface.co/datasets/", "hf://datasets/"];

/// Parses `org/name[@revision][:[config/]split]`, or the address of a dataset's page; the default is `split`. Returns `None`
/// for other text.
pub(super) fn parse(spec: &str, split: &str) -> Option<DatasetSplit> {
    let spec = ADDRESSES.iter().find_map(|address| spec.strip_prefix(address)).unwrap_or(spec);
    let (id, part) = spec.split_once(':').unwrap_or((spec, split));
    let (config, split) = part.rsplit_once('/').map_or((None, part), |(config, split)| (Some(config), split));
    let plain = |part: &str| !part.is_empty() && !part.contains(['/', '\\']) && part != "..";
    let valid = plain(split) && config.is_none_or(plain);
    let id = hub::parse_id(id).filter(|id| valid && id.model.contains('/') && id.file.is_none())?;
    Some(DatasetSplit { id, config: config.map(str::to_owned), split: split.to_owned() })
}

impl DatasetSplit {
    /// The files of the split, in name order.
    pub(super) fn files(&self, cache: &Path) -> Result<Vec<PathBuf>> {
        let snapshot = cache::snapshot(cache, &self.id.model, &self.id.revision);
        let snapshot = snapshot.ok_or_else(|| self.not_cached(cache))?;
        let mut names = cache::list(&snapshot, DEPTH);
        names.retain(|name| EXTENSIONS.contains(&extension(Path::new(name))));
        let (of_split, configs) = self.choose(&names);
        match (of_split.as_slice(), configs.as_slice()) {
            ([], _) => Err(self.no_files(&snapshot, &names)),
            (_, [_, _, ..]) => Err(self.ambiguous(&configs)),
            _ => Ok(of_split.iter().map(|name| snapshot.join(name)).collect()),
        }
    }

    /// The file names of the split, and their configs.
    fn choose<'a>(&self, names: &'a [String]) -> (Vec<&'a str>, Vec<&'a str>) {
        let (mut configs, files): (Vec<_>, Vec<_>) = names
            .iter()
            .filter_map(|name| Some((config(name, &self.split)?, name.as_str())))
            .filter(|(config, _)| self.config.as_deref().is_none_or(|wanted| wanted == *config))
            .unzip();
        configs.dedup();
        (files, configs)
    }

    fn not_cached(&self, cache: &Path) -> Error {
        let Id { model, revision, .. } = &self.id;
        let what = format!("{model}@{revision}: no such file, and no such dataset in {}", cache.display());
        let hint = format!("get it with `hf download {model} --repo-type dataset --revision {revision}`");
        Error::unsupported(what, hint).or_existing(Path::new(model))
    }

    fn no_files(&self, snapshot: &Path, names: &[String]) -> Error {
        let split = self.config.iter().chain([&self.split]).map(String::as_str).collect::<Vec<_>>().join("/");
        let found = names.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
        let found = if found.is_empty() { "none that llmc can read".to_owned() } else { found };
        let expected = format!("files of {split} (.parquet, .jsonl or .txt)");
        let hint = format!("name the split: {}:[CONFIG/]SPLIT; or give the path of a file", self.id.model);
        Error::malformed(snapshot, expected, found, hint)
    }

    fn ambiguous(&self, configs: &[&str]) -> Error {
        let DatasetSplit { id: Id { model, .. }, split, .. } = self;
        let what =
            format!("{model} has {} configs with a split {split}: {}", configs.len(), configs.join(", "));
        Error::usage(what, format!("name one: {model}:{}/{split}", configs[0]))
    }
}

/// The config of a file of `split`: its top folder, or `default` in `data` or without a folder. `None` for a file of
/// another split.
fn config<'a>(name: &'a str, split: &str) -> Option<&'a str> {
    let parts: Vec<&str> = name.split('/').collect();
    let (file, folders) = parts.split_last()?;
    let stem = file.rsplit_once('.').map_or(*file, |(stem, _)| stem);
    let folder = match folders {
        _ if stem == split || stem.strip_prefix(split).is_some_and(|rest| rest.starts_with("-0")) => folders,
        [above @ .., last] if *last == split => above,
        _ => return None,
    };
    Some(folder.first().copied().filter(|folder| *folder != "data").unwrap_or("default"))
}

//! Finds the files of a dataset's split, in a folder that the user gives or in the hub's cache. [`crate::corpus::rows`] reads
//! them. Downloads nothing.
//!
//! Tries a list of names, relative to a folder; the first match counts. A `*` matches the numbers of shards. The names are
//! those of datasets on the hub, of the hub's own conversion to parquet (the branch `refs/convert/parquet`), and of the
//! archives of the Chinese benchmarks. Does not unpack archives.

use std::path::{Path, PathBuf};

use super::definition::Task;
use crate::corpus::cache::{list, snapshots};
use crate::error::{Error, Result};
use crate::io::hub::Hub;

/// Extensions of the files that can be read, the most exact form first.
const EXTENSIONS: [&str; 4] = ["parquet", "jsonl", "json", "csv"];
/// Levels of folders to search.
const DEPTH: usize = 3;

/// The place to search for datasets.
#[derive(Debug, Clone)]
pub enum DatasetLocation {
    /// A folder with the files of one dataset, or with one folder per dataset.
    Folder(PathBuf),
    /// The folder of `datasets--…` folders.
    HubCache(PathBuf),
}

impl DatasetLocation {
    /// The given folder, or the hub's cache by its environment variables.
    pub(crate) fn new(folder: Option<&Path>) -> DatasetLocation {
        match folder {
            Some(folder) => DatasetLocation::Folder(folder.to_owned()),
            None => DatasetLocation::HubCache(Hub::from_env().cache),
        }
    }

    /// The files of a split, in name order.
    ///
    /// # Errors
    /// No files: the message lists the names and folders tried, the hint says how to get the dataset.
    pub(crate) fn files(&self, task: &Task, split: &str) -> Result<Vec<PathBuf>> {
        let roots = self.roots(task);
        let names = names(task, split);
        let found = roots.iter().find_map(|root| first_match(root, &names));
        found.ok_or_else(|| self.missing(task, split, &roots, &names))
    }

    fn roots(&self, task: &Task) -> Vec<PathBuf> {
        let (dataset, name) = (&task.definition.dataset, &task.definition.name);
        match self {
            DatasetLocation::Folder(folder) => {
                let short = dataset.rsplit('/').next().unwrap_or(dataset);
                let own = [name, short, dataset].map(|part| folder.join(part));
                own.into_iter().filter(|root| root.is_dir()).chain([folder.clone()]).collect()
            }
            DatasetLocation::HubCache(cache) => snapshots(cache, dataset),
        }
    }

    fn missing(&self, task: &Task, split: &str, roots: &[PathBuf], names: &[String]) -> Error {
        let dataset = &task.definition.dataset;
        let place = match (self, roots) {
            (DatasetLocation::HubCache(cache), []) => {
                format!("{dataset} is not in the hub's cache {}", cache.display())
            }
            _ => {
                let roots: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
                format!("none of {} in {}", names.join(", "), roots.join(", "))
            }
        };
        let hint = format!(
            "`hf download {dataset} --repo-type dataset --revision refs/convert/parquet --local-dir DATA/{}`, then `--data \
             DATA`; or, without --revision, unpack the dataset's own files there",
            task.definition.name
        );
        Error::unsupported(format!("{}: the data of the {split} split is missing: {place}", task.name), hint)
    }
}

/// The names that a split may have, with at most one `*`.
fn names(task: &Task, split: &str) -> Vec<String> {
    let own = task.definition.files.get(split).into_iter().flatten().cloned();
    let mut names: Vec<String> = own.collect();
    if let Some(config) = task.config() {
        names.extend([format!("{config}/{split}-*.parquet"), format!("{config}/{split}/*.parquet")]);
        let stems = [
            format!("{config}/{split}"),
            format!("{split}/{config}"),
            format!("{split}/{config}_{split}"),
            format!("{config}_{split}"),
        ];
        names.extend(stems.iter().flat_map(|stem| EXTENSIONS.map(|extension| format!("{stem}.{extension}"))));
    }
    // Names without the configuration would give all parts of a collection the same file.
    if task.subset.is_none() {
        names.extend(["data/", "default/", ""].map(|folder| format!("{folder}{split}-*.parquet")));
        names.push(format!("default/{split}/*.parquet"));
        names.extend(
            ["", "data/"]
                .iter()
                .flat_map(|folder| EXTENSIONS.map(|extension| format!("{folder}{split}.{extension}"))),
        );
    }
    names
}

fn first_match(root: &Path, names: &[String]) -> Option<Vec<PathBuf>> {
    let files = list(root, DEPTH);
    names.iter().find_map(|name| {
        let found: Vec<_> =
            files.iter().filter(|file| matches(name, file)).map(|file| root.join(file)).collect();
        (!found.is_empty()).then_some(found)
    })
}

fn matches(name: &str, file: &str) -> bool {
    match name.split_once('*') {
        None => name == file,
        Some((start, end)) => file
            .strip_prefix(start)
            .and_then(|rest| rest.strip_suffix(end))
            .is_some_and(|middle| !middle.contains('/')),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::definition::find;
    use super::*;

    fn touch(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
    }

    fn check(task: &str, split: &str, there: &[&str], expected: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), there);
        let files =
            DatasetLocation::Folder(folder.path().into()).files(&find(task).unwrap()[0], split).unwrap();
        let expected: Vec<_> = expected.iter().map(|name| folder.path().join(name)).collect();
        assert_eq!(files, expected);
    }

    #[test]
    fn splits_are_found_in_all_layouts() {
        let shards = ["ARC-Easy/test-00000-of-00002.parquet", "ARC-Easy/test-00001-of-00002.parquet"];
        check(
            "arc_easy",
            "test",
            &[shards[1], shards[0], "ARC-Challenge/test-00000-of-00001.parquet"],
            &shards,
        );
        check(
            "arc_easy",
            "train",
            &["arc_easy/ARC-Easy/train/0000.parquet"],
            &["arc_easy/ARC-Easy/train/0000.parquet"],
        );
        check(
            "hellaswag",
            "validation",
            &["hellaswag_val.jsonl", "validation.csv"],
            &["hellaswag_val.jsonl"],
        );
        check("gsm8k", "test", &["test.jsonl"], &["test.jsonl"]);
        check("cmmlu_agronomy", "dev", &["dev/agronomy.csv", "test/agronomy.csv"], &["dev/agronomy.csv"]);
        check("ceval-valid_law", "val", &["ceval-exam/val/law_val.csv"], &["ceval-exam/val/law_val.csv"]);
        check(
            "piqa",
            "validation",
            &["data/validation-00000-of-00001.parquet"],
            &["data/validation-00000-of-00001.parquet"],
        );
    }

    #[test]
    fn the_hubs_cache_is_searched_with_main_first() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("datasets--openai--gsm8k");
        touch(&folder, &["snapshots/aaa/main/test-0.parquet", "snapshots/bbb/main/test-0.parquet"]);
        touch(&folder, &["refs/main"]);
        std::fs::write(folder.join("refs/main"), "bbb\n").unwrap();
        let files =
            DatasetLocation::HubCache(cache.path().into()).files(&find("gsm8k").unwrap()[0], "test").unwrap();
        assert_eq!(files, [folder.join("snapshots/bbb/main/test-0.parquet")]);
    }

    #[test]
    fn missing_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), &["test.jsonl"]);
        let error = DatasetLocation::Folder(folder.path().into()).files(&find("mmlu").unwrap()[0], "test");
        let error = error.unwrap_err();
        assert!(error.to_string().contains("abstract_algebra/test-*.parquet"), "{error}");
        assert!(error.hint().unwrap().contains("hf download cais/mmlu"));
        let error = DatasetLocation::HubCache(folder.path().into())
            .files(&find("piqa").unwrap()[0], "test")
            .unwrap_err();
        assert!(error.to_string().contains("baber/piqa is not in the hub's cache"), "{error}");
    }
}

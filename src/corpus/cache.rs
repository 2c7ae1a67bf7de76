//! The hub's cache of datasets: `datasets--org--name/snapshots/<commit>`, with the commit of a branch in `refs/<branch>`.
//! Entries that cannot be read count as missing.

use std::path::{Path, PathBuf};

/// The folder of a dataset in a cache; it may not exist.
fn folder(cache: &Path, dataset: &str) -> PathBuf {
    cache.join(format!("datasets--{}", dataset.replace('/', "--")))
}

/// The snapshot of a revision: a branch, a tag or a commit.
pub(crate) fn snapshot(cache: &Path, dataset: &str, revision: &str) -> Option<PathBuf> {
    let folder = folder(cache, dataset);
    let commit = std::fs::read_to_string(folder.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |commit| commit.trim().to_owned());
    Some(folder.join("snapshots").join(commit)).filter(|folder| folder.is_dir())
}

/// All snapshots: the one of `main` first, the others in name order.
pub(crate) fn snapshots(cache: &Path, dataset: &str) -> Vec<PathBuf> {
    let main = snapshot(cache, dataset, "main");
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder(cache, dataset).join("snapshots"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
        .unwrap_or_default();
    all.sort_by_key(|path| (Some(path) != main.as_ref(), path.clone()));
    all
}

/// The files in a folder and in `depth` levels below it, as sorted names relative to it. Follows links: a snapshot consists
/// of links.
pub(crate) fn list(root: &Path, depth: usize) -> Vec<String> {
    let mut files = Vec::new();
    list_inside(root, "", depth, &mut files);
    files.sort();
    files
}

fn list_inside(root: &Path, inside: &str, depth: usize, files: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(root.join(inside)) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{inside}{name}");
        match std::fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_dir() && depth > 0 => {
                list_inside(root, &format!("{name}/"), depth - 1, files);
            }
            Ok(metadata) if metadata.is_file() => files.push(name),
            _ => {}
        }
    }
}

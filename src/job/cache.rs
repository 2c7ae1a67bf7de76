//! The files that llmc keeps for later runs, outside of outputs: log-probabilities of bases, and the choice of GPU kernels.
//! Models that were downloaded are the hub's, in its own cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::record::Version;
use crate::error::{Error, Result};
use crate::io::cache_folder;

/// Levels of folders below the cache's.
const DEPTH: usize = 2;

/// The kept files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// The folder; `None` if the user has no cache folder.
    pub folder: Option<PathBuf>,
    /// The files in it, the most recently used first.
    pub files: Vec<CachedFile>,
    /// Version of this record.
    pub record: Version<1>,
}

/// A kept file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CachedFile {
    /// The path.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Seconds since it was last used.
    pub age_seconds: u64,
}

/// Lists the kept files.
///
/// # Errors
/// A folder that cannot be read.
pub fn list_cache() -> Result<CacheRecord> {
    cache_folder().map_or_else(|| Ok(nothing(None)), |folder| list(&folder))
}

/// Removes the kept files, and returns those that were there.
///
/// # Errors
/// A file that cannot be removed.
pub fn clear_cache() -> Result<CacheRecord> {
    let record = list_cache()?;
    for file in &record.files {
        fs::remove_file(&file.path).map_err(|e| Error::io(&file.path, e))?;
    }
    Ok(record)
}

fn nothing(folder: Option<PathBuf>) -> CacheRecord {
    CacheRecord { folder, files: Vec::new(), record: Version }
}

fn list(folder: &Path) -> Result<CacheRecord> {
    let mut record = nothing(Some(folder.to_owned()));
    if folder.exists() {
        add(folder, DEPTH, &mut record.files)?;
    }
    record.files.sort_by(|a, b| (a.age_seconds, &a.path).cmp(&(b.age_seconds, &b.path)));
    Ok(record)
}

/// Adds the files of a folder, and of those in it. Links are not followed.
fn add(folder: &Path, depth: usize, files: &mut Vec<CachedFile>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let Ok(found) = path.symlink_metadata() else { continue };
        if found.is_dir() && depth > 0 {
            add(&path, depth - 1, files)?;
        } else if found.is_file() {
            let age = found.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
            files.push(CachedFile {
                path,
                bytes: found.len(),
                age_seconds: age.map_or(0, |age| age.as_secs()),
            });
        }
    }
    Ok(())
}

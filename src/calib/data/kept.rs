//! A model's own text on the disk while it is written, so that an interrupted run goes on from it.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::Builder;

use crate::error::{Error, Result};

/// The file that keeps a model's own text.
#[derive(Debug, Clone)]
pub struct KeptText {
    /// Its path. Its folder must exist.
    pub path: PathBuf,
    /// The digest of the model.
    pub model: String,
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Content {
    /// Identifies the model and the request.
    key: String,
    /// blake3 of the sequences, against damage.
    digest: String,
    sequences: Vec<Vec<u32>>,
}

impl KeptText {
    /// Reads the sequences of an earlier run with the same key; `None` where there are none, or they are damaged.
    pub(super) fn read(&self, key: &str) -> Option<Vec<Vec<u32>>> {
        let bytes = crate::io::read_whole(&self.path).ok()?;
        let content: Content = serde_json::from_slice(&bytes).ok()?;
        let is_whole = content.digest == digest(&content.sequences);
        (content.key == key && is_whole).then_some(content.sequences)
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write(&self, key: &str, sequences: Vec<Vec<u32>>) -> Result<()> {
        let content = Content { key: key.to_owned(), digest: digest(&sequences), sequences };
        let write = || -> std::io::Result<()> {
            let folder = self.path.parent().unwrap_or(Path::new("."));
            let mut file = Builder::new().prefix("own-text-").tempfile_in(folder)?; // as the partial output knows it
            file.write_all(&serde_json::to_vec(&content)?)?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().map_err(|e| Error::io(&self.path, e))
    }
}

/// blake3, in hexadecimal, of sequences: each its length and its token ids, as little-endian u32.
pub(super) fn digest(sequences: &[Vec<u32>]) -> String {
    let mut hasher = blake3::Hasher::new();
    for sequence in sequences {
        hasher.update(&(sequence.len() as u32).to_le_bytes());
        let bytes: Vec<u8> = sequence.iter().flat_map(|token| token.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
    hasher.finalize().to_hex().to_string()
}

//! The place of the cases: the binary, the inputs that they share, a folder for each.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::letters;

/// A folder in memory, where there is one: llmc waits until its output is on the disk.
const MEMORY: &str = "/dev/shm";

/// The files that all cases share. They are removed when this is dropped.
pub struct Place(TempDir);

impl Place {
    /// Copies the binary, which another build may replace while the test runs, and writes the models.
    pub fn new(models: &[String]) -> Place {
        let place = Place(folder());
        let binary = std::env::var_os("LLMC_DIGESTS_BINARY");
        let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_llmc").into());
        std::fs::copy(binary, place.binary()).unwrap();
        letters::write(&place.letters(), models);
        place
    }

    pub fn binary(&self) -> PathBuf {
        self.0.path().join("llmc")
    }

    pub fn letters(&self) -> PathBuf {
        self.0.path().join("models")
    }
}

/// Makes an empty folder.
pub fn folder() -> TempDir {
    let in_memory = Path::new(MEMORY).is_dir().then(|| tempfile::tempdir_in(MEMORY).ok()).flatten();
    in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

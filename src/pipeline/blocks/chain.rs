//! The hidden states of the calibration set between two blocks, in a file. Memory holds a batch of them at a time, and an
//! interrupted run resumes from them.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::numerics::convert;
use crate::pipeline::output::{read_at, reserve, write_at};
use crate::tensor::DType;

/// Hidden states, [tokens, hidden] in f32, sequence after sequence.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    path: PathBuf,
    file: Arc<File>,
    hidden: usize,
}

impl Chain {
    /// Creates a file for so many tokens. Its space is reserved at once, so that a disk that is too small is an early error.
    pub(crate) fn create(path: &Path, tokens: usize, hidden: usize) -> Result<Chain> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.map_err(|e| Error::io(path, e))?;
        let bytes = (tokens * hidden * size_of::<f32>()) as u64;
        reserve(&file, bytes).map_err(|e| Error::io(path, e))?;
        Ok(Chain { path: path.to_owned(), file: Arc::new(file), hidden })
    }

    /// Opens the file of an interrupted run; `None` if it is missing or incomplete.
    pub(crate) fn open(path: &Path, tokens: usize, hidden: usize) -> Result<Option<Chain>> {
        let Ok(file) = File::options().read(true).write(true).open(path) else { return Ok(None) };
        let len = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let whole = len == (tokens * hidden * size_of::<f32>()) as u64;
        Ok(whole.then(|| Chain { path: path.to_owned(), file: Arc::new(file), hidden }))
    }

    /// Writes the rows of some tokens.
    pub(crate) fn write(&self, tokens: &Range<usize>, values: &[f32]) -> Result<()> {
        let mut bytes = Vec::new();
        convert::from_f32(DType::F32, values, &mut bytes);
        write_at(&self.file, &bytes, self.offset(tokens.start)).map_err(|e| Error::io(&self.path, e))
    }

    /// Reads the rows of some tokens, [tokens, hidden].
    pub(crate) fn read(&self, tokens: &Range<usize>) -> Result<Vec<f32>> {
        let mut bytes = vec![0; tokens.len() * self.hidden * size_of::<f32>()];
        let read = read_at(&self.file, &mut bytes, self.offset(tokens.start));
        read.map_err(|e| Error::io(&self.path, e))?;
        let mut values = vec![0.0; tokens.len() * self.hidden];
        convert::to_f32(DType::F32, &bytes, &mut values);
        Ok(values)
    }

    /// Adds the file's content to a digest.
    pub(crate) fn hash_into(&self, hasher: &mut blake3::Hasher) -> Result<()> {
        hasher.update_mmap_rayon(&self.path).map(|_| ()).map_err(|e| Error::io(&self.path, e))
    }

    /// Flushes the file to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(&self.path, e))
    }

    fn offset(&self, token: usize) -> u64 {
        (token * self.hidden * size_of::<f32>()) as u64
    }
}

//! Writes arrays of results as a safetensors file (<https://github.com/huggingface/safetensors#format>), in one pass to a
//! temporary file. When complete, it replaces the target.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempPath;

use super::temporary::persist;
use crate::error::{Error, Result};
use crate::io::{folder_of, readable_by_all};
use crate::tensor::DType;

/// The declaration of an array.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    /// The name.
    pub name: &'static str,
    /// The element type. Wider types must come first, so that all arrays are aligned.
    pub dtype: DType,
    /// The shape.
    pub shape: Vec<usize>,
}

/// An array file in progress: the header, then the bytes of the arrays in order.
#[derive(Debug)]
pub(crate) struct ArrayFile {
    target: PathBuf,
    temporary: TempPath,
    file: BufWriter<File>,
    missing: usize,
}

impl ArrayFile {
    /// Starts a file.
    ///
    /// # Errors
    /// A folder that does not exist or cannot be written, arrays larger than the address space.
    pub(crate) fn create(target: &Path, arrays: &[Array], metadata: Value) -> Result<ArrayFile> {
        let (header, missing) = header(arrays, metadata).ok_or_else(|| {
            Error::unsupported(format!("{}: the arrays are too large", target.display()), "use fewer tokens")
        })?;
        let (file, temporary) = start(target, &header).map_err(|e| Error::io(target, e))?;
        Ok(ArrayFile { target: target.to_owned(), temporary, file, missing })
    }

    /// Writes the next values.
    ///
    /// # Panics
    /// More bytes than the arrays have.
    pub(crate) fn write<const N: usize>(&mut self, values: impl IntoIterator<Item = [u8; N]>) -> Result<()> {
        for value in values {
            self.file.write_all(&value).map_err(|e| Error::io(&self.target, e))?;
            self.missing = self.missing.checked_sub(N).expect("the values fit the declared arrays");
        }
        Ok(())
    }

    /// Syncs the file and renames it to its target.
    ///
    /// # Panics
    /// Fewer bytes than the arrays have.
    pub(crate) fn finish(self) -> Result<()> {
        assert_eq!(self.missing, 0, "the declared arrays are complete");
        persist(self.file, self.temporary, &self.target).map_err(|e| Error::io(&self.target, e))
    }
}

fn start(target: &Path, header: &[u8]) -> std::io::Result<(BufWriter<File>, TempPath)> {
    let (file, temporary) = readable_by_all().tempfile_in(folder_of(target))?.into_parts();
    let mut file = BufWriter::with_capacity(1 << 20, file);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header)?;
    Ok((file, temporary))
}

/// The header, padded to eight bytes, and the number of bytes after it.
fn header(arrays: &[Array], metadata: Value) -> Option<(Vec<u8>, usize)> {
    let mut entries = Map::from_iter([("__metadata__".to_owned(), metadata)]);
    let mut end = 0usize;
    for Array { name, dtype, shape } in arrays {
        let start = end;
        end = start.checked_add(dtype.byte_len(shape)?)?;
        let entry = json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [start, end] });
        entries.insert((*name).to_owned(), entry);
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Some((header, end))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_safetensors_crate_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.safetensors");
        let arrays = [
            Array { name: "nll", dtype: DType::F32, shape: vec![3] },
            Array { name: "same", dtype: DType::Bool, shape: vec![3] },
        ];
        let mut file = ArrayFile::create(&path, &arrays, json!({ "protocol": "chunks" })).unwrap();
        assert!(!path.exists());
        file.write([1.0f32, 2.0, 3.5].map(f32::to_le_bytes)).unwrap();
        file.write([[1], [0], [1]]).unwrap();
        file.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let found = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(found.tensor("nll").unwrap().shape(), [3]);
        assert_eq!(found.tensor("nll").unwrap().data()[8..], 3.5f32.to_le_bytes());
        assert_eq!(found.tensor("same").unwrap().data(), [1, 0, 1]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary is left");
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let error = ArrayFile::create(Path::new("no/such/folder/x.safetensors"), &[], json!({})).unwrap_err();
        assert!(error.to_string().contains("x.safetensors"), "{error}");
    }
}

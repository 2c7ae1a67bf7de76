//! Arrays of results as a safetensors file: <https://github.com/huggingface/safetensors#format>. Written beside its place in
//! one pass, and renamed when whole; what stood there before is replaced.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempPath;

use crate::error::{Error, Result};
use crate::io::readable_by_all;
use crate::tensor::DType;

/// An array that a file will hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Its name.
    pub name: &'static str,
    /// Its element type; arrays of wider elements come first, so that all are aligned.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// A file that is being written: its header first, then the arrays' bytes, one after the other.
#[derive(Debug)]
pub struct Arrays {
    target: PathBuf,
    temporary: TempPath,
    file: BufWriter<File>,
    missing: usize,
}

impl Arrays {
    /// Begins a file.
    ///
    /// # Errors
    /// The folder is not there, or cannot be written to; arrays larger than memory could address.
    pub fn create(target: &Path, arrays: &[Array], metadata: Value) -> Result<Arrays> {
        let (header, missing) = header(arrays, metadata).ok_or_else(|| {
            Error::unsupported(format!("{}: the arrays are too large", target.display()), "fewer tokens")
        })?;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let begin = || {
            let (file, temporary) =
                readable_by_all().tempfile_in(folder.unwrap_or(Path::new(".")))?.into_parts();
            let mut file = BufWriter::with_capacity(1 << 20, file);
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            Ok((file, temporary))
        };
        let (file, temporary) = begin().map_err(|e| Error::io(target, e))?;
        Ok(Arrays { target: target.to_owned(), temporary, file, missing })
    }

    /// Writes what comes next.
    pub fn write<const N: usize>(&mut self, values: impl IntoIterator<Item = [u8; N]>) -> Result<()> {
        for value in values {
            self.file.write_all(&value).map_err(|e| Error::io(&self.target, e))?;
            self.missing = self.missing.checked_sub(N).expect("no more than was announced is written");
        }
        Ok(())
    }

    /// Makes it durable, and puts it in its place.
    pub fn finish(self) -> Result<()> {
        let Arrays { target, temporary, file, missing } = self;
        assert_eq!(missing, 0, "all that was announced is written");
        let end = || {
            file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
            temporary.persist(&target).map_err(std::io::Error::from)
        };
        end().map_err(|e| Error::io(&target, e))
    }
}

/// The header, padded to eight bytes, and how many bytes follow it.
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
        let mut file = Arrays::create(&path, &arrays, json!({ "protocol": "chunks" })).unwrap();
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
    fn a_folder_that_is_not_there() {
        let error = Arrays::create(Path::new("no/such/folder/x.safetensors"), &[], json!({})).unwrap_err();
        assert!(error.to_string().contains("x.safetensors"), "{error}");
    }
}

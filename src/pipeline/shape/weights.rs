//! The files of corrected weights.

use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;

use crate::error::{Error, Result};
use crate::numerics::convert;
use crate::stage::BlockLinear;
use crate::tensor::DType;

/// The name of the file of a block's corrected weights.
pub(super) fn weights_file(index: usize) -> String {
    format!("corrected-{index:05}.safetensors")
}

/// The files of corrected weights in a folder, in the order of the blocks.
pub(super) fn corrected_files(folder: &Path, layers: usize) -> Vec<PathBuf> {
    (0..layers).map(|index| folder.join(weights_file(index))).filter(|path| path.is_file()).collect()
}

/// The dense weights of linears, in f32 under their names, as a safetensors file.
pub(super) fn weights_bytes(linears: &[BlockLinear]) -> Result<Vec<u8>> {
    let stored = linears.iter().map(|linear| {
        let (values, mut bytes) = (linear.dense()?, Vec::new());
        convert::from_f32(DType::F32, values.as_standard_layout().as_slice().unwrap_or_default(), &mut bytes);
        Ok((linear.name.as_str(), values.shape().to_vec(), bytes))
    });
    let stored = stored.collect::<Result<Vec<_>>>()?;
    let views = stored.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name, view.expect("as many bytes as the shape has"))
    });
    safetensors::serialize(views, None).map_err(|e| {
        Error::unsupported(format!("corrected weights: {e}"), "this is a defect of llmc: please report it")
    })
}

/// blake3 over files; `None` of none.
pub(super) fn digest(files: &[PathBuf]) -> Result<Option<String>> {
    if files.is_empty() {
        return Ok(None);
    }
    let mut hasher = blake3::Hasher::new();
    for path in files {
        hasher.update_mmap_rayon(path).map_err(|e| Error::io(path, e))?;
    }
    Ok(Some(hasher.finalize().to_hex().to_string()))
}

//! [`Checkpoint`]: an opened model, its shards mapped, its tensors under Hugging Face names.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde_json::Value;

use super::map::MappedFile;
use crate::error::Result;
use crate::model::Transform;
use crate::numerics::Scheme;
use crate::tensor::{DType, QTensor};

/// A tensor as a file stores it: validated to lie within the file and to be as long as its shape says.
#[derive(Debug, Clone, PartialEq)]
pub struct RawTensor {
    /// The name in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major shape (GGUF's dims reversed).
    pub shape: Vec<usize>,
    /// Index into [`Checkpoint::files`].
    pub file: usize,
    /// Bytes of that file.
    pub range: Range<usize>,
}

/// How a logical tensor is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// As it is, one tensor of a file (GGUF blocks too: their dtype dequantizes itself).
    Dense(RawTensor),
    /// As codes with scales beside them, in some engine's layout; `parts` are the file's tensors by role
    /// (`weight_packed`, `weight_scale`, `qzeros`, …).
    Quantized {
        /// Which layout.
        layout: super::quantized::Layout,
        /// What the codes mean.
        scheme: Scheme,
        /// By role.
        parts: BTreeMap<&'static str, RawTensor>,
    },
}

/// One logical tensor: what the model calls a weight, however many tensors store it.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Hugging Face name, `model.layers.0.mlp.down_proj.weight`.
    pub name: String,
    /// Logical shape.
    pub shape: Vec<usize>,
    /// Where its numbers are.
    pub stored: Stored,
    /// First row of `stored` that belongs to it (an expert of a stacked tensor); 0 elsewhere.
    pub first_row: usize,
    /// What GGUF did to the Hugging Face tensor, undone when reading.
    pub transform: Transform,
}

/// A file that travels with the weights: config, tokenizer, generation settings.
#[derive(Debug, Clone, PartialEq)]
pub struct SideFile {
    /// Name in the output folder.
    pub name: String,
    /// Its content where llmc rebuilt it (from GGUF metadata); `None` where `path` is to be copied.
    pub bytes: Option<Vec<u8>>,
    /// Where it is.
    pub path: PathBuf,
}

/// An opened model.
#[derive(Debug)]
pub struct Checkpoint {
    /// What was opened: a file or a folder.
    pub path: PathBuf,
    /// Mapped weight files, in name order.
    pub files: Vec<MappedFile>,
    /// Logical tensors by name, in the order of the files.
    pub tensors: IndexMap<String, Source>,
    /// config.json, where there is one (rebuilt from the metadata for GGUF).
    pub config: Option<Value>,
    /// Everything else worth copying.
    pub side_files: Vec<SideFile>,
    /// The safetensors `__metadata__` or the GGUF strings, of the first file.
    pub metadata: BTreeMap<String, String>,
    /// How it was quantized already, in words (`gptq, 4 bits, group 128`); `None` for dense checkpoints.
    pub quantization: Option<String>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, a folder, a `.gguf` or a hub id (`org/name[@revision]`). Reads headers only.
    pub fn open(_input: &str) -> Result<Checkpoint> {
        todo!()
    }

    /// The stored bytes of a dense, untransformed tensor, to be passed through bit for bit. `None` for the others.
    pub fn bytes<'a>(&'a self, _source: &Source) -> Option<&'a [u8]> {
        todo!()
    }

    /// Reads rows (rows of the shape flattened to [product of all but the last, last]; scalars are [1, 1]) in f32,
    /// dequantizing and undoing the transform. `out` is rows.len()·cols long.
    pub fn read_rows(&self, _source: &Source, _rows: Range<usize>, _out: &mut [f32]) -> Result<()> {
        todo!()
    }

    /// Reads rows of a quantized tensor as codes. `None` where it is stored dense.
    pub fn read_codes(&self, _source: &Source, _rows: Range<usize>) -> Result<Option<QTensor>> {
        todo!()
    }

    /// Gives the pages of these rows back to the system.
    pub fn release(&self, _source: &Source, _rows: Range<usize>) {
        todo!()
    }
}

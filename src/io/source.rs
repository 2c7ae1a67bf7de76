//! Tensors of a checkpoint: as a file stores them, and as the model names them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::side_file::read_whole;
use crate::error::Result;
use crate::model::Transform;
use crate::numerics::Scheme;
use crate::tensor::{DType, rows_cols};

/// An engine's way of storing codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// compressed-tensors, pack-quantized.
    CompressedPacked,
    /// compressed-tensors, int-quantized and float-quantized; also plain FP8 checkpoints (`weight_scale_inv`).
    CompressedPlain,
    /// compressed-tensors, nvfp4-pack-quantized.
    CompressedNvFp4,
    /// compressed-tensors, mxfp4-pack-quantized.
    CompressedMxFp4,
    /// ModelOpt's NVFP4: the same codes, under a scale of the tensor that multiplies.
    ModelOptNvFp4,
    /// gpt-oss: a stack of experts in MXFP4, read as its 16-bit form [experts, in, out].
    Mxfp4Experts,
    /// GPTQ, zero points stored minus one.
    GptqV1,
    /// GPTQ, zero points stored as they are.
    GptqV2,
    /// AWQ GEMM.
    Awq,
}

/// A tensor as a file stores it: validated to lie within the file and to be as long as its shape says.
#[derive(Debug, Clone, PartialEq)]
pub struct RawTensor {
    /// The name in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major shape (GGUF's dims reversed).
    pub shape: Vec<usize>,
    /// Index into [`Checkpoint::files`](super::Checkpoint::files).
    pub file: usize,
    /// Bytes of that file.
    pub range: Range<usize>,
}

/// The storage of a logical tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// As it is, one tensor of a file (GGUF blocks too: their dtype dequantizes itself).
    Dense(RawTensor),
    /// As the values that are not zero, and a bit for each weight that says where they are (compressed-tensors' sparse-24-bitmask and
    /// sparse-bitmask); `parts` are the file's tensors by role (`compressed`, `bitmask`, `shape`, `row_offsets`).
    Sparse {
        /// The type of the values.
        dtype: DType,
        /// By role.
        parts: BTreeMap<&'static str, RawTensor>,
    },
    /// As codes with scales beside them, in some engine's layout; `parts` are the file's tensors by role
    /// (`weight_packed`, `weight_scale`, `qzeros`, …).
    Quantized {
        /// The layout.
        layout: Layout,
        /// The meaning of the codes.
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
    /// The storage of its numbers.
    pub stored: Stored,
    /// First row of `stored` that belongs to it (an expert of a stacked tensor); 0 elsewhere.
    pub first_row: usize,
    /// The change that GGUF made to the Hugging Face tensor, undone when reading.
    pub transform: Transform,
    /// The rows and columns that a cut has left of it; `None` where it is whole.
    pub cut: Option<Arc<Cut>>,
    /// True for a weight that calibration has corrected for the cut of its inputs: its values are not the input's.
    pub corrected: bool,
    /// The corrected weight, of the same shape; `None` where only its place is known.
    pub replacement: Option<Arc<Source>>,
}

/// The rest of a tensor that was cut.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cut {
    /// The shape of the whole.
    pub shape: Vec<usize>,
    /// The rows that stay, of [`rows_cols`] of the shape; `None` for all.
    pub rows: Option<Vec<u32>>,
    /// The columns that stay; `None` for all.
    pub cols: Option<Vec<u32>>,
}

impl Cut {
    /// The row of the whole behind a row.
    pub(crate) fn row(&self, row: usize) -> usize {
        self.rows.as_ref().map_or(row, |rows| rows[row] as usize)
    }
}

/// A file that travels with the weights: config, tokenizer, generation settings.
#[derive(Debug, Clone, PartialEq)]
pub struct SideFile {
    /// Name in the output folder.
    pub name: String,
    /// Its content where llmc rebuilt it (from GGUF metadata); `None` where `path` is to be copied.
    pub bytes: Option<Vec<u8>>,
    /// Its path.
    pub path: PathBuf,
}

impl SideFile {
    /// Its content, rebuilt or read whole.
    ///
    /// # Errors
    /// Those of [`read_whole`].
    pub(crate) fn content(&self) -> Result<Cow<'_, [u8]>> {
        match &self.bytes {
            Some(bytes) => Ok(Cow::Borrowed(bytes)),
            None => read_whole(&self.path).map(Cow::Owned),
        }
    }
}

impl Source {
    /// A whole tensor as it is.
    pub(crate) fn new(name: String, shape: Vec<usize>, stored: Stored) -> Source {
        Source {
            name,
            shape,
            stored,
            first_row: 0,
            transform: Transform::None,
            cut: None,
            corrected: false,
            replacement: None,
        }
    }

    /// A tensor of a file under its own name.
    pub(crate) fn dense(raw: RawTensor) -> Source {
        Source::new(raw.name.clone(), raw.shape.clone(), Stored::Dense(raw))
    }

    /// Returns true if its values are not those that are stored, one after the other.
    pub(crate) fn is_edited(&self) -> bool {
        self.cut.is_some() || self.replacement.is_some()
    }

    /// Itself before any cut.
    pub(crate) fn whole(&self) -> Source {
        let shape = self.cut.as_ref().map_or_else(|| self.shape.clone(), |cut| cut.shape.clone());
        Source { shape, cut: None, replacement: None, ..self.clone() }
    }

    /// Leaves these rows and columns of it; `None` leaves all.
    pub(crate) fn cut(&mut self, rows: Option<Vec<u32>>, cols: Option<Vec<u32>>) {
        if rows.is_none() && cols.is_none() {
            return;
        }
        if let Some(replacement) = &mut self.replacement {
            Arc::make_mut(replacement).cut(rows.clone(), cols.clone());
        }
        let [row_count, col_count] = self.rows_cols();
        let before = self.cut.take().map(Arc::unwrap_or_clone);
        let before = before.unwrap_or_else(|| Cut { shape: self.shape.clone(), ..Cut::default() });
        let shape = [rows.as_ref().map_or(row_count, Vec::len), cols.as_ref().map_or(col_count, Vec::len)];
        self.shape = if self.shape.len() < 2 { vec![shape[1]] } else { shape.to_vec() };
        let rows = composed(before.rows, rows);
        self.cut = Some(Arc::new(Cut { rows, cols: composed(before.cols, cols), shape: before.shape }));
    }

    /// Its storage in words: `bf16`, `bf16 sparse`, `q4_k`, `int4 g128 symmetric`.
    pub(crate) fn stored_as(&self) -> String {
        match &self.stored {
            Stored::Dense(raw) => raw.dtype.name().to_lowercase(),
            Stored::Sparse { dtype, .. } => format!("{} sparse", dtype.name().to_lowercase()),
            Stored::Quantized { scheme, .. } => scheme.to_string(),
        }
    }

    /// The element type that holds its values exactly; `None` where they are quantized.
    pub(crate) fn dense_dtype(&self) -> Option<DType> {
        match &self.stored {
            Stored::Dense(raw) => Some(raw.dtype).filter(|dtype| dtype.block_elements() == 1),
            Stored::Sparse { dtype, .. } => Some(*dtype),
            Stored::Quantized { .. } => None,
        }
    }

    /// Bytes that store it.
    pub(crate) fn stored_bytes(&self) -> u64 {
        match &self.stored {
            Stored::Dense(raw) => raw.dtype.byte_len(&self.shape).unwrap_or(raw.range.len()) as u64,
            Stored::Sparse { parts, .. } | Stored::Quantized { parts, .. } => {
                parts.values().map(|raw| raw.range.len() as u64).sum()
            }
        }
    }

    /// Its shape as [rows, columns].
    pub fn rows_cols(&self) -> [usize; 2] {
        rows_cols(&self.shape)
    }
}

/// The numbers that `after` leaves of those that `before` has left.
fn composed(before: Option<Vec<u32>>, after: Option<Vec<u32>>) -> Option<Vec<u32>> {
    match (before, after) {
        (Some(before), Some(after)) => {
            Some(after.into_iter().map(|number| before[number as usize]).collect())
        }
        (before, after) => after.or(before),
    }
}

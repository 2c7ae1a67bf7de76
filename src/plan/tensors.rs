//! The tensors of an output: where their rows come from, what they become, and the stored parts that they end in.

use std::ops::Range;

use serde::Serialize;

use crate::io::Source;
use crate::model::Transform;
use crate::numerics::{Scheme, Sparsity};
use crate::tensor::{DType, rows_cols};

/// A tensor as the output stores it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// Name in the output.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

impl Part {
    /// Bytes it takes.
    ///
    /// # Panics
    /// If the shape overflows: parts come from shapes that a checkpoint backs.
    pub fn byte_len(&self) -> usize {
        self.dtype.byte_len(&self.shape).expect("parts are no larger than the checkpoint they come from")
    }
}

/// A quantity that calibration measures, and outputs store one scale of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Measured {
    /// The inputs of a linear.
    Input,
    /// The keys that attention caches.
    Key,
    /// The values that it caches.
    Value,
}

/// A range of rows of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Name of the [`crate::io::Source`].
    pub source: String,
    /// Its rows.
    pub rows: Range<usize>,
}

/// A logical tensor of the output: rows of one or several sources, one after the other (experts stacked or taken apart),
/// reordered or changed as the format's architecture asks.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputTensor {
    /// The name in the output; of quantized tensors the module's name with `.weight`.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// The origin of its rows.
    pub pieces: Vec<Piece>,
    /// The change made to the rows.
    pub transform: Transform,
}

impl OutputTensor {
    /// A source as it is.
    pub(crate) fn whole(source: &Source) -> OutputTensor {
        let rows = rows_cols(&source.shape)[0];
        OutputTensor {
            name: source.name.clone(),
            shape: source.shape.clone(),
            pieces: vec![Piece { source: source.name.clone(), rows: 0..rows }],
            transform: Transform::None,
        }
    }
}

/// The planned storage of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Quantized to the scheme.
    Quantize(Scheme),
    /// Stored dense in this type: passed through bit for bit where it already is.
    Store(DType),
}

/// One tensor of the output.
#[derive(Debug, Clone)]
pub struct TensorPlan {
    /// The tensor, and the origin of its rows.
    pub output: OutputTensor,
    /// Its storage.
    pub action: Action,
    /// The zeros that a pruning stage makes in it; `None` where it is left alone.
    pub sparsity: Option<Sparsity>,
    /// True if it is the weight of a linear module (so that formats can list the linears left dense).
    pub linear: bool,
    /// The reason for a decision other than the requested one, or for leaving the tensor alone.
    pub note: Option<String>,
    /// True if the note says that something was substituted (an error under `--strict`).
    pub substituted: bool,
    /// The stored tensors.
    pub parts: Vec<Part>,
    /// The quantities that the last parts are measured scales of.
    pub measured: Vec<Measured>,
    /// True if calibration has corrected it for what was cut: its values are not the input's.
    pub corrected: bool,
    /// Steps that share their extent with this one (q/k/v, gate/up): the same number; `None` alone.
    pub fused: Option<usize>,
}

impl TensorPlan {
    /// Its scheme or type and its zeros, for people.
    pub(crate) fn stored(&self) -> String {
        match self.sparsity {
            Some(zeros) => format!("{}, {zeros}", self.action),
            None => self.action.to_string(),
        }
    }

    /// Returns true if a calibrated run records its digest.
    pub(crate) fn is_recorded(&self) -> bool {
        matches!(self.action, Action::Quantize(_)) || self.sparsity.is_some() || self.corrected
    }

    /// The parts that are measured scales: (of what, index of the part).
    pub(crate) fn scales(&self) -> impl Iterator<Item = (Measured, usize)> {
        let first = self.parts.len() - self.measured.len();
        self.measured.iter().enumerate().map(move |(index, what)| (*what, first + index))
    }

    /// The names of the sources that its rows come from.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &str> {
        self.output.pieces.iter().map(|piece| piece.source.as_str())
    }

    /// [rows, columns] of the output.
    pub(crate) fn rows_cols(&self) -> [usize; 2] {
        rows_cols(&self.output.shape)
    }

    /// Weights.
    pub(crate) fn elements(&self) -> u64 {
        if self.output.shape.contains(&0) {
            return 0; // the other dimensions may be anything, their product too large for a u64
        }
        self.output.shape.iter().map(|&dim| dim as u64).product()
    }

    /// Bytes of its parts.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.byte_len() as u64).sum()
    }

    /// Bits stored per weight, scales and zero points included.
    pub(crate) fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes() as f64 / self.elements().max(1) as f64
    }
}

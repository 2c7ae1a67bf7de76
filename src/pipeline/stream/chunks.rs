//! Chunks: row ranges of a tensor that are processed independently.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::plan::{Action, Format, Plan, TensorPlan};

/// Weights per chunk: 1 MiB in f32, the size of a core's second-level cache.
pub(crate) const CHUNK_ELEMENTS: usize = 1 << 18;

/// Rows of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chunk {
    /// Index into the plan's tensors.
    pub tensor: usize,
    /// Rows of its output.
    pub rows: Range<usize>,
}

/// The number of rows per chunk: about [`CHUNK_ELEMENTS`] weights, in multiples that scheme and format can start at.
pub(crate) fn chunk_rows(format: &dyn Format, tensor: &TensorPlan) -> usize {
    let [_, cols] = tensor.rows_cols();
    let multiple = match &tensor.action {
        Action::Quantize(scheme) => lcm(scheme.row_multiple(), format.row_multiple(scheme)),
        Action::Store(_) => 1,
    };
    (CHUNK_ELEMENTS / cols.max(1)).max(1).next_multiple_of(multiple)
}

fn lcm(a: usize, b: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a.max(1)
    };
    (a / gcd(a, b) * b).max(1)
}

/// The chunks of a tensor. A tensor without rows has one empty chunk, so that it is finished like any other.
pub(crate) fn chunks_of(
    format: &dyn Format,
    index: usize,
    tensor: &TensorPlan,
) -> impl Iterator<Item = Chunk> + use<> {
    let rows = if tensor.elements() == 0 { 0 } else { tensor.rows_cols()[0] };
    let size = chunk_rows(format, tensor);
    (0..rows.div_ceil(size).max(1))
        .map(move |i| Chunk { tensor: index, rows: (i * size).min(rows)..((i + 1) * size).min(rows) })
}

/// Refuses rows that are too long for memory: a chunk has at least one row. No model has such rows.
pub(crate) fn refuse_long_rows(plan: &Plan) -> Result<()> {
    const LONGEST: usize = 1 << 23;
    let long = |tensor: &&TensorPlan| tensor.rows_cols()[1] > LONGEST;
    match plan.tensors.iter().find(long) {
        None => Ok(()),
        Some(tensor) => Err(Error::unsupported(
            format!(
                "{}: a row of {} weights; at most {LONGEST} are worked on",
                tensor.output.name,
                tensor.rows_cols()[1]
            ),
            "is the shape right? `llmc inspect` shows it",
        )),
    }
}

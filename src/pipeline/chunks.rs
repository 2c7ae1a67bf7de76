//! Work is cut into chunks: row ranges of a step that are processed by themselves.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::export::Format;
use crate::plan::{Action, Plan, Step};

/// Weights per chunk: 1 MiB in f32, what a core's second-level cache holds.
pub const CHUNK_ELEMENTS: usize = 1 << 18;

/// Rows of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Index into the plan's steps.
    pub step: usize,
    /// Rows of its output.
    pub rows: Range<usize>,
}

/// Rows per chunk: about [`CHUNK_ELEMENTS`], in multiples that scheme and format can start at.
pub fn chunk_rows(format: &dyn Format, step: &Step) -> usize {
    let [_, cols] = step.rows_cols();
    let multiple = match &step.action {
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

/// The chunks of a step; one empty chunk for a tensor without rows, so that it is finished like any other.
pub fn chunks_of(format: &dyn Format, index: usize, step: &Step) -> impl Iterator<Item = Chunk> + use<> {
    let rows = if step.elements() == 0 { 0 } else { step.rows_cols()[0] };
    let size = chunk_rows(format, step);
    (0..rows.div_ceil(size).max(1))
        .map(move |i| Chunk { step: index, rows: (i * size).min(rows)..((i + 1) * size).min(rows) })
}

/// Refuses rows that would be too much in memory: a row is the least that is worked on, and models have none such.
pub fn refuse_long_rows(plan: &Plan) -> Result<()> {
    const LONGEST: usize = 1 << 23;
    let long = |step: &&Step| step.rows_cols()[1] > LONGEST;
    match plan.steps.iter().find(long) {
        None => Ok(()),
        Some(step) => Err(Error::unsupported(
            format!(
                "{}: a row of {} weights; at most {LONGEST} are worked on",
                step.output.name,
                step.rows_cols()[1]
            ),
            "is the shape right? `llmc inspect` shows it",
        )),
    }
}

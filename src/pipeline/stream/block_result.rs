//! The results of stages for some tensors, which replace the values of the checkpoint.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use ndarray::Array2;

use crate::error::Result;
use crate::io::{Checkpoint, Source};
use crate::numerics::{Extent, LowRank, QTensor};
use crate::plan::{Measured, OutputTensor};

/// The result of a compressed block, or of the edits outside the blocks: what the writer needs, by the name of the source
/// that it replaces.
#[derive(Default)]
pub(crate) struct BlockResult {
    /// Rewritten values, [rows, cols]; a vector is one row.
    pub values: HashMap<String, Array2<f32>>,
    /// Codes.
    pub codes: HashMap<String, QTensor>,
    /// The extents of rewritten values (of fused groups), where schemes need them.
    pub extents: HashMap<String, Extent>,
    /// Importance of each column, for methods that quantize row by row.
    pub importance: HashMap<String, Vec<f32>>,
    /// Measured scales of the inputs and outputs of the sources' linears.
    pub scales: HashMap<(String, Measured), f32>,
    /// Factors that are added to the values of codes, for the adapter.
    pub factors: HashMap<String, LowRank>,
    /// Edits of matrices that are too large for memory, applied to rows as they are read.
    pub edits: HashMap<String, RowEdit>,
}

/// Rewrites rows, [rows, cols].
pub(crate) type RowEdit = Arc<dyn Fn(&mut Array2<f32>) -> Result<()> + Send + Sync>;

impl BlockResult {
    /// Returns true if a source has other values than in the checkpoint.
    pub(crate) fn rewrites(&self, source: &str) -> bool {
        self.values.contains_key(source) || self.edits.contains_key(source)
    }

    /// A measured scale of an output.
    pub(crate) fn scale(&self, output: &OutputTensor, what: Measured) -> Option<f32> {
        let source = output.pieces.first()?.source.clone();
        self.scales.get(&(source, what)).copied()
    }

    /// The rows of an output in runs of one source each, with the importance of the source's columns.
    pub(crate) fn by_importance<'a>(
        &'a self,
        output: &'a OutputTensor,
        rows: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, Option<&'a Vec<f32>>)> {
        let mut end = 0;
        output.pieces.iter().filter_map(move |piece| {
            let start = end;
            end += piece.rows.len();
            let run = rows.start.max(start)..rows.end.min(end);
            (!run.is_empty()).then(|| (run, self.importance.get(&piece.source)))
        })
    }
}

/// A checkpoint, and results that replace some of it.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// The checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// The results; `None` for the checkpoint as it is.
    pub result: Option<&'a BlockResult>,
}

impl<'a> Input<'a> {
    /// A checkpoint as it is.
    pub(crate) fn plain(checkpoint: &'a Checkpoint) -> Self {
        Input { checkpoint, result: None }
    }

    /// Returns true if a source has other values than in the checkpoint.
    pub(crate) fn rewrites(&self, source: &str) -> bool {
        self.result.is_some_and(|result| result.rewrites(source))
    }

    /// The codes of a source, if it has any.
    pub(crate) fn codes(&self, source: &str) -> Option<&'a QTensor> {
        self.result.and_then(|result| result.codes.get(source))
    }

    /// Returns true if any source of an output has other values than in the checkpoint.
    pub(crate) fn rewrites_any(&self, output: &OutputTensor) -> bool {
        output.pieces.iter().any(|piece| self.rewrites(&piece.source))
    }

    /// The extent of an output's rewritten sources; `None` if they are not rewritten, or their scheme needs none.
    pub(crate) fn extent(&self, output: &OutputTensor) -> Option<Extent> {
        let extents = &self.result?.extents;
        output.pieces.iter().filter_map(|piece| extents.get(&piece.source).copied()).reduce(Extent::union)
    }

    /// Reads rows of a source in f32.
    pub(crate) fn read_rows(&self, source: &Source, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        if let Some(values) = self.result.and_then(|result| result.values.get(&source.name)) {
            let cols = values.ncols();
            let values = values.as_slice().expect("results are stored by rows");
            out.copy_from_slice(&values[rows.start * cols..rows.end * cols]);
            return Ok(());
        }
        self.checkpoint.read_rows(source, rows.clone(), out)?;
        let Some(edit) = self.result.and_then(|result| result.edits.get(&source.name)) else { return Ok(()) };
        let shape = (rows.len(), out.len() / rows.len().max(1));
        let mut values = Array2::from_shape_vec(shape, out.to_vec()).expect("rows are whole");
        edit(&mut values)?;
        out.copy_from_slice(values.as_slice().expect("edits keep the order of rows"));
        Ok(())
    }
}

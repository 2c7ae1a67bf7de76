//! A block between its stages.

use super::report::BlockReport;
use crate::stage::{Block, Stage};

/// A block in work.
pub(crate) struct Work {
    pub block: Block,
    /// True if a stage may have changed weights, biases or norms that stay dense.
    pub edited: bool,
    /// True if a stage has scaled or mixed columns, so that statistics of the original model are no longer those of the inputs.
    pub rewritten: bool,
    pub report: BlockReport,
    /// The largest key and value of the last pass that looked for them.
    pub key_values: [f32; 2],
}

impl Work {
    /// Notes what a stage may have changed.
    pub(crate) fn note(&mut self, stage: &Stage) {
        self.edited |= stage.edits();
        self.rewritten |= stage.edits() && !matches!(stage, Stage::Prune(_));
    }
}

/// Sets the importance of the columns of each linear, if its inputs are known.
pub(crate) fn weigh_columns(block: &mut Block) {
    for linear in &mut block.linears {
        linear.importance = linear.input.map(|input| block.inputs[input].second_moment());
    }
}

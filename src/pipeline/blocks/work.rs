//! A block between its stages.

use super::report::BlockReport;
use crate::stage::Block;

/// A block in work.
pub(crate) struct Work {
    pub block: Block,
    /// True if a stage may have changed weights, biases or norms that stay dense.
    pub edited: bool,
    pub report: BlockReport,
    /// The largest key and value of the last pass that looked for them.
    pub key_values: [f32; 2],
}

/// Sets the importance of the columns of each linear, if its inputs are known.
pub(crate) fn weigh_columns(block: &mut Block) {
    for linear in &mut block.linears {
        linear.importance = linear.input.map(|input| block.inputs[input].second_moment());
    }
}

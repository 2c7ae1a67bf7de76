//! `gemv`: a product of one row. Each block has a strip of W, or a part of its depth.

use super::device::{Device, Properties};
use super::layout::DEPTH;
use super::product::{Product, Splits, Tiling, expect};
use super::workspace::Workspace;
use crate::error::Result;

/// Shared memory of a block beside its part of x.
pub(super) const RING_BYTES: usize = 58_368;

/// y = x·Wᵀ + bias for one row, with the depth in at most `splits` parts.
///
/// # Errors
/// For more than one row, parts that do not fit, and what the device refuses.
pub fn gemv(device: &dyn Device, product: &Product, splits: usize, workspace: &mut Workspace) -> Result<()> {
    product.check(device)?;
    expect("rows of x for gemv", 1, product.batch())?;
    let splits = Splits::of(product.weight.depth(), splits);
    let kernel = format!("gemv_{}", product.weight.suffix());
    let tiling = Tiling::strips(kernel, product, RING_BYTES + 2 * splits.depth, splits);
    product.launch(device, tiling, splits, workspace)
}

/// The fewest parts whose inputs a block can hold: rows of x, beside `fixed` bytes.
pub(super) fn least_splits(properties: &Properties, fixed: usize, rows: usize, depth: usize) -> usize {
    let room = (properties.shared_bytes as usize).saturating_sub(fixed) / (2 * rows);
    depth.div_ceil((room / DEPTH * DEPTH).max(DEPTH))
}

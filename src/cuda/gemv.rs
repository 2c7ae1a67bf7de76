//! `gemv`: a product of one row. Each block has a strip of W, or a part of its depth.

use super::device::Device;
use super::product::{PackedProduct, Splits, Tiling, expect};
use super::types::Bits;
use super::workspace::Workspace;
use crate::error::Result;

/// Computes y = x·Wᵀ + bias for one row, with the depth in at most `splits` parts.
///
/// # Errors
/// If there is more than one row, if the operands do not fit together, or if the device fails.
pub fn gemv(
    device: &dyn Device,
    product: &PackedProduct,
    splits: usize,
    workspace: &mut Workspace,
) -> Result<()> {
    product.check(device)?;
    expect("rows of x for gemv", 1, product.batch())?;
    let splits = Splits::of(product.weight.depth(), splits);
    let kernel = format!("gemv_{}", product.weight.suffix());
    let tiling = Tiling::strips(kernel, product, shared_bytes(product), splits);
    product.launch(device, tiling, splits, workspace)
}

/// Returns the shared memory of a block: twelve stages. A stage has 4 KiB of codes, their scales and zero points, and
/// the same columns of each row of x, with 16 bytes between rows.
pub(super) fn shared_bytes(product: &PackedProduct) -> usize {
    let columns = match product.weight.bits() {
        Bits::W4 => 128,
        Bits::W8 => 64,
    };
    12 * (4864 + product.batch() * (2 * columns + 16))
}

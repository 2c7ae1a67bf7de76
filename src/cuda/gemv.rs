//! `gemv`: a product of one row. Each block has a strip of W, or a part of its depth.

use super::Bits;
use super::device::Device;
use super::product::{Product, Splits, Tiling, expect};
use super::workspace::Workspace;
use crate::error::Result;

/// y = x·Wᵀ + bias for one row, with the depth in at most `splits` parts.
///
/// # Errors
/// For more than one row, parts that do not fit, and what the device refuses.
pub fn gemv(device: &dyn Device, product: &Product, splits: usize, workspace: &mut Workspace) -> Result<()> {
    product.check(device)?;
    expect("rows of x for gemv", 1, product.batch())?;
    let splits = Splits::of(product.weight.depth(), splits);
    let kernel = format!("gemv_{}", product.weight.suffix());
    let tiling = Tiling::strips(kernel, product, shared_bytes(product), splits);
    product.launch(device, tiling, splits, workspace)
}

/// Of a block: twelve stages of 4 KiB of codes, their scales and zero points, and what rows of x hold of the same columns, 16 bytes apart.
pub(super) fn shared_bytes(product: &Product) -> usize {
    let columns = match product.weight.bits() {
        Bits::W4 => 128,
        Bits::W8 => 64,
    };
    12 * (4864 + product.batch() * (2 * columns + 16))
}

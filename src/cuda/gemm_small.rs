//! `gemm_small`: a product of up to 8 rows. The operands are swapped: the rows of x fill the narrow side of the matrix
//! instruction, and W is read once, as in `gemv`.

use super::device::Device;
use super::gemv::shared_bytes;
use super::product::{PackedProduct, Splits, Tiling};
use super::workspace::Workspace;
use crate::error::{Error, Result};

/// Maximum number of rows.
pub(crate) const MOST_ROWS: usize = 8;

/// Computes y = x·Wᵀ + bias for up to 8 rows, with the depth in at most `splits` parts.
///
/// # Errors
/// If there are more rows, if the operands do not fit together, or if the device fails.
pub fn gemm_small(
    device: &dyn Device,
    product: &PackedProduct,
    splits: usize,
    workspace: &mut Workspace,
) -> Result<()> {
    product.check(device)?;
    let m = product.batch();
    if m > MOST_ROWS {
        let what = format!("gemm_small: {m} rows, and it takes {MOST_ROWS} at most");
        return Err(Error::unsupported(what, "use `gemm`"));
    }
    let splits = Splits::of(product.weight.depth(), splits);
    let kernel = format!("gemm_small_{}", product.weight.suffix());
    let tiling = Tiling::strips(kernel, product, shared_bytes(product), splits);
    product.launch(device, tiling, splits, workspace)
}

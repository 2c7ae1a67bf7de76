//! `gemm_small`: a product of up to 8 rows. The operands are swapped, so that the rows fill the narrow side of the matrix
//! instruction and W is read once, as by `gemv`.

use super::device::{Device, Geometry, Properties};
use super::gemv::RING_BYTES;
use super::layout::{DEPTH, STRIP};
use super::product::{Product, Splits, Tiling};
use super::workspace::Workspace;
use crate::error::{Error, Result};

/// Most rows.
pub const MOST_ROWS: usize = 8;

/// y = x·Wᵀ + bias for up to 8 rows, with the depth in at most `splits` parts.
///
/// # Errors
/// For more rows, parts that do not fit, and what the device refuses.
pub fn gemm_small(
    device: &dyn Device,
    product: &Product,
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
    let strips = product.weight.strips();
    let tiling = Tiling {
        kernel: format!("gemm_small_{}", product.weight.suffix()),
        geometry: Geometry {
            grid: [strips, splits.count, 1],
            block: 128,
            shared_bytes: shared_bytes(m, splits.depth),
        },
        sums: splits.count * m * strips * STRIP,
        tickets: strips,
    };
    product.launch(device, tiling, splits, workspace)
}

/// Rows of x lie 8 elements further apart than they are long, so that they fall into different banks.
fn shared_bytes(m: usize, depth: usize) -> usize {
    RING_BYTES + m * (2 * depth + 16)
}

/// The fewest parts whose inputs a block can hold.
pub(super) fn least_splits(properties: &Properties, m: usize, depth: usize) -> usize {
    let room = (properties.shared_bytes as usize).saturating_sub(shared_bytes(m, 0)) / (2 * m);
    depth.div_ceil((room / DEPTH * DEPTH).max(DEPTH))
}

//! `gemm`: a product of any number of rows, in tiles of 16 to 128 rows × 256 outputs.

use super::device::{Device, Properties};
use super::product::{PackedProduct, Shape, Splits, Tiling};
use super::types::Bits;
use super::workspace::Workspace;
use crate::error::{Error, Result};

/// Tile heights that have a kernel, in rows.
pub const TILE_ROWS: [usize; 4] = [16, 32, 64, 128];
/// Outputs per tile.
pub(super) const TILE_OUTPUTS: usize = 256;

/// Computes y = x·Wᵀ + bias in tiles of `rows` rows, with the depth in at most `splits` parts.
///
/// # Errors
/// If no kernel has such tiles, if the operands do not fit together, or if the device fails.
pub fn gemm(
    device: &dyn Device,
    product: &PackedProduct,
    rows: usize,
    splits: usize,
    workspace: &mut Workspace,
) -> Result<()> {
    product.check(device)?;
    check_tile("gemm", &TILE_ROWS, rows)?;
    let splits = Splits::of(product.weight.depth(), splits);
    let kernel = format!("gemm_{}_m{rows}", product.weight.suffix());
    let shared_bytes = shared_bytes(product.weight.bits, rows);
    let shape = Shape { tile: [rows, TILE_OUTPUTS], shared_bytes };
    product.launch(device, Tiling::tiles(kernel, product.y.shape(), shape, splits), splits, workspace)
}

/// Returns the shared memory of a block: stages of x, codes, scales and zero points.
fn shared_bytes(bits: Bits, rows: usize) -> usize {
    let (stages, codes) = match bits {
        Bits::W4 => (4, 8_192),
        Bits::W8 => (3, 16_384),
    };
    stages * (128 * rows + codes + 1_536)
}

/// Returns true if the device has enough shared memory for a block of this tile.
pub(super) fn fits(properties: &Properties, bits: Bits, rows: usize) -> bool {
    shared_bytes(bits, rows) <= properties.shared_bytes as usize
}

pub(super) fn check_tile(kernel: &str, there_are: &[usize], rows: usize) -> Result<()> {
    if there_are.contains(&rows) {
        return Ok(());
    }
    let what = format!("{kernel}: tiles of {rows} rows, where there are {there_are:?}");
    Err(Error::unsupported(what, "choose one of these"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures of kernels/README.md.
    #[test]
    fn shared_memory_is_what_the_kernels_say() {
        let of = |bits| TILE_ROWS.map(|rows| shared_bytes(bits, rows));
        assert_eq!(of(Bits::W4), [47_104, 55_296, 71_680, 104_448]);
        assert_eq!(of(Bits::W8), [59_904, 66_048, 78_336, 102_912]);
    }
}

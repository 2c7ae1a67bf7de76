//! `gemm_sm90`: a product of many rows by Hopper's `wgmma`, in tiles of 128 rows × 256 outputs. For compute capability 9.0 and no other:
//! the instruction is of sm_90a alone.

use super::Bits;
use super::device::{Device, Geometry, Properties};
use super::gemm::TILE_OUTPUTS;
use super::product::{Product, Splits, Tiling};
use super::workspace::Workspace;
use crate::error::{Error, Result};

/// Rows of a tile.
pub(super) const ROWS: usize = 128;

/// y = x·Wᵀ + bias, with the depth in at most `splits` parts.
///
/// # Errors
/// On other devices than Hopper, for parts that do not fit, and what the device refuses.
pub fn gemm_sm90(
    device: &dyn Device,
    product: &Product,
    splits: usize,
    workspace: &mut Workspace,
) -> Result<()> {
    product.check(device)?;
    let properties = device.properties();
    if !fits(properties) {
        let (name, capability) = (&properties.name, properties.capability);
        let what = format!("gemm_sm90 on {name}: it is for compute capability 90 alone, found {capability}");
        return Err(Error::unsupported(what, "use `gemm`"));
    }
    let splits = Splits::of(product.weight.depth(), splits);
    let (x, y) = (product.batch().div_ceil(ROWS), product.weight.rows.div_ceil(TILE_OUTPUTS));
    let shared_bytes = match product.weight.bits {
        Bits::W4 => 159_744,
        Bits::W8 => 208_896,
    };
    let tiling = Tiling {
        kernel: format!("gemm_sm90_{}", product.weight.suffix()),
        geometry: Geometry { grid: [x, y, splits.count], block: 256, shared_bytes },
        sums: x * y * splits.count * ROWS * TILE_OUTPUTS,
        tickets: x * y,
    };
    product.launch(device, tiling, splits, workspace)
}

/// Whether the device has the instruction.
pub(super) fn fits(properties: &Properties) -> bool {
    properties.capability == 90
}

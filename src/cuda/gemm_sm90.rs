//! `gemm_sm90`: a product of many rows by Hopper's `wgmma`, in tiles of 128 rows × 256 outputs. It needs compute
//! capability 9.0 exactly: only sm_90a has the instruction.

use super::device::{Device, Properties};
use super::gemm::TILE_OUTPUTS;
use super::product::{PackedProduct, Shape, Splits, Tiling};
use super::types::Bits;
use super::workspace::Workspace;
use crate::error::{Error, Result};

/// Rows per tile.
pub(super) const ROWS: usize = 128;

/// Computes y = x·Wᵀ + bias, with the depth in at most `splits` parts.
///
/// # Errors
/// If the device is not a Hopper GPU, if the operands do not fit together, or if the device fails.
pub fn gemm_sm90(
    device: &dyn Device,
    product: &PackedProduct,
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
    let kernel = format!("gemm_sm90_{}", product.weight.suffix());
    let shared_bytes = match product.weight.bits {
        Bits::W4 => 159_744,
        Bits::W8 => 208_896,
    };
    let shape = Shape { tile: [ROWS, TILE_OUTPUTS], shared_bytes };
    product.launch(device, Tiling::tiles(kernel, product.y.shape(), shape, splits), splits, workspace)
}

/// Returns true if the device has the instruction.
pub(super) fn fits(properties: &Properties) -> bool {
    properties.capability == 90
}

//! `w8a8`: INT8 weights × INT8 activations, summed in int32; the scales are multiplied in at the end.

use super::buffer::Buffer;
use super::device::{Device, Parameter, launch};
use super::gemm::check_tile;
use super::matrix::{Matrix, Weight, same_device};
use super::product::{PackedProduct, Shape, Splits, Tiling, check_bias, check_output, expect};
use super::quantize_activations::{QuantizedActivations, quantize_activations};
use super::types::Bits;
use super::workspace::Workspace;
use crate::error::{Error, Result};

/// Tile heights that have a kernel, in rows.
pub const TILE_ROWS: [usize; 2] = [32, 128];
/// Outputs per tile.
pub(super) const TILE_OUTPUTS: usize = 128;

/// The product y\[m\]\[n\] = x\[m\]\[k\]·W\[n\]\[k\]ᵀ + bias\[n\] of rounded rows.
#[derive(Debug)]
pub struct Int8Product<'a> {
    /// W: 8 bits, symmetric, one scale per channel.
    pub weight: &'a Weight,
    /// x, rounded to INT8.
    pub x: &'a QuantizedActivations,
    /// n elements.
    pub bias: Option<&'a Buffer>,
    /// y, rows without gaps.
    pub y: &'a mut Matrix,
}

impl Int8Product<'_> {
    fn check(&self, device: &dyn Device) -> Result<()> {
        let w = self.weight;
        if w.bits != Bits::W8 || w.zeros.is_some() || w.group != w.depth() {
            let what = format!("w8a8 over {}: it takes symmetric INT8 with one scale per channel", w.scheme);
            return Err(Error::unsupported(
                what,
                "quantize with --scheme w8a8, or keep the activations in half",
            ));
        }
        expect("columns of x", w.cols, self.x.cols)?;
        check_output(self.y, [self.x.rows, w.rows], w.half)?;
        check_bias(self.bias, w.rows)?;
        let mut buffers = w.buffers();
        buffers.extend([&self.x.codes, &self.x.scales, self.y.buffer()]);
        buffers.extend(self.bias);
        same_device(device, &buffers)
    }
}

/// Computes y = x·Wᵀ + bias in tiles of `rows` rows, with the depth in at most `splits` parts.
///
/// # Errors
/// If the weight has another form, if the operands do not fit together, or if the device fails.
pub fn w8a8(
    device: &dyn Device,
    product: &Int8Product,
    rows: usize,
    splits: usize,
    workspace: &mut Workspace,
) -> Result<()> {
    product.check(device)?;
    check_tile("w8a8", &TILE_ROWS, rows)?;
    let w = product.weight;
    let m = product.x.rows;
    let splits = Splits::of(w.depth(), splits);
    let shape = Shape { tile: [rows, TILE_OUTPUTS], shared_bytes: 3 * (128 * rows + 16_384) };
    let tiling = Tiling::tiles(format!("w8a8_{}_m{rows}", w.half), [m, w.rows], shape, splits);
    let shared = tiling.reserve(device, splits, workspace)?;
    let parameter = Parameter::default()
        .pointer(Some(product.y.buffer()))
        .pointer(Some(&product.x.codes))
        .pointer(Some(&product.x.scales))
        .pointer(Some(&w.codes))
        .pointer(Some(&w.scales))
        .pointer(product.bias)
        .pointer(shared.scratch)
        .pointer(shared.tickets)
        .pair(m, w.rows)
        .pair(w.cols, splits.depth);
    launch(device, tiling.kernel, tiling.geometry, parameter)
}

/// Rounds each row of x to INT8 and computes y = x·Wᵀ + bias: `quantize_activations`, then `w8a8`.
///
/// # Errors
/// The errors of [`w8a8`] and [`quantize_activations`].
pub(crate) fn round_and_multiply(
    device: &dyn Device,
    product: &mut PackedProduct,
    rows: usize,
    splits: usize,
    workspace: &mut Workspace,
) -> Result<()> {
    let mut x = workspace.take_rounded(device, product.x.half(), product.x.shape())?;
    quantize_activations(device, product.x, &mut x)?;
    let PackedProduct { weight, bias, y, .. } = product;
    w8a8(device, &Int8Product { weight, x: &x, bias: *bias, y }, rows, splits, workspace)?;
    workspace.keep_rounded(x);
    Ok(())
}

//! `dequantize`: codes → values of half precision, row-major. Also the product that uses these values and the vendor's
//! library; it is for so many rows that writing W costs little.

use super::buffer::Buffer;
use super::dense_product::DenseProduct;
use super::device::{Device, Geometry, Parameter, launch};
use super::layout::{DEPTH, STRIP};
use super::matrix::{Matrix, Weight, bytes_of, same_device};
use super::product::{PackedProduct, expect};
use super::workspace::Workspace;
use crate::error::{Error, Result};

/// Shared memory of a tile of 64 rows × 128 columns, with 16 bytes between rows.
const SHARED_BYTES: usize = STRIP * (2 * DEPTH + 16);

/// Computes w\[n\]\[k\] = (code − zero point)·scale, rounded once.
///
/// # Errors
/// If w has another shape or type or is not contiguous, or if the device fails.
pub fn dequantize(device: &dyn Device, weight: &Weight, w: &mut Matrix) -> Result<()> {
    expect("rows of w", weight.rows, w.shape()[0])?;
    expect("columns of w", weight.cols, w.shape()[1])?;
    expect("elements from one row of w to the next", weight.cols, w.stride())?;
    if w.half() != weight.half {
        let what = format!("w is of type {}, the weight was packed for {}", w.half(), weight.half);
        return Err(Error::unsupported(what, "allocate w in the type of the activations"));
    }
    write(device, weight, w.buffer())
}

/// Computes y = x·Wᵀ from a dense W in the workspace. The product must have no bias.
///
/// # Errors
/// If there is a bias, if the operands do not fit together, or if the device fails.
pub fn dequantize_and_multiply(
    device: &dyn Device,
    product: &PackedProduct,
    workspace: &mut Workspace,
) -> Result<()> {
    product.check(device)?;
    if product.bias.is_some() {
        let what = "a product with a bias does not go through the vendor's library";
        return Err(Error::unsupported(what, "use `gemm`"));
    }
    let [n, k] = product.weight.shape();
    let w = workspace.dense(device, bytes_of(&[n, k], 2)?)?;
    write(device, product.weight, w)?;
    let PackedProduct { x, y, .. } = product;
    let (x, y) = ((x.buffer(), x.stride()), (y.buffer(), y.stride()));
    device.multiply(&DenseProduct::new(product.weight.half, [product.batch(), n, k], x, (w, k), y))
}

/// Launches the kernel; the caller has checked the size of `w`.
fn write(device: &dyn Device, weight: &Weight, w: &Buffer) -> Result<()> {
    let mut buffers = weight.buffers();
    buffers.push(w);
    same_device(device, &buffers)?;
    let parameter = Parameter::default()
        .pointer(Some(w))
        .pointer(Some(&weight.codes))
        .pointer(Some(&weight.scales))
        .pointer(weight.zeros.as_ref())
        .pair(weight.rows, weight.cols)
        .pair(weight.group, 0);
    let grid = [weight.depth() / DEPTH, weight.strips(), 1];
    let geometry = Geometry { grid, block: 256, shared_bytes: SHARED_BYTES };
    launch(device, format!("dequantize_{}", weight.suffix()), geometry, parameter)
}

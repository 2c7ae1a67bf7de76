//! `dequantize`: codes → values of half precision, row-major; and the product that goes through them and the vendor's library,
//! for so many rows that writing W out costs little.

use super::device::{Buffer, DenseProduct, Device, Geometry, Parameter, launch};
use super::layout::{DEPTH, STRIP};
use super::matrix::{Matrix, Weight, bytes_of, same_device};
use super::product::{Product, expect};
use super::workspace::Workspace;
use crate::error::{Error, Result};

/// A tile of 64 rows × 128 columns, its rows 16 bytes further apart than they are long.
const SHARED_BYTES: usize = STRIP * (2 * DEPTH + 16);

/// w\[n\]\[k\] = (code − zero point)·scale, rounded once.
///
/// # Errors
/// Where w has another shape or type, or is not contiguous; what the device refuses.
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

/// y = x·Wᵀ by way of W in the workspace. Without a bias.
///
/// # Errors
/// With a bias, for parts that do not fit, and what the device refuses.
pub fn dequantize_and_multiply(
    device: &dyn Device,
    product: &Product,
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
    device.multiply(&DenseProduct {
        half: product.weight.half,
        size: [product.batch(), n, k],
        x: (product.x.buffer().address(), product.x.stride()),
        w: (w.address(), k),
        y: (product.y.buffer().address(), product.y.stride()),
    })
}

/// `w` has been checked to hold the values.
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

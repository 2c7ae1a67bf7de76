//! [`PackedProduct`]: y = x·Wᵀ + bias over a packed weight. Also the common parts of `gemv`, `gemm_small` and `gemm`:
//! checks of the operands, the split of the depth, and the kernel parameter.

use super::buffer::Buffer;
use super::device::{Device, Geometry, Parameter, launch};
use super::layout::{DEPTH, STRIP};
use super::matrix::{Matrix, Weight, same_device};
use super::problem::Problem;
use super::types::Half;
use super::workspace::{SplitBuffers, Workspace};
use crate::error::{Error, Result};

/// The product y\[m\]\[n\] = x\[m\]\[k\]·W\[n\]\[k\]ᵀ + bias\[n\], all on one device and in the type that the weight
/// was packed for.
#[derive(Debug)]
pub struct PackedProduct<'a> {
    /// W.
    pub weight: &'a Weight,
    /// x, with rows aligned to 16 bytes.
    pub x: &'a Matrix,
    /// n elements; see [`upload_vector`](super::upload_vector).
    pub bias: Option<&'a Buffer>,
    /// y, rows without gaps.
    pub y: &'a mut Matrix,
}

/// The division of a product's depth among blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Splits {
    /// Blocks that share an output.
    pub count: usize,
    /// Columns of each block, a multiple of 128.
    pub depth: usize,
}

impl Splits {
    /// Splits `depth` padded columns into at most `wanted` parts, equally deep except the last.
    pub(crate) fn of(depth: usize, wanted: usize) -> Splits {
        let chunks = depth.div_ceil(DEPTH).max(1);
        let each = chunks.div_ceil(wanted.clamp(1, chunks));
        Splits { count: chunks.div_ceil(each), depth: each * DEPTH }
    }
}

/// The launch of a kernel for a product.
pub(super) struct Tiling {
    pub kernel: String,
    pub geometry: Geometry,
    /// Partial sums of all blocks, including padding, if every output is shared.
    pub sums: usize,
    /// Number of shared blocks of outputs.
    pub tickets: usize,
}

/// The tile of y that a block computes at a time.
pub(super) struct Shape {
    /// Rows and columns of y.
    pub tile: [usize; 2],
    pub shared_bytes: usize,
}

impl Tiling {
    /// Assigns a block to each tile of y\[m\]\[n\] and each part of the depth.
    pub(crate) fn tiles(kernel: String, [m, n]: [usize; 2], shape: Shape, splits: Splits) -> Tiling {
        let Shape { tile: [rows, outputs], shared_bytes } = shape;
        let (x, y) = (m.div_ceil(rows), n.div_ceil(outputs));
        let geometry = Geometry { grid: [x, y, splits.count], block: 256, shared_bytes };
        Tiling { kernel, geometry, sums: x * y * splits.count * rows * outputs, tickets: x * y }
    }

    /// Assigns a block to each strip of W and each part of the depth; a block takes its part of all rows of x.
    pub(crate) fn strips(
        kernel: String,
        product: &PackedProduct,
        shared_bytes: usize,
        splits: Splits,
    ) -> Tiling {
        let (m, strips) = (product.batch(), product.weight.strips());
        let geometry = Geometry { grid: [strips, splits.count, 1], block: 128, shared_bytes };
        Tiling { kernel, geometry, sums: splits.count * m * strips * STRIP, tickets: strips }
    }

    /// Reserves memory for partial sums if blocks share outputs.
    pub(crate) fn reserve<'a>(
        &self,
        device: &dyn Device,
        splits: Splits,
        workspace: &'a mut Workspace,
    ) -> Result<SplitBuffers<'a>> {
        if splits.count == 1 {
            return Ok(SplitBuffers::default());
        }
        workspace.split_buffers(device, self.sums, self.tickets)
    }
}

impl PackedProduct<'_> {
    /// Returns the number of rows of x.
    pub(crate) fn batch(&self) -> usize {
        self.x.shape()[0]
    }

    /// Returns the properties that the choice of a kernel depends on.
    pub(crate) fn problem(&self) -> Problem {
        let [n, k] = self.weight.shape();
        Problem {
            bits: self.weight.bits(),
            size: [self.batch(), n, k],
            bias: self.bias.is_some(),
            rounded: false,
        }
    }

    /// Checks that the operands fit together.
    pub(super) fn check(&self, device: &dyn Device) -> Result<()> {
        let [n, k] = self.weight.shape();
        let [m, x_cols] = self.x.shape();
        let half = self.weight.half();
        expect("columns of x", k, x_cols)?;
        check_output(self.y, [m, n], half)?;
        check_bias(self.bias, n)?;
        if self.x.half() != half {
            let what = format!("x is of type {}, the weight was packed for {half}", self.x.half());
            return Err(Error::unsupported(what, "pack the weight for the type of the activations"));
        }
        self.x.check_aligned()?;
        let mut buffers = self.weight.buffers();
        buffers.extend([self.x.buffer(), self.y.buffer()]);
        buffers.extend(self.bias);
        same_device(device, &buffers)
    }

    /// Launches a kernel with the parameter `struct Linear` of `kernels/README.md`, its depth split among blocks.
    pub(super) fn launch(
        &self,
        device: &dyn Device,
        tiling: Tiling,
        splits: Splits,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let w = self.weight;
        let [n, k] = w.shape();
        let shared = tiling.reserve(device, splits, workspace)?;
        let parameter = Parameter::default()
            .pointer(Some(self.y.buffer()))
            .pointer(Some(self.x.buffer()))
            .pointer(Some(&w.codes))
            .pointer(Some(&w.scales))
            .pointer(w.zeros.as_ref())
            .pointer(self.bias)
            .pointer(shared.scratch)
            .pointer(shared.tickets)
            .pair(self.batch(), n)
            .pair(k, self.x.stride())
            .pair(w.group, splits.depth);
        launch(device, tiling.kernel, tiling.geometry, parameter)
    }
}

pub(super) fn expect(what: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let what = format!("{what}: expected {expected}, found {found}");
    Err(Error::unsupported(what, "the shapes of a product are x[m][k], W[n][k], bias[n], y[m][n]"))
}

/// Checks that y is m×n of the right type, without gaps, and that m is from 1 to 2³¹.
pub(super) fn check_output(y: &Matrix, [m, n]: [usize; 2], half: Half) -> Result<()> {
    expect("rows of y", m, y.shape()[0])?;
    expect("columns of y", n, y.shape()[1])?;
    expect("elements from one row of y to the next", n, y.stride())?;
    if y.half() != half {
        let what = format!("y is of type {}, the weight was packed for {half}", y.half());
        return Err(Error::unsupported(what, "allocate y in the type of the activations"));
    }
    if m == 0 || i32::try_from(m).is_err() {
        return Err(Error::unsupported(format!("a product of {m} rows"), "multiply from 1 to 2³¹ rows"));
    }
    Ok(())
}

pub(super) fn check_bias(bias: Option<&Buffer>, n: usize) -> Result<()> {
    bias.map_or(Ok(()), |bias| expect("bytes of the bias", 2 * n, bias.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_the_depth_with_no_empty_block() {
        for depth in (128..6000).step_by(128) {
            for wanted in [0, 1, 2, 3, 5, 7, 16, 46, 47, 1000] {
                let splits = Splits::of(depth, wanted);
                assert!(splits.depth.is_multiple_of(128) && splits.count >= 1);
                assert!(splits.count <= wanted.max(1), "{depth} {wanted}");
                assert!(splits.count * splits.depth >= depth && (splits.count - 1) * splits.depth < depth);
            }
        }
    }
}

//! [`multiply`]: a product by the kernel that a table chooses; [`Linear`]: a layer that is nothing but its weight and bias.

use super::choice::{Choice, Kernel, Table};
use super::device::{Buffer, Device};
use super::matrix::{Matrix, Weight, upload_vector};
use super::product::Product;
use super::workspace::Workspace;
use super::{Half, Packed, dequantize_and_multiply, gemm, gemm_sm90, gemm_small, gemv, round_and_multiply};
use crate::error::Result;

/// y = x·Wᵀ + bias, as chosen.
///
/// # Errors
/// See the kernels' wrappers.
pub fn multiply(
    device: &dyn Device,
    product: &mut Product,
    choice: Choice,
    workspace: &mut Workspace,
) -> Result<()> {
    match choice.kernel {
        Kernel::Gemv => gemv(device, product, choice.splits, workspace),
        Kernel::GemmSmall => gemm_small(device, product, choice.splits, workspace),
        Kernel::Gemm(rows) => gemm(device, product, rows, choice.splits, workspace),
        Kernel::GemmSm90 => gemm_sm90(device, product, choice.splits, workspace),
        Kernel::Dequantize => dequantize_and_multiply(device, product, workspace),
        Kernel::W8A8(rows) => round_and_multiply(device, product, rows, choice.splits, workspace),
    }
}

/// A linear layer over a packed weight.
#[derive(Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Buffer>,
}

impl Linear {
    /// Copies weight and bias to a device.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn upload(device: &dyn Device, packed: &Packed, bias: Option<&[f32]>) -> Result<Linear> {
        let weight = Weight::upload(device, packed)?;
        let bias = bias.map(|bias| upload_vector(device, packed.half(), bias)).transpose()?;
        Ok(Linear { weight, bias })
    }

    /// y\[m\]\[n\] of x\[m\]\[k\], by the kernel that the table chooses.
    ///
    /// # Errors
    /// Where x does not fit, and what the device refuses.
    pub fn forward(
        &self,
        device: &dyn Device,
        table: &Table,
        x: &Matrix,
        workspace: &mut Workspace,
    ) -> Result<Matrix> {
        let (m, [n, _]) = (x.shape()[0], self.weight.shape());
        let mut y = Matrix::allocate(device, self.half(), [m, n], false)?;
        let mut product = Product { weight: &self.weight, x, bias: self.bias.as_ref(), y: &mut y };
        let choice = table.choose(device.properties(), &product.problem())?;
        multiply(device, &mut product, choice, workspace)?;
        Ok(y)
    }

    /// The type of its inputs and outputs.
    pub fn half(&self) -> Half {
        self.weight.half()
    }

    /// Its weight.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }
}

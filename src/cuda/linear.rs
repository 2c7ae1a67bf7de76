//! [`multiply`]: a product with the chosen kernel. [`DeviceLinear`]: a linear layer of a weight and a bias.

use super::buffer::Buffer;
use super::choice::{Choice, KernelTable, ProductKernel};
use super::dequantize::dequantize_and_multiply;
use super::device::Device;
use super::gemm::gemm;
use super::gemm_sm90::gemm_sm90;
use super::gemm_small::gemm_small;
use super::gemv::gemv;
use super::matrix::{Matrix, Weight, upload_vector};
use super::packed::PackedMatrix;
use super::product::PackedProduct;
use super::types::Half;
use super::w8a8::round_and_multiply;
use super::workspace::Workspace;
use crate::error::Result;

/// Computes y = x·Wᵀ + bias with the chosen kernel.
///
/// # Errors
/// The errors of the kernels' wrappers.
pub fn multiply(
    device: &dyn Device,
    product: &mut PackedProduct,
    choice: Choice,
    workspace: &mut Workspace,
) -> Result<()> {
    match choice.kernel {
        ProductKernel::Gemv => gemv(device, product, choice.splits, workspace),
        ProductKernel::GemmSmall => gemm_small(device, product, choice.splits, workspace),
        ProductKernel::Gemm(rows) => gemm(device, product, rows, choice.splits, workspace),
        ProductKernel::GemmSm90 => gemm_sm90(device, product, choice.splits, workspace),
        ProductKernel::Dequantize => dequantize_and_multiply(device, product, workspace),
        ProductKernel::W8A8(rows) => round_and_multiply(device, product, rows, choice.splits, workspace),
    }
}

/// A linear layer over a packed weight in a device's memory.
#[derive(Debug)]
pub struct DeviceLinear {
    weight: Weight,
    bias: Option<Buffer>,
}

impl DeviceLinear {
    /// Copies weight and bias to a device.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn upload(device: &dyn Device, packed: &PackedMatrix, bias: Option<&[f32]>) -> Result<DeviceLinear> {
        let weight = Weight::upload(device, packed)?;
        let bias = bias.map(|bias| upload_vector(device, packed.half(), bias)).transpose()?;
        Ok(DeviceLinear { weight, bias })
    }

    /// Computes y\[m\]\[n\] from x\[m\]\[k\] with the kernel that the table chooses.
    ///
    /// # Errors
    /// If x does not fit, or if the device fails.
    pub fn forward(
        &self,
        device: &dyn Device,
        table: &KernelTable,
        x: &Matrix,
        workspace: &mut Workspace,
    ) -> Result<Matrix> {
        let [m, _] = x.shape();
        let [n, _] = self.weight.shape();
        let mut y = Matrix::allocate(device, self.half(), [m, n], false)?;
        let mut product = PackedProduct { weight: &self.weight, x, bias: self.bias.as_ref(), y: &mut y };
        let choice = table.choose(device.properties(), &product.problem())?;
        multiply(device, &mut product, choice, workspace)?;
        Ok(y)
    }

    /// Returns the type of its inputs and outputs.
    pub(crate) fn half(&self) -> Half {
        self.weight.half()
    }
}

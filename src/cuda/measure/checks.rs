//! The list of checks: every kernel and variant, on shapes that fill no tile.

use std::fmt;

use serde::Serialize;

use super::check::{Accuracy, check_dequantize, check_product, check_rounded_product};
use super::operands::{ProductCase, WeightFormat};
use crate::cuda::choice::{Choice, ProductKernel};
use crate::cuda::device::{Device, Properties};
use crate::cuda::gemm::TILE_ROWS;
use crate::cuda::types::{Bits, Half};
use crate::cuda::w8a8::TILE_ROWS as W8A8_TILE_ROWS;
use crate::cuda::workspace::Workspace;
use crate::error::Result;
use crate::numerics::Granularity;

/// Sizes for kernels of few rows and of many: rows of x, rows of W, columns of both. They are larger than a tile of
/// each kernel and fill none. They are odd, so that rows of y have every alignment and the last copies of x have a few
/// bytes.
const SIZES: [[usize; 3]; 2] = [[1, 1001, 4101], [200, 521, 1999]];
/// Rows of W per processor that fill a GPU with blocks more than once while the depth is split.
const MANY: usize = 160;

/// One check: a case and the kernel to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Check {
    case: ProductCase,
    operation: Operation,
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Dequantize,
    Product(Choice),
    QuantizedProduct([usize; 2]),
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Outcome {
    /// Name of the kernel: `gemm m64`.
    pub kernel: String,
    /// The split of the depth, the format of the weights, and the sizes.
    pub case: String,
    /// The accuracy.
    #[serde(flatten)]
    pub accuracy: Accuracy,
}

/// Returns all checks that a device can run.
pub(crate) fn every_check(properties: &Properties) -> Vec<Check> {
    let many = MANY * properties.processors as usize;
    let mut checks = Vec::new();
    for weights in every_format() {
        let case = ProductCase { weights, size: SIZES[0], bias: false };
        checks.push(Check { case, operation: Operation::Dequantize });
        checks.extend(products(weights, many));
    }
    checks.extend(quantized_products());
    checks.retain(|check| check.fits(properties));
    checks
}

fn every_format() -> Vec<WeightFormat> {
    let mut formats = Vec::new();
    for granularity in
        [Granularity::Group(32), Granularity::Group(64), Granularity::Group(128), Granularity::Channel]
    {
        for zeros in [false, true] {
            for bits in [Bits::W4, Bits::W8] {
                for half in [Half::F16, Half::BF16] {
                    formats.push(WeightFormat { bits, half, granularity, zeros, rounded: false });
                }
            }
        }
    }
    formats
}

/// Returns the checks of each kernel with a number of rows that fills no tile, the depth whole and in parts.
fn products(weights: WeightFormat, many: usize) -> Vec<Check> {
    let few = [
        (ProductKernel::Gemv, 1),
        (ProductKernel::GemmSmall, 1),
        (ProductKernel::GemmSmall, 5),
        (ProductKernel::GemmSmall, 8),
    ];
    let tiles = TILE_ROWS.map(|rows| (ProductKernel::Gemm(rows), rows + rows / 2 + 1));
    let large = [(ProductKernel::GemmSm90, 200), (ProductKernel::Dequantize, 200)];
    // With many blocks, the block that adds the sums differs from run to run. One format of each type is enough to test this.
    let also_many = weights.granularity == Granularity::Group(128) && !weights.zeros;
    let mut checks = Vec::new();
    for (kernel, rows) in few.into_iter().chain(tiles).chain(large) {
        let [_, n, k] = SIZES[usize::from(rows > 8)];
        let bias = rows % 2 == 1 && kernel != ProductKernel::Dequantize;
        for (n, splits) in [(n, 1), (n, 3), (many, 3)].into_iter().take(2 + usize::from(also_many)) {
            let case = ProductCase { weights, size: [rows, n, k], bias };
            checks.push(Check { case, operation: Operation::Product(Choice { kernel, splits }) });
        }
    }
    checks
}

fn quantized_products() -> Vec<Check> {
    let [_, n, k] = SIZES[1];
    let mut checks = Vec::new();
    for rows in W8A8_TILE_ROWS {
        for half in [Half::F16, Half::BF16] {
            let granularity = Granularity::Channel;
            let weights = WeightFormat { bits: Bits::W8, half, granularity, zeros: false, rounded: true };
            let case = ProductCase { weights, size: [rows + 1, n, k], bias: true };
            checks.push(Check { case, operation: Operation::QuantizedProduct([rows, 2]) });
        }
    }
    checks
}

impl Check {
    /// Returns true if the device has the shared memory, the instructions and the library that the kernel needs.
    fn fits(&self, properties: &Properties) -> bool {
        match self.operation {
            Operation::Product(choice) => choice.fits(properties, &self.case.problem()),
            Operation::Dequantize | Operation::QuantizedProduct(_) => true,
        }
    }

    /// Runs the check.
    ///
    /// # Errors
    /// The errors of the wrappers and the device. A wrong output is not an error.
    pub(crate) fn run(&self, device: &dyn Device, seed: u64, workspace: &mut Workspace) -> Result<Outcome> {
        let accuracy = match self.operation {
            Operation::Dequantize => check_dequantize(device, &self.case, seed),
            Operation::Product(choice) => check_product(device, &self.case, choice, seed, workspace),
            Operation::QuantizedProduct(tile) => check_rounded_product(device, &self.case, tile, seed),
        };
        Ok(Outcome { kernel: self.kernel(), case: self.to_string(), accuracy: accuracy? })
    }

    fn kernel(&self) -> String {
        match self.operation {
            Operation::Dequantize => "dequantize".to_owned(),
            Operation::Product(choice) => choice.kernel.to_string(),
            Operation::QuantizedProduct([rows, _]) => ProductKernel::W8A8(rows).to_string(),
        }
    }

    fn splits(&self) -> usize {
        match self.operation {
            Operation::Dequantize => 1,
            Operation::Product(choice) => choice.splits,
            Operation::QuantizedProduct([_, splits]) => splits,
        }
    }
}

impl fmt::Display for Check {
    /// Writes `÷3, int4 g128 symmetric f16, 97×521×1999`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let ProductCase { weights, size: [m, n, k], .. } = self.case;
        write!(f, "÷{}, {} {}, {m}×{n}×{k}", self.splits(), weights.scheme(), weights.half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::tests::Recorder;

    #[test]
    fn every_variant_of_every_kernel_is_checked() {
        let device = Recorder::h100();
        let checks = every_check(device.properties());
        let with = |kernel: &str| checks.iter().filter(|check| check.kernel() == kernel).count();
        let kinds = 2 * 2 * 4 * 2;
        assert_eq!(every_format().len(), kinds);
        assert_eq!(with("dequantize"), kinds);
        assert_eq!(with("gemm m64"), 2 * kinds + 4, "whole and in parts; four of many blocks");
        assert_eq!(with("w8a8 m128"), 2);
        let small = Recorder::new(1, 89, 101_376, 128).without_library();
        let there = every_check(small.properties());
        assert!(
            there
                .iter()
                .all(|check| !["gemm_sm90", "gemm m128", "dequantize + cuBLAS"].contains(&&*check.kernel()))
        );
    }
}

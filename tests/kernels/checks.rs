//! The checks of `llmc bench kernels`, one for each kind of kernel.
#![allow(clippy::unwrap_used)]

use llmc::cuda::measure::{self, ProductCase, WeightFormat};
use llmc::cuda::{Bits, Choice, Device, Half, ProductKernel, Workspace};
use llmc::error::Result;
use llmc::numerics::Granularity;

pub const W4: WeightFormat = WeightFormat {
    bits: Bits::W4,
    half: Half::F16,
    granularity: Granularity::Group(64),
    zeros: true,
    rounded: false,
};
pub const W8: WeightFormat = WeightFormat {
    bits: Bits::W8,
    half: Half::BF16,
    granularity: Granularity::Channel,
    zeros: false,
    rounded: false,
};

/// Returns the largest error of each kind of check, in units of the error that rounding explains.
pub fn worst(device: &dyn Device, sizes: [[usize; 3]; 3]) -> Result<Vec<f64>> {
    let large =
        if device.properties().capability == 90 { ProductKernel::GemmSm90 } else { ProductKernel::Gemm(16) };
    let kernels = [ProductKernel::Gemv, ProductKernel::GemmSmall, large];
    let mut found = Vec::new();
    for weights in [W4, W8] {
        for (size, kernel) in sizes.into_iter().zip(kernels) {
            let (case, choice) =
                (ProductCase { weights, size, bias: size[1] % 2 == 1 }, Choice { kernel, splits: 2 });
            let accuracy = measure::check_product(device, &case, choice, 7, &mut Workspace::new())?;
            assert_eq!(accuracy.outputs, size[0] * size[1]);
            found.push(accuracy.worst);
        }
        let [case, dense] = [sizes[0], sizes[2]].map(|size| ProductCase { weights, size, bias: false });
        let choice = Choice { kernel: ProductKernel::Dequantize, splits: 1 };
        found.push(measure::check_product(device, &dense, choice, 8, &mut Workspace::new())?.worst);
        found.push(measure::check_dequantize(device, &case, 9)?.worst);
    }
    let case = ProductCase { weights: W8, size: sizes[2], bias: true };
    found.push(measure::check_rounded_product(device, &case, [32, 2], 3)?.worst);
    Ok(found)
}

/// Sizes for which the emulator takes little time.
pub const SMALL: [[usize; 3]; 3] = [[1, 70, 300], [3, 65, 400], [10, 40, 129]];

//! Random operands of products, reproducible from a seed.

use rayon::prelude::*;

use crate::cuda::device::Device;
use crate::cuda::matrix::{Matrix, Weight, upload_vector};
use crate::cuda::packed::PackedMatrix;
use crate::cuda::problem::Problem;
use crate::cuda::types::{Bits, Half};
use crate::error::Result;
use crate::numerics::random::SplitMix64;
use crate::numerics::{Granularity, Grid, QTensor, Scheme};

/// The storage format of a layer's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightFormat {
    /// Bits of a code.
    pub bits: Bits,
    /// The type of activations and scales.
    pub half: Half,
    /// The weights that share a scale.
    pub granularity: Granularity,
    /// True if there are zero points.
    pub zeros: bool,
    /// True if inputs are rounded to INT8; the weights then have 8 bits, are symmetric, and have one scale per channel.
    pub rounded: bool,
}

impl WeightFormat {
    /// Returns the scheme.
    pub(crate) fn scheme(&self) -> Scheme {
        Scheme::int(self.bits.count(), self.granularity, !self.zeros, self.half.scale_type())
    }

    /// Returns the name in tables: `int4 g128 symmetric`.
    pub(crate) fn name(&self) -> String {
        format!("{}{}", self.scheme(), if self.rounded { " under int8 inputs" } else { "" })
    }
}

/// The sizes and formats of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductCase {
    /// Format of W.
    pub weights: WeightFormat,
    /// Rows of x, rows of W, columns of both.
    pub size: [usize; 3],
    /// True if there is a bias.
    pub bias: bool,
}

impl ProductCase {
    /// Returns the properties that the choice of a kernel depends on.
    pub fn problem(&self) -> Problem {
        let WeightFormat { bits, rounded, .. } = self.weights;
        Problem { bits, size: self.size, bias: self.bias, rounded }
    }
}

/// The operands of a case in host memory.
pub(super) struct Operands {
    pub q: QTensor,
    pub packed: PackedMatrix,
    pub x: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

/// The operands of a case in a device's memory.
pub(super) struct DeviceOperands {
    pub weight: Weight,
    pub x: Matrix,
    pub bias: Option<crate::cuda::Buffer>,
    pub y: Matrix,
}

impl Operands {
    /// Generates operands: codes over their whole range, scales that differ by a factor of up to three, inputs between
    /// −1 and 1. The type of the activations represents all of them exactly.
    pub(crate) fn new(case: &ProductCase, seed: u64) -> Result<Operands> {
        let [m, n, k] = case.size;
        let half = case.weights.half;
        let q = tensor(&case.weights, [n, k], seed);
        let packed = PackedMatrix::pack(&q, half)?;
        let bias = case.bias.then(|| Operands::inputs(half, n, seed ^ 0xb1a5));
        Ok(Operands { q, packed, x: Operands::inputs(half, m * k, seed ^ 0x5eed), bias })
    }

    /// Returns numbers between −1 and 1 that the type represents exactly.
    pub(crate) fn inputs(half: Half, count: usize, seed: u64) -> Vec<f32> {
        let mut random = SplitMix64(seed);
        (0..count).map(|_| half.decode(half.encode((2.0 * random.unit() - 1.0) as f32))).collect()
    }

    /// Copies the operands to a device; the output is filled with NaN.
    pub(crate) fn upload(&self, device: &dyn Device, m: usize) -> Result<DeviceOperands> {
        let half = self.packed.half();
        let [n, k] = self.packed.shape();
        let mut y = Matrix::allocate(device, half, [m, n], false)?;
        y.poison(device)?;
        Ok(DeviceOperands {
            weight: Weight::upload(device, &self.packed)?,
            x: Matrix::upload(device, half, [m, k], &self.x)?,
            bias: self.bias.as_ref().map(|bias| upload_vector(device, half, bias)).transpose()?,
            y,
        })
    }
}

/// Returns a random tensor [n, k].
pub(super) fn tensor(weights: &WeightFormat, [n, k]: [usize; 2], seed: u64) -> QTensor {
    let (scheme, half, levels) = (weights.scheme(), weights.half, weights.bits.levels());
    let mask = (levels - 1) as u8;
    let mut codes = vec![0u8; n * k];
    codes.par_chunks_mut(1 << 16).enumerate().for_each(|(i, chunk)| {
        let mut random = SplitMix64(seed.wrapping_add((i as u64) << 32));
        for eight in chunk.chunks_mut(8) {
            let bytes = random.next().to_le_bytes();
            eight.iter_mut().zip(bytes).for_each(|(code, byte)| *code = byte & mask);
        }
    });
    let [rows, cols] = scheme.grid_shape(n, k);
    let mut random = SplitMix64(!seed);
    let mut scale = || half.decode(half.encode(((1.0 + 2.0 * random.unit()) / levels as f64) as f32));
    let scales = (0..rows * cols).map(|_| scale()).collect();
    let zeros = if weights.zeros { rows * cols } else { 0 };
    let zero_points = (0..zeros).map(|_| random.below(levels) as u8).collect();
    let grid = Grid { scales, zero_points, global_scale: None };
    QTensor::scalar(scheme, [n, k], codes, grid)
}

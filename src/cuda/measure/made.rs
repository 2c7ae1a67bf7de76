//! Weights and inputs of random numbers, from a seed.

use rayon::prelude::*;

use crate::cuda::{Bits, Device, Half, Matrix, Packed, Problem, Weight, upload_vector};
use crate::error::Result;
use crate::numerics::random::SplitMix64;
use crate::numerics::{Granularity, Grid, QTensor, Scheme};

/// How the weights of a layer are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// Bits of a code.
    pub bits: Bits,
    /// The type of activations and scales.
    pub half: Half,
    /// What shares a scale.
    pub granularity: Granularity,
    /// With zero points.
    pub zeros: bool,
    /// Under inputs that are rounded to INT8: weights of 8 bits, symmetric, with one scale per channel.
    pub rounded: bool,
}

impl Weights {
    /// Their scheme.
    pub fn scheme(&self) -> Scheme {
        Scheme::int(self.bits.count(), self.granularity, !self.zeros, self.half.scale_type())
    }

    /// What tables call them: `int4 g128 symmetric`.
    pub fn name(&self) -> String {
        format!("{}{}", self.scheme(), if self.rounded { " under int8 inputs" } else { "" })
    }
}

/// A product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// W.
    pub weights: Weights,
    /// Rows of x, rows of W, columns of both.
    pub size: [usize; 3],
    /// With a bias.
    pub bias: bool,
}

impl Case {
    /// For choosing how to compute it.
    pub fn problem(&self) -> Problem {
        let Weights { bits, rounded, .. } = self.weights;
        Problem { bits, size: self.size, bias: self.bias, rounded }
    }
}

/// A case with numbers.
pub(super) struct Made {
    pub q: QTensor,
    pub packed: Packed,
    pub x: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

/// A case in a device's memory.
pub(super) struct Uploaded {
    pub weight: Weight,
    pub x: Matrix,
    pub bias: Option<crate::cuda::Buffer>,
    pub y: Matrix,
}

impl Made {
    /// Codes over their whole range, scales that differ by up to three times, inputs between −1 and 1; all of them values that the
    /// type of the activations holds.
    pub fn new(case: &Case, seed: u64) -> Result<Made> {
        let ([m, n, k], half) = (case.size, case.weights.half);
        let q = tensor(&case.weights, [n, k], seed);
        let packed = Packed::pack(&q, half)?;
        let bias = case.bias.then(|| Made::inputs(half, n, seed ^ 0xb1a5));
        Ok(Made { q, packed, x: Made::inputs(half, m * k, seed ^ 0x5eed), bias })
    }

    /// Numbers between −1 and 1 that the type holds.
    pub fn inputs(half: Half, count: usize, seed: u64) -> Vec<f32> {
        let mut random = SplitMix64(seed);
        (0..count).map(|_| half.decode(half.encode((2.0 * random.unit() - 1.0) as f32))).collect()
    }

    /// With an output that holds no number yet.
    pub fn upload(&self, device: &dyn Device, m: usize) -> Result<Uploaded> {
        let half = self.packed.half();
        let [n, k] = self.packed.shape();
        let mut y = Matrix::allocate(device, half, [m, n], false)?;
        y.poison(device)?;
        Ok(Uploaded {
            weight: Weight::upload(device, &self.packed)?,
            x: Matrix::upload(device, half, [m, k], &self.x)?,
            bias: self.bias.as_ref().map(|bias| upload_vector(device, half, bias)).transpose()?,
            y,
        })
    }
}

/// A random tensor [n, k].
pub(super) fn tensor(weights: &Weights, [n, k]: [usize; 2], seed: u64) -> QTensor {
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

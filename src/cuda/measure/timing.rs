//! Timings of kernels with cold caches. A run is a graph of consecutive products, each with another copy of the weight.
//! There are so many copies that the cache no longer holds a copy when it is used again. Inputs and outputs stay in
//! place.

use serde::Serialize;

use super::operands::{Operands, WeightFormat, tensor};
use super::shapes::Layer;
use super::statistics::Times;
use crate::cuda::choice::{Choice, KernelTable};
use crate::cuda::dense_product::DenseProduct;
use crate::cuda::dequantize::dequantize;
use crate::cuda::device::Device;
use crate::cuda::linear::multiply;
use crate::cuda::matrix::{Matrix, Weight};
use crate::cuda::packed::PackedMatrix;
use crate::cuda::problem::Problem;
use crate::cuda::product::PackedProduct;
use crate::cuda::types::Half;
use crate::cuda::workspace::Workspace;
use crate::error::{Error, Result};

/// The batches to time and the number of runs.
#[derive(Debug, Clone)]
pub struct TimingOptions {
    /// Number of runs; the median counts.
    pub runs: usize,
    /// Numbers of rows of x.
    pub batches: Vec<usize>,
    /// Seed of the random numbers.
    pub seed: u64,
}

/// Measured limits of the device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Ceilings {
    /// Bytes per second of a copy within its memory; reads and writes both count.
    pub copy: f64,
    /// Operations per second of a large dense product in f16 by the vendor's library; `None` without the library.
    pub dense: Option<f64>,
}

/// The timing of a product.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerTiming {
    /// The model.
    pub model: &'static str,
    /// The layer in the model.
    pub layer: String,
    /// Rows of x, rows of W, columns of both.
    pub size: [usize; 3],
    /// Format of W: `int4 g128 symmetric`.
    pub weights: String,
    /// The choice of kernel: `gemm m64 ÷4` is in tiles of 64 rows, with the depth in four parts.
    pub kernel: String,
    /// The times.
    pub times: Times,
    /// The times of the vendor's dense product in the same type; `None` without the library.
    pub dense: Option<Times>,
    /// Bytes that must be moved: W, x and y.
    pub bytes: usize,
}

impl LayerTiming {
    /// Returns the bytes per second.
    pub(crate) fn bandwidth(&self) -> f64 {
        self.bytes as f64 / self.times.median
    }

    /// Returns the operations per second.
    pub(crate) fn operations(&self) -> f64 {
        operations(self.size) / self.times.median
    }

    /// Returns the speed relative to the dense product.
    pub(crate) fn speedup(&self) -> Option<f64> {
        Some(self.dense?.median / self.times.median)
    }
}

/// Returns the number of operations; a multiplication and an addition are two.
fn operations([m, n, k]: [usize; 3]) -> f64 {
    2.0 * m as f64 * n as f64 * k as f64
}

/// Side of the dense product that measures the limit.
const SQUARE: usize = 8192;
/// Minimum number of products of a graph, to divide the cost of starting it.
const PIECES: usize = 8;

/// Measures the limits of the device.
///
/// # Errors
/// If there is not enough memory, or if the device cannot measure time.
pub(crate) fn ceilings(device: &dyn Device, runs: usize) -> Result<Ceilings> {
    let bytes = (device.properties().memory_bytes / 8).min(1 << 30);
    let from = device.allocate(bytes)?;
    let mut to = device.allocate(bytes)?;
    let copies = device.time(PIECES, runs, &mut |_| device.copy(&from, &mut to))?;
    drop((from, to));
    Ok(Ceilings { copy: 2.0 * bytes as f64 / median(copies)?.median, dense: dense_ceiling(device, runs)? })
}

fn dense_ceiling(device: &dyn Device, runs: usize) -> Result<Option<f64>> {
    if !device.properties().library {
        return Ok(None);
    }
    // The numbers are random, as in the timings: equal numbers take less power, and the clocks rise.
    let x = random_square(device, 1)?;
    let w = random_square(device, 2)?;
    let y = Matrix::allocate(device, Half::F16, [SQUARE; 2], true)?;
    let times = device.time(PIECES, runs, &mut |_| dense(device, &x, &w, &y))?;
    Ok(Some(operations([SQUARE; 3]) / median(times)?.median))
}

fn random_square(device: &dyn Device, seed: u64) -> Result<Matrix> {
    Matrix::upload(device, Half::F16, [SQUARE; 2], &Operands::inputs(Half::F16, SQUARE * SQUARE, seed))
}

fn dense(device: &dyn Device, x: &Matrix, w: &Matrix, y: &Matrix) -> Result<()> {
    let [m, k] = x.shape();
    let [n, _] = w.shape();
    let [in_x, in_w, in_y] = [x, w, y].map(|matrix| (matrix.buffer(), matrix.stride()));
    device.multiply(&DenseProduct::new(x.half(), [m, n, k], in_x, in_w, in_y))
}

/// Copies of a layer's weight, enough to keep the cache cold.
pub(super) struct Copies {
    pub weights: Vec<Weight>,
    pub half: Half,
    rounded: bool,
}

impl Copies {
    pub(crate) fn new(
        device: &dyn Device,
        weights: &WeightFormat,
        shape: [usize; 2],
        seed: u64,
    ) -> Result<Copies> {
        let first =
            Weight::upload(device, &PackedMatrix::pack(&tensor(weights, shape, seed), weights.half)?)?;
        let count = copies(device, first.bytes());
        let more: Vec<Weight> = (1..count).map(|_| first.duplicate(device)).collect::<Result<_>>()?;
        Ok(Copies {
            weights: std::iter::once(first).chain(more).collect(),
            half: weights.half,
            rounded: weights.rounded,
        })
    }

    /// Times a product with a choice of kernel.
    pub(crate) fn time(&self, device: &dyn Device, x: &Matrix, choice: Choice, runs: usize) -> Result<Times> {
        let [n, _] = self.weights[0].shape();
        let mut y = Matrix::allocate(device, self.half, [x.shape()[0], n], false)?;
        let mut workspace = Workspace::new();
        let mut piece = |i: usize| {
            let weight = &self.weights[i % self.weights.len()];
            multiply(device, &mut PackedProduct { weight, x, bias: None, y: &mut y }, choice, &mut workspace)
        };
        median(device.time(self.weights.len().max(PIECES), runs, &mut piece)?)
    }

    /// Describes a product of `m` rows.
    pub(crate) fn problem(&self, m: usize) -> Problem {
        let [n, k] = self.weights[0].shape();
        Problem { bits: self.weights[0].bits(), size: [m, n, k], bias: false, rounded: self.rounded }
    }

    /// Returns random inputs of `m` rows.
    pub(crate) fn inputs(&self, device: &dyn Device, m: usize, seed: u64) -> Result<Matrix> {
        let [_, k] = self.weights[0].shape();
        Matrix::upload(device, self.half, [m, k], &Operands::inputs(self.half, m * k, seed))
    }

    /// Returns the dequantized weight in copies.
    fn dense(&self, device: &dyn Device) -> Result<Vec<Matrix>> {
        let [n, k] = self.weights[0].shape();
        let mut dense = Vec::new();
        for _ in 0..copies(device, 2 * n * k) {
            let mut w = Matrix::allocate(device, self.half, [n, k], false)?;
            dequantize(device, &self.weights[0], &mut w)?;
            dense.push(w);
        }
        Ok(dense)
    }
}

/// Returns the number of copies with which four times the cache size lies between two uses of one; 1 if the weight is
/// larger than that.
fn copies(device: &dyn Device, bytes: usize) -> usize {
    (4 * device.properties().cache_bytes).div_ceil(bytes.max(1)).max(1)
}

fn median(seconds: Vec<f64>) -> Result<Times> {
    Times::of(seconds)
        .ok_or_else(|| Error::usage("nothing to time: no runs", "give --runs a positive number"))
}

/// Times a layer at every batch with the kernel that the table chooses; W8A8 includes rounding of the inputs. Also
/// times the dense product if there is a library.
///
/// # Errors
/// If there is not enough memory, if the device cannot measure time, or if a kernel fails.
pub fn time_layer(
    device: &dyn Device,
    (layer, weights): (&Layer, &WeightFormat),
    table: &KernelTable,
    timing: &TimingOptions,
) -> Result<Vec<LayerTiming>> {
    let copies = Copies::new(device, weights, layer.shape, timing.seed)?;
    let dense_weights = if device.properties().library { copies.dense(device)? } else { Vec::new() };
    let [n, k] = layer.shape;
    let mut timings = Vec::new();
    for &m in &timing.batches {
        let x = copies.inputs(device, m, timing.seed)?;
        let choice = table.choose(device.properties(), &copies.problem(m))?;
        timings.push(LayerTiming {
            model: layer.model,
            layer: layer.name.clone(),
            size: [m, n, k],
            weights: weights.name(),
            kernel: choice.to_string(),
            times: copies.time(device, &x, choice, timing.runs)?,
            dense: time_dense(device, &x, &dense_weights, timing.runs)?,
            bytes: copies.weights[0].bytes() + 2 * m * (n + k),
        });
    }
    Ok(timings)
}

fn time_dense(device: &dyn Device, x: &Matrix, weights: &[Matrix], runs: usize) -> Result<Option<Times>> {
    let Some(first) = weights.first() else { return Ok(None) };
    let y = Matrix::allocate(device, x.half(), [x.shape()[0], first.shape()[0]], false)?;
    let pieces = weights.len().max(PIECES);
    let times = device.time(pieces, runs, &mut |i| dense(device, x, &weights[i % weights.len()], &y))?;
    median(times).map(Some)
}

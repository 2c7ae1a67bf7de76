//! How long kernels take, with cold caches: a run is a graph of one product after the other, each over another copy of the weight,
//! so many copies that the cache has forgotten a copy when its turn comes again. Inputs and outputs stay where they are.

use serde::Serialize;

use super::made::{Made, Weights, tensor};
use super::shapes::Layer;
use super::statistics::Times;
use crate::cuda::{
    Choice, DenseProduct, Device, Half, Matrix, Packed, Problem, Product, Table, Weight, Workspace,
    dequantize, multiply,
};
use crate::error::{Error, Result};

/// What is timed, and how often.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Runs, of which the median counts.
    pub runs: usize,
    /// Rows of x.
    pub batches: Vec<usize>,
    /// Of the random numbers.
    pub seed: u64,
}

/// What the device does at most, as measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ceilings {
    /// Bytes per second of copying within its memory, read and written.
    pub copy: f64,
    /// Operations per second of a large dense product in f16 by the vendor's library; `None` without it.
    pub dense: Option<f64>,
}

/// A product that was timed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timed {
    /// Of which model.
    pub model: &'static str,
    /// Which of its layers.
    pub layer: String,
    /// Rows of x, rows of W, columns of both.
    pub size: [usize; 3],
    /// How W is stored: `int4 g128 symmetric`.
    pub weights: String,
    /// How it was computed: `gemm m64 ÷4`, in tiles of 64 rows, the depth in four parts.
    pub kernel: String,
    /// What it took.
    pub times: Times,
    /// What the vendor's dense product in the same type took; `None` without the library.
    pub dense: Option<Times>,
    /// Bytes that must be moved: W, x and y.
    pub bytes: usize,
}

impl Timed {
    /// Bytes per second.
    pub fn bandwidth(&self) -> f64 {
        self.bytes as f64 / self.times.median
    }

    /// Operations per second.
    pub fn operations(&self) -> f64 {
        operations(self.size) / self.times.median
    }

    /// How many times as fast as the dense product.
    pub fn speedup(&self) -> Option<f64> {
        Some(self.dense?.median / self.times.median)
    }
}

/// A multiplication and an addition are two.
fn operations([m, n, k]: [usize; 3]) -> f64 {
    2.0 * m as f64 * n as f64 * k as f64
}

/// Side of the dense product that the ceiling is measured with.
const SQUARE: usize = 8192;
/// Products of a graph at least: what starting it takes is divided among them.
const PIECES: usize = 8;

/// Measures the ceilings.
///
/// # Errors
/// Where memory or clock are lacking.
pub fn ceilings(device: &dyn Device, runs: usize) -> Result<Ceilings> {
    let bytes = (device.properties().memory_bytes / 8).min(1 << 30);
    let (from, mut to) = (device.allocate(bytes)?, device.allocate(bytes)?);
    let copies = device.time(PIECES, runs, &mut |_| device.copy(&from, &mut to))?;
    drop((from, to));
    Ok(Ceilings { copy: 2.0 * bytes as f64 / median(copies)?.median, dense: dense_ceiling(device, runs)? })
}

fn dense_ceiling(device: &dyn Device, runs: usize) -> Result<Option<f64>> {
    if !device.properties().library {
        return Ok(None);
    }
    // Random, as what is compared with it: numbers that are all the same take less power, and the clocks rise.
    let numbers = |seed| Made::inputs(Half::F16, SQUARE * SQUARE, seed);
    let square = |seed| Matrix::upload(device, Half::F16, [SQUARE; 2], &numbers(seed));
    let (x, w, y) = (square(1)?, square(2)?, Matrix::allocate(device, Half::F16, [SQUARE; 2], true)?);
    let times = device.time(PIECES, runs, &mut |_| dense(device, &x, &w, &y))?;
    Ok(Some(operations([SQUARE; 3]) / median(times)?.median))
}

fn dense(device: &dyn Device, x: &Matrix, w: &Matrix, y: &Matrix) -> Result<()> {
    let ([m, k], [n, _]) = (x.shape(), w.shape());
    let place = |matrix: &Matrix| (matrix.buffer().address(), matrix.stride());
    device.multiply(&DenseProduct { half: x.half(), size: [m, n, k], x: place(x), w: place(w), y: place(y) })
}

/// A layer's weight in as many copies as keep the cache cold.
pub(super) struct Copies {
    pub weights: Vec<Weight>,
    pub half: Half,
    rounded: bool,
}

impl Copies {
    pub fn new(device: &dyn Device, weights: &Weights, shape: [usize; 2], seed: u64) -> Result<Copies> {
        let first = Weight::upload(device, &Packed::pack(&tensor(weights, shape, seed), weights.half)?)?;
        let count = copies(device, first.bytes());
        let more: Vec<Weight> = (1..count).map(|_| first.duplicate(device)).collect::<Result<_>>()?;
        Ok(Copies {
            weights: std::iter::once(first).chain(more).collect(),
            half: weights.half,
            rounded: weights.rounded,
        })
    }

    /// Times a product by a choice of kernel.
    pub fn time(&self, device: &dyn Device, x: &Matrix, choice: Choice, runs: usize) -> Result<Times> {
        let [n, _] = self.weights[0].shape();
        let mut y = Matrix::allocate(device, self.half, [x.shape()[0], n], false)?;
        let mut workspace = Workspace::new();
        let mut piece = |i: usize| {
            let weight = &self.weights[i % self.weights.len()];
            multiply(device, &mut Product { weight, x, bias: None, y: &mut y }, choice, &mut workspace)
        };
        median(device.time(self.weights.len().max(PIECES), runs, &mut piece)?)
    }

    /// A product of so many rows.
    pub fn problem(&self, m: usize) -> Problem {
        let [n, k] = self.weights[0].shape();
        Problem { bits: self.weights[0].bits(), size: [m, n, k], bias: false, rounded: self.rounded }
    }

    /// Random inputs of so many rows.
    pub fn inputs(&self, device: &dyn Device, m: usize, seed: u64) -> Result<Matrix> {
        let [_, k] = self.weights[0].shape();
        Matrix::upload(device, self.half, [m, k], &Made::inputs(self.half, m * k, seed))
    }

    /// The same weight, dense, in copies.
    fn dense(&self, device: &dyn Device) -> Result<Vec<Matrix>> {
        let [n, k] = self.weights[0].shape();
        let one = || {
            let mut w = Matrix::allocate(device, self.half, [n, k], false)?;
            dequantize(device, &self.weights[0], &mut w)?;
            Ok(w)
        };
        (0..copies(device, 2 * n * k)).map(|_| one()).collect()
    }
}

/// So many that four times the cache lies between two uses of one; one where it is larger than that itself.
fn copies(device: &dyn Device, bytes: usize) -> usize {
    (4 * device.properties().cache_bytes).div_ceil(bytes.max(1)).max(1)
}

fn median(seconds: Vec<f64>) -> Result<Times> {
    Times::of(seconds)
        .ok_or_else(|| Error::usage("nothing to time: no runs", "give --runs a positive number"))
}

/// Times a layer at every batch, by what the table chooses (for W8A8 rounding the inputs, too), beside the dense product where there is a library.
///
/// # Errors
/// Where memory or clock are lacking, and what kernels refuse.
pub fn time_layer(
    device: &dyn Device,
    (layer, weights): (&Layer, &Weights),
    table: &Table,
    timing: &Timing,
) -> Result<Vec<Timed>> {
    let copies = Copies::new(device, weights, layer.shape, timing.seed)?;
    let dense_weights = if device.properties().library { copies.dense(device)? } else { Vec::new() };
    let [n, k] = layer.shape;
    let batch = |&m: &usize| {
        let x = copies.inputs(device, m, timing.seed)?;
        let choice = table.choose(device.properties(), &copies.problem(m))?;
        Ok(Timed {
            model: layer.model,
            layer: layer.name.clone(),
            size: [m, n, k],
            weights: weights.name(),
            kernel: choice.to_string(),
            times: copies.time(device, &x, choice, timing.runs)?,
            dense: time_dense(device, &x, &dense_weights, timing.runs)?,
            bytes: copies.weights[0].bytes() + 2 * m * (n + k),
        })
    };
    timing.batches.iter().map(batch).collect()
}

fn time_dense(device: &dyn Device, x: &Matrix, weights: &[Matrix], runs: usize) -> Result<Option<Times>> {
    let Some(first) = weights.first() else { return Ok(None) };
    let y = Matrix::allocate(device, x.half(), [x.shape()[0], first.shape()[0]], false)?;
    let pieces = weights.len().max(PIECES);
    let times = device.time(pieces, runs, &mut |i| dense(device, x, &weights[i % weights.len()], &y))?;
    median(times).map(Some)
}

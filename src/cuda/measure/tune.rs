//! Tuning: times every choice of kernel for a product and returns the fastest.

use super::operands::WeightFormat;
use super::shapes::Layer;
use super::timing::{Copies, TimingOptions};
use crate::cuda::choice::{Choice, TunedChoice, candidates};
use crate::cuda::device::Device;
use crate::error::Result;

/// Returns the fastest choice for a layer at every batch.
///
/// # Errors
/// If the device cannot measure time, or if every choice fails.
pub fn tune(
    device: &dyn Device,
    layer: &Layer,
    weights: &WeightFormat,
    timing: &TimingOptions,
) -> Result<Vec<TunedChoice>> {
    let copies = Copies::new(device, weights, layer.shape, timing.seed)?;
    let [n, k] = layer.shape;
    let mut tuned = Vec::new();
    for &m in &timing.batches {
        let choice = fastest(device, &copies, m, timing)?;
        let device = device.properties().name.clone();
        tuned.push(TunedChoice { device, bits: weights.bits, n, k, m, choice });
    }
    Ok(tuned)
}

fn fastest(device: &dyn Device, copies: &Copies, m: usize, timing: &TimingOptions) -> Result<Choice> {
    let x = copies.inputs(device, m, timing.seed)?;
    let mut best: Option<(f64, Choice)> = None;
    let mut refused = None;
    for choice in candidates(device.properties(), &copies.problem(m)) {
        match copies.time(device, &x, choice, timing.runs) {
            Ok(times) if best.is_none_or(|(median, _)| times.median < median) => {
                best = Some((times.median, choice))
            }
            Ok(_) => {}
            Err(error) => refused = Some(error), // for example, out of memory
        }
    }
    match (best, refused) {
        (Some((_, choice)), _) => Ok(choice),
        (None, Some(error)) => Err(error),
        (None, None) => unreachable!("`gemm` in its smallest tile is a candidate on every device"),
    }
}

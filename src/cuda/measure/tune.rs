//! Measures every way to compute a product, and keeps the fastest.

use super::made::Weights;
use super::shapes::Layer;
use super::timing::{Copies, Timing};
use crate::cuda::choice::candidates;
use crate::cuda::{Choice, Device, Tuned};
use crate::error::Result;

/// The fastest choice for a layer at every batch.
///
/// # Errors
/// Where memory or clock are lacking, and where every way is refused.
pub fn tune(device: &dyn Device, layer: &Layer, weights: &Weights, timing: &Timing) -> Result<Vec<Tuned>> {
    let copies = Copies::new(device, weights, layer.shape, timing.seed)?;
    let [n, k] = layer.shape;
    let entry = |m| {
        let choice = fastest(device, &copies, m, timing)?;
        let device = device.properties().name.clone();
        Ok(Tuned { device, bits: weights.bits, n, k, m, choice })
    };
    timing.batches.iter().map(|m| entry(*m)).collect()
}

fn fastest(device: &dyn Device, copies: &Copies, m: usize, timing: &Timing) -> Result<Choice> {
    let x = copies.inputs(device, m, timing.seed)?;
    let (mut best, mut refused): (Option<(f64, Choice)>, _) = (None, None);
    for choice in candidates(device.properties(), &copies.problem(m)) {
        match copies.time(device, &x, choice, timing.runs) {
            Ok(times) if best.is_none_or(|(median, _)| times.median < median) => {
                best = Some((times.median, choice))
            }
            Ok(_) => {}
            Err(error) => refused = Some(error), // for want of memory, say
        }
    }
    match (best, refused) {
        (Some((_, choice)), _) => Ok(choice),
        (None, Some(error)) => Err(error),
        (None, None) => unreachable!("`gemm` in its smallest tile is a candidate on every device"),
    }
}

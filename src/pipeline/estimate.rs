//! What a calibrated run will take: said before it begins.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{BlockLayout, LinearPlace, block_layout};
use crate::pipeline::blocks::BATCH_TOKENS;
use crate::plan::Plan;
use crate::stage::{Scope, Stage};
use crate::statistics::Needs;

/// A run's needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Anonymous memory at the most, bytes.
    pub memory: u64,
    /// Space for hidden states beside the output, bytes.
    pub disk: u64,
    /// Seconds, at the speed of the cores that llmc was tuned on.
    pub seconds: f64,
}

/// What the process takes besides: code, pools, a batch of hidden states and what a block makes of it.
const PROCESS: u64 = 64 << 20;
/// Values that a pass holds for each token of a batch, in widths of the block's widest linear.
const WIDTHS: u64 = 4;
/// Multiplications and additions a second and core, as passes and products of a calibrated run reach them together:
/// `gptq` on SmolLM2 took 175 s with two threads of a Zen 5 core's AVX-512.
const SPEED: f64 = 1.5e11;
/// Passes over a block that only observe, and cost about half of one, for each depth of a method that goes depth by depth.
const STEP_PASSES: f64 = 0.5;

/// Estimates a plan that calibrates on so many tokens.
///
/// # Errors
/// A model whose blocks llmc cannot take apart.
pub fn estimate(
    plan: &Plan,
    checkpoint: &Arc<Checkpoint>,
    tokens: usize,
    threads: usize,
) -> Result<Estimate> {
    let stored = CheckpointWeights(Arc::clone(checkpoint));
    let model = stored.model()?;
    let layout = block_layout(&model, &stored, 0)?;
    let shapes = shapes(checkpoint, &layout)?;
    let weights: u64 = shapes.iter().map(|[rows, cols]| rows * cols).sum();
    let widest = shapes.iter().flatten().copied().max().unwrap_or(0);
    let method = plan.request.quantizer();
    let compensation = plan.request.stages.iter().filter(|stage| matches!(stage, Stage::Compensate(_)));
    let compensation: Vec<Needs> = compensation.map(Stage::needs).collect();
    let compensates = !compensation.is_empty();
    let hessian = compensation.into_iter().fold(method.needs(), Needs::union).hessian;
    // The sums in f32 of every input held at a time, and one factorization in f64.
    let inputs = hessians(&layout, &shapes);
    let held = if method.scope() == Scope::Block { inputs.values().sum() } else { most_of_a_depth(&inputs) };
    let statistics = if hessian { 4 * held + 12 * widest * widest } else { 16 * widest };
    // An error, its second moment and the eigenvectors of that in f64.
    let statistics = statistics + if compensates { 32 * widest * widest } else { 0 };
    // As read in f32, as packed for the passes, and the codes; a method that trains holds gradients and offsets too.
    let per_weight = if method.trains() { 32 } else { 10 };
    let memory = PROCESS + per_weight * weights + statistics + 4 * WIDTHS * BATCH_TOKENS as u64 * widest;
    let chains = if method.trains() { 4 } else { 2 };
    let disk = (tokens as u64).saturating_mul((chains * model.hidden * size_of::<f32>()) as u64);
    let passes = match method.scope() {
        Scope::Rows if !compensates => 1.0,
        Scope::Rows | Scope::Input => 1.0 + STEP_PASSES * 4.0,
        Scope::Block => 2.0,
    };
    let products = if hessian { inputs.values().sum::<u64>() as f64 } else { 0.0 };
    let per_block = 2.0 * tokens as f64 * (passes * weights as f64 + products);
    let seconds = model.layers.len() as f64 * per_block / (SPEED * threads as f64);
    Ok(Estimate { memory, disk, seconds })
}

fn shapes(checkpoint: &Checkpoint, layout: &BlockLayout) -> Result<Vec<[u64; 2]>> {
    let shape = |name: &str| Ok(checkpoint.source(name)?.rows_cols().map(|n| n as u64));
    layout.linears.iter().map(|linear| shape(&linear.name)).collect()
}

/// Values of the second moments of each distinct input, by its depth and number.
fn hessians(layout: &BlockLayout, shapes: &[[u64; 2]]) -> BTreeMap<[usize; 2], u64> {
    let input = |(linear, [_, cols]): (&LinearPlace, &[u64; 2])| ([linear.depth, linear.input], cols * cols);
    layout.linears.iter().zip(shapes).map(input).collect()
}

/// Of the depth that holds the most.
fn most_of_a_depth(hessians: &BTreeMap<[usize; 2], u64>) -> u64 {
    let mut depths: BTreeMap<usize, u64> = BTreeMap::new();
    for ([depth, _], values) in hessians {
        *depths.entry(*depth).or_default() += values;
    }
    depths.into_values().max().unwrap_or(0)
}

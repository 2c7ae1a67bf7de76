//! An estimate of the memory, disk and time of a calibrated run, before it begins.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batches::BATCH_TOKENS;
use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{BlockLayout, LinearPlace, block_layout};
use crate::plan::Plan;
use crate::recipe::Surgery;
use crate::stage::{Scope, Stage};
use crate::statistics::Needs;

/// The estimated needs of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    /// Peak of anonymous memory, in bytes.
    pub memory: u64,
    /// Disk space for hidden states beside the output, in bytes.
    pub disk: u64,
    /// Time in seconds, at the speed of the cores that llmc was tuned on.
    pub seconds: f64,
}

/// Memory of the process itself: code, pools, a batch of hidden states and a block's outputs for it.
const PROCESS: u64 = 64 << 20;
/// Values in memory for each token of a batch, in widths of the block's widest linear.
const WIDTHS: u64 = 4;
/// Multiplications and additions per second and core, averaged over the passes and products of a calibrated run: `gptq` on SmolLM2 took 175 s with two threads of a Zen 5 core's AVX-512.
const SPEED: f64 = 1.5e11;
/// Cost of the observing pass for each depth, relative to a full pass over the block.
const DEPTH_PASSES: f64 = 0.5;

/// Passes that fit the last linear: the original block's, and that of what the outputs lack.
const FITTING_PASSES: f64 = 1.5;
/// Passes that take channels and heads out, beside the one that makes the next block's inputs.
const NARROWING_PASSES: f64 = 2.0;

/// Estimates a plan that calibrates on so many tokens.
///
/// # Errors
/// A model whose blocks llmc does not support.
pub(crate) fn estimate(
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
    let narrows = |cut: &Surgery| {
        !(cut.channels.is_empty() && cut.kv_heads.is_empty() && cut.expert_channels.is_empty())
    };
    let narrows = plan.request.recipe.surgery.iter().any(narrows);
    let hessian = compensation.into_iter().fold(method.needs(), Needs::union).hessian || narrows;
    // The sums in f32 of the inputs in memory at a time, and one factorization in f64.
    let inputs = hessians(&layout, &shapes);
    let held = if method.scope() == Scope::Block { inputs.values().sum() } else { most_of_a_depth(&inputs) };
    let statistics = if hessian { 4 * held + 12 * widest * widest } else { 16 * widest };
    // An error, its second moment and the eigenvectors, in f64.
    let statistics = statistics + if compensates { 32 * widest * widest } else { 0 };
    // As read in f32, as packed for the passes, and the codes. A method that trains needs gradients and offsets too.
    let per_weight = if method.trains() { 32 } else { 10 };
    let memory = PROCESS + per_weight * weights + statistics + 4 * WIDTHS * BATCH_TOKENS as u64 * widest;
    let from_text = plan.request.recipe.has_text();
    let follows = method.trains() || from_text && plan.request.corrects() && layout.last_writer().is_some();
    let chains = if follows { 4 } else { 2 };
    let disk = hidden_state_bytes(tokens, model.hidden, chains);
    let passes = match method.scope() {
        Scope::Rows if !compensates => 1.0,
        Scope::Rows | Scope::Input => 1.0 + DEPTH_PASSES * 4.0,
        Scope::Block => 2.0,
    };
    let passes = passes + if follows && !method.trains() { FITTING_PASSES } else { 0.0 };
    let passes = passes + if narrows { NARROWING_PASSES } else { 0.0 };
    let products = if hessian { inputs.values().sum::<u64>() as f64 } else { 0.0 };
    let per_block = 2.0 * tokens as f64 * (passes * weights as f64 + products);
    let seconds = model.layers.len() as f64 * per_block / (SPEED * threads as f64);
    Ok(Estimate { memory, disk, seconds })
}

/// The bytes of the hidden states of so many tokens, in as many files as are kept at a time.
pub(crate) fn hidden_state_bytes(tokens: usize, hidden: usize, files: usize) -> u64 {
    (tokens as u64).saturating_mul((files * hidden * size_of::<f32>()) as u64)
}

fn shapes(checkpoint: &Checkpoint, layout: &BlockLayout) -> Result<Vec<[u64; 2]>> {
    let shape = |name: &str| Ok(checkpoint.source(name)?.rows_cols().map(|n| n as u64));
    layout.linears.iter().map(|linear| shape(&linear.name)).collect()
}

/// The number of values of the second moment of each distinct input, by its depth and number.
fn hessians(layout: &BlockLayout, shapes: &[[u64; 2]]) -> BTreeMap<[usize; 2], u64> {
    let input = |(linear, [_, cols]): (&LinearPlace, &[u64; 2])| ([linear.depth, linear.input], cols * cols);
    layout.linears.iter().zip(shapes).map(input).collect()
}

/// The number of values of the depth that has the most.
fn most_of_a_depth(hessians: &BTreeMap<[usize; 2], u64>) -> u64 {
    let mut depths: BTreeMap<usize, u64> = BTreeMap::new();
    for ([depth, _], values) in hessians {
        *depths.entry(*depth).or_default() += values;
    }
    depths.into_values().max().unwrap_or(0)
}

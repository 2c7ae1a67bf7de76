//! The arguments and the result of a run: settings, events, targets, outcome.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;

use super::blocks::{BlockReport, LinearReport};
use crate::error::{Error, Result};
use crate::plan::Plan;

/// How to run a plan.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Go on from what an interrupted run left; otherwise start afresh.
    pub resume: bool,
    /// Set by a signal handler: stop after the chunks in hand, keep what is finished.
    pub interrupted: &'a AtomicBool,
    /// Advanced by input bytes.
    pub progress: &'a ProgressBar,
    /// Told what happens in the block loop.
    pub events: &'a (dyn Fn(&Event) + Sync),
}

/// What happens in the block loop.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The loop begins.
    Start {
        /// Blocks that an interrupted run has finished.
        done: usize,
        /// Blocks of the model.
        of: usize,
    },
    /// A linear was quantized.
    Linear {
        /// Its block.
        block: usize,
        /// What became of it.
        linear: &'a LinearReport,
    },
    /// A block is finished and journaled.
    Block {
        /// Its number.
        index: usize,
        /// Blocks of the model.
        of: usize,
    },
}

/// One output to be made.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// What it holds.
    pub plan: &'a Plan,
    /// Where it goes.
    pub path: &'a Path,
    /// What stands beside the weights, besides what the format itself writes: (name, content).
    pub documents: &'a [(String, Vec<u8>)],
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Steps that an earlier, interrupted run had finished.
    pub resumed: usize,
    /// Input bytes of those.
    pub resumed_bytes: u64,
    /// Tensors with NaN or infinities that were let pass: (name, NaN, infinities).
    pub nonfinite: Vec<(String, usize, usize)>,
    /// What was done to each block, where the recipe was carried out block by block.
    pub blocks: Vec<BlockReport>,
}

/// Returns an error if the user has asked to stop.
pub fn check_interrupted(options: &Options) -> Result<()> {
    if options.interrupted.load(Ordering::Relaxed) { Err(interrupted()) } else { Ok(()) }
}

/// The error of a run that the user has stopped.
pub fn interrupted() -> Error {
    Error::Interrupted { hint: "run the same command again: it goes on from the last finished tensor".into() }
}

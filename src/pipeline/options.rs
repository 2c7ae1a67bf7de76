//! The arguments and the result of a run: settings, events, targets, outcome.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;

use super::blocks::{BlockReport, LinearReport};
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::plan::Plan;

/// The settings of a run.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The device that runs blocks over the calibration set.
    pub device: Device,
    /// True to resume an interrupted run; false to start afresh.
    pub resume: bool,
    /// Set by a signal handler: the run stops after the current chunks and keeps the finished tensors.
    pub interrupted: &'a AtomicBool,
    /// Progress bar, advanced by input bytes.
    pub progress: &'a ProgressBar,
    /// Called with the events of the block loop.
    pub events: &'a (dyn Fn(&Event) + Sync),
}

/// An event of the block loop.
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
        /// Its scheme and error.
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

/// One output to write.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// Its plan.
    pub plan: &'a Plan,
    /// Its path.
    pub path: &'a Path,
    /// Files to write beside the weights, in addition to those of the format: (name, content).
    pub documents: &'a [(String, Vec<u8>)],
}

/// The result of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Tensors that an earlier, interrupted run had finished.
    pub resumed: usize,
    /// Input bytes of those.
    pub resumed_bytes: u64,
    /// Tensors with NaN or infinities that were let pass: (name, NaN, infinities).
    pub nonfinite: Vec<(String, usize, usize)>,
    /// The report of each block, if the recipe was carried out block by block.
    pub blocks: Vec<BlockReport>,
}

/// Returns an error if the user has asked to stop.
pub(crate) fn check_interrupted(options: &Options) -> Result<()> {
    if options.interrupted.load(Ordering::Relaxed) { Err(interrupted()) } else { Ok(()) }
}

/// The error of a run that the user has stopped.
pub(crate) fn interrupted() -> Error {
    Error::Interrupted { hint: "run the same command again: it goes on from the last finished tensor".into() }
}

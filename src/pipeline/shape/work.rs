//! A measurement in work, block by block.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::model::{Arch, Sizes};
use crate::pipeline::blocks::{Batches, Chain, Files, Runner};
use crate::pipeline::output::{Journal, Workspace};
use crate::recipe::Surgery;
use crate::stage::Shape;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Survey<'a> {
    /// The stage.
    pub shape: Shape,
    /// Its name.
    pub method: &'a str,
    /// The cuts before it.
    pub before: &'a [Surgery],
    /// The calibration set.
    pub sequences: &'a [Vec<u32>],
    /// Experts that get fewer tokens than this, or none, are shown all tokens instead.
    pub expert_tokens: u64,
    /// The digest of the input's weights.
    pub weights: &'a str,
    /// The folder that keeps the result.
    pub folder: &'a Path,
    /// True if weights that are not finite become 0; else they are an error.
    pub allow_nonfinite: bool,
}

/// A measurement in work.
pub(super) struct Work<'a> {
    pub survey: &'a Survey<'a>,
    pub runner: Runner<'a>,
    pub workspace: Workspace,
    pub journal: Journal,
    /// The architecture of the model.
    pub arch: &'static Arch,
    pub sizes: Sizes,
}

impl Work<'_> {
    /// Runs the blocks one after the other, and keeps what is measured of each: see [`Runner::measure_each`].
    pub(super) fn each_block<T: Serialize + DeserializeOwned>(
        &self,
        reference: bool,
        measure: impl FnMut(usize, &[Chain], &[Chain], &mut Files) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.runner.measure_each(&self.workspace, &self.journal, reference, measure)
    }

    pub(super) fn batches(&self) -> &Batches<'_> {
        &self.runner.batches
    }
}

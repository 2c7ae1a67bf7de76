//! A measurement in work, block by block.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::read_whole;
use crate::json::pretty;
use crate::model::{Arch, Sizes};
use crate::pipeline::blocks::{Batches, BlockReport, Chain, Runner};
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

/// Digests of files, by name.
pub(super) type Files = BTreeMap<String, String>;

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
    /// Runs the blocks one after the other, and keeps what is measured of each as JSON. `measure` gets a block's number, the states
    /// before it, those behind it, which it fills, and the list of the other files that it writes. `reference` adds the states of
    /// the original model.
    pub(super) fn each_block<T: Serialize + for<'a> Deserialize<'a>>(
        &self,
        reference: bool,
        mut measure: impl FnMut(usize, &[Chain], &[Chain], &mut Files) -> Result<T>,
    ) -> Result<Vec<T>> {
        let intact = |report: &BlockReport| Ok(report.has_files(&self.workspace));
        self.runner.each_block(
            &self.workspace,
            &[&self.journal],
            reference,
            intact,
            |index, input, output| {
                let mut files = Files::new();
                let measured = measure(index, input, output, &mut files)?;
                let name = measured_file(index);
                let digest = self.workspace.write(&name, &pretty(&serde_json::json!(measured)))?;
                files.insert(name, digest);
                Ok(BlockReport { digests: [("measured".to_owned(), files)].into(), ..BlockReport::of(index) })
            },
        )?;
        (0..self.runner.layouts.len()).map(|index| self.measured(&measured_file(index))).collect()
    }

    /// Reads what was measured of a block.
    pub(super) fn measured<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<T> {
        let path = self.workspace.path(name);
        serde_json::from_slice(&read_whole(&path)?)
            .map_err(|e| Error::malformed(&path, "what was measured", e, "--no-resume measures it again"))
    }

    pub(super) fn batches(&self) -> &Batches<'_> {
        &self.runner.batches
    }
}

fn measured_file(index: usize) -> String {
    format!("measured-{index}.json")
}

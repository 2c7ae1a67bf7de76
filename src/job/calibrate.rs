//! Statistics of a model's activations gathered over a calibration set.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use super::coverage;
use super::host::{Host, Phase, advance};
use super::record::Origin;
use super::samples::{kept_text, samples};
use super::space::Space;
use crate::backend::Device;
use crate::calib::SourceSamples;
use crate::calib::data::KeptText;
use crate::engine::CheckpointWeights;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::pipeline::{self, BlockReport, Options, Survey};
use crate::recipe::Calibration;
use crate::statistics::Needs;

/// A model to be observed. At least one of `folder` and `imatrix` must be given.
#[derive(Debug, Clone, Default)]
pub struct Calibrate {
    /// A path or a hub id.
    pub model: String,
    /// The calibration set.
    pub calibration: Calibration,
    /// The folder for the statistics.
    pub folder: Option<PathBuf>,
    /// The file for an importance matrix, in llama.cpp's form.
    pub imatrix: Option<PathBuf>,
    /// The device that runs the model.
    pub device: Device,
    /// True to keep the Hessians.
    pub hessian: bool,
    /// True to replace outputs that exist.
    pub overwrite: bool,
    /// True to start afresh instead of resuming an interrupted run.
    pub no_resume: bool,
    /// Tokens that every expert of a mixture must get: see [`Calibrate::check_coverage`].
    pub min_coverage: Option<u64>,
}

/// The record of a calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrateRecord {
    /// Paths of the outputs.
    pub outputs: Vec<String>,
    /// Decoder blocks.
    pub blocks: usize,
    /// Sequences of the calibration set.
    pub sequences: usize,
    /// Tokens of all sequences.
    pub tokens: usize,
    /// The share of each source.
    pub sources: Vec<SourceSamples>,
    /// Tokens of each expert, by block.
    pub coverage: Vec<coverage::BlockCoverage>,
    /// Time of the whole job, in seconds.
    pub seconds: f64,
    /// Version of this record, and its origin.
    #[serde(flatten)]
    pub origin: Origin<1>,
}

impl Calibrate {
    /// Gathers the statistics.
    ///
    /// # Errors
    /// An architecture that llmc cannot run; text that is missing; whatever reading and writing meet.
    pub fn run(&self, host: &dyn Host) -> Result<CalibrateRecord> {
        let start = Instant::now();
        self.calibration.check_bounds()?;
        pipeline::check_device(self.device)?;
        let checkpoint = Arc::new(host.open(&self.model)?);
        for (path, single) in [(self.folder.as_deref(), false), (self.imatrix.as_deref(), true)] {
            path.map_or(Ok(()), |path| pipeline::check_target(&checkpoint, path, single, self.overwrite))?;
        }
        let samples = samples(&self.calibration, &checkpoint, self.kept_text(&checkpoint, host)?, host)?;
        self.check_space(&checkpoint, samples.tokens())?;
        let survey = Survey {
            samples: &samples,
            expert_tokens: self.calibration.expert_tokens,
            needs: self.needs(),
            folder: self.folder.as_deref(),
            imatrix: self.imatrix.as_deref(),
        };
        let bar = host.bar(Phase::Blocks, 0);
        let options = Options {
            device: self.device,
            resume: !self.no_resume,
            interrupted: host.interrupted(),
            progress: &ProgressBar::hidden(),
            events: &|event| advance(event, &bar, host),
        };
        let blocks = pipeline::calibrate(&survey, &checkpoint, &options)?;
        bar.finish_and_clear();
        Ok(record(&survey, &blocks, start.elapsed().as_secs_f64()))
    }

    /// The file of the text that the model writes itself.
    fn kept_text(&self, checkpoint: &Checkpoint, host: &dyn Host) -> Result<Option<KeptText>> {
        let output = self.folder.as_deref().or(self.imatrix.as_deref());
        let Some(output) = output.filter(|_| self.calibration.writes_own()) else { return Ok(None) };
        let input = pipeline::input_digest(checkpoint, host.interrupted())?;
        kept_text(&self.calibration, output, !self.no_resume, checkpoint, &input)
    }

    /// Refuses hidden states that the disk has no space for.
    fn check_space(&self, checkpoint: &Arc<Checkpoint>, tokens: usize) -> Result<()> {
        let Some(output) = self.folder.as_ref().or(self.imatrix.as_ref()) else { return Ok(()) };
        let hidden = CheckpointWeights(Arc::clone(checkpoint)).model()?.hidden;
        let hidden_states = pipeline::hidden_state_bytes(tokens, hidden, 2);
        Space { hidden_states, there: pipeline::partial_bytes(output), ..Space::default() }.check(output)
    }

    /// Fails if an expert got fewer tokens than `min_coverage`.
    ///
    /// # Errors
    /// [`Error::CheckFailed`](crate::Error::CheckFailed), which names the experts.
    pub fn check_coverage(&self, record: &CalibrateRecord) -> Result<()> {
        coverage::check(&record.coverage, self.min_coverage)
    }

    /// The statistics to keep: all that cost little, and Hessians if asked; for an importance matrix alone, its own.
    fn needs(&self) -> Needs {
        let all = self.folder.is_some();
        Needs { absmax: all, mean_abs: all, second_moment: true, hessian: self.hessian }
    }
}

fn record(survey: &Survey, blocks: &[BlockReport], seconds: f64) -> CalibrateRecord {
    let outputs = [survey.folder, survey.imatrix].into_iter().flatten();
    CalibrateRecord {
        outputs: outputs.map(|path: &Path| path.display().to_string()).collect(),
        blocks: blocks.len(),
        sequences: survey.samples.sequences.len(),
        tokens: survey.samples.tokens(),
        sources: survey.samples.sources.clone(),
        coverage: coverage::of(blocks),
        seconds,
        origin: Origin::here(),
    }
}

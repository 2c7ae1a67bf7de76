//! A recipe carried out on a model: quantization and conversion.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use super::budget::Measured;
use super::card::Card;
use super::coverage::{self, BlockCoverage};
use super::draft::{Destination, Draft, Surroundings};
use super::host::{Host, Notice, Phase, advance};
use super::record::{ModelIdentity, Origin};
use super::samples::{kept_text, samples};
use crate::backend::Device;
use crate::calib::{PriorStatistics, Samples};
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::pipeline::{self, BlockReport, CalibrationInput, Options, Outcome, Target};
use crate::plan::{Action, Plan, TensorPlan};
use crate::recipe::{PerFormat, Recipe};

/// A model to be quantized or converted.
#[derive(Debug, Clone, Default)]
pub struct Quantize {
    /// A path or a hub id.
    pub model: String,
    /// The recipe.
    pub recipe: Recipe,
    /// The outputs' place.
    pub destination: Destination,
    /// Calibration tokens that every expert of a mixture must get; the job fails after its work if one gets fewer.
    pub min_coverage: Option<u64>,
    /// The device that runs the model for calibration.
    pub device: Device,
    /// The command line, for the model card.
    pub command: String,
}

/// The record of one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizeRecord {
    /// Path of the output.
    pub output: String,
    /// Format.
    pub format: String,
    /// Names of the methods, in order.
    pub method: String,
    /// Tensors that are quantized.
    pub quantized: usize,
    /// Tensors.
    pub tensors: usize,
    /// Tensors that use a different scheme than requested.
    pub substituted: usize,
    /// Tensors that an earlier, interrupted run had finished.
    pub resumed: usize,
    /// Bytes of the input that were read.
    pub input_bytes: u64,
    /// Bytes of weights that were written.
    pub output_bytes: u64,
    /// Bits per weight of the whole output.
    pub bits_per_weight: f64,
    /// Bits per weight of the quantized tensors, scales included.
    pub quantized_bits_per_weight: f64,
    /// Every calibrated block.
    pub blocks: Vec<BlockReport>,
    /// Time of the whole job, in seconds.
    pub seconds: f64,
    /// The input.
    pub input: ModelIdentity,
    /// The recipe, in TOML.
    pub recipe: String,
    /// Version of this record, and its origin.
    #[serde(flatten)]
    pub origin: Origin<1>,
}

impl Quantize {
    /// Carries the recipe out and returns a record for each output.
    ///
    /// # Errors
    /// A recipe that does not fit the model; text that is missing; whatever reading, computing and writing meet; with
    /// `min_coverage`, experts that got too few tokens. After an interruption the same job resumes.
    pub fn run(&self, host: &dyn Host) -> Result<Vec<QuantizeRecord>> {
        let start = Instant::now();
        let mut draft = self.draft(host)?;
        let records = self.carry_out(&mut draft, start, host)?;
        self.check_coverage(&records)?;
        Ok(records)
    }

    /// Plans the job: everything before the work.
    ///
    /// # Errors
    /// A model that cannot be opened; a recipe that does not fit it; outputs that exist; text that is missing.
    pub fn draft(&self, host: &dyn Host) -> Result<Draft> {
        if self.min_coverage.is_some() && !self.recipe.has_text() {
            return Err(Error::usage("--min-coverage without text to count", "name one with --data"));
        }
        let around = Surroundings { destination: &self.destination, device: self.device, host };
        Draft::new(&self.model, &self.recipe, around)
    }

    /// Does the work of a draft. `start` is when the job began.
    ///
    /// # Errors
    /// Whatever reading, computing and writing meet.
    pub fn carry_out(
        &self,
        draft: &mut Draft,
        start: Instant,
        host: &dyn Host,
    ) -> Result<Vec<QuantizeRecord>> {
        let evidence = Evidence::find(draft, !self.destination.no_resume, host)?;
        let Draft { checkpoint, plans, paths, cuts, .. } = draft;
        for plan in plans.all_mut() {
            plan.metadata = pipeline::provenance(plan, checkpoint, &evidence.input);
            if self.device != Device::Cpu && matches!(evidence.material, Some(Calibrated::Text(_))) {
                plan.metadata.push(("llmc.device".to_owned(), self.device.to_string()));
            }
            let digest = evidence.calibration.clone();
            plan.metadata.extend(digest.map(|digest| ("llmc.calibration.blake3".to_owned(), digest)));
        }
        let documents = plans.as_ref().zip(paths.as_ref());
        let documents = documents.map(|(plan, path)| self.documents(plan, path, checkpoint));
        let targets = plans.as_ref().zip(paths.as_ref()).zip(documents.as_ref());
        let targets = targets.map(|((plan, path), documents)| Target { plan, path, documents });
        let outcome = self.write(&targets, checkpoint, evidence.material.as_ref(), host)?;
        std::mem::take(cuts).iter().try_for_each(|folder| pipeline::forget_survey(folder))?;
        for (name, nan, inf) in &outcome.nonfinite {
            host.notify(&Notice::Warning(format!("{name}: {nan} NaN and {inf} infinities were let pass")));
        }
        let seconds = start.elapsed().as_secs_f64();
        let input = ModelIdentity { model: self.model.clone(), blake3: evidence.input };
        let record = |target| record(target, checkpoint, &outcome, &input, seconds);
        Ok(targets.all().map(record).collect())
    }

    /// Fails if an expert got fewer calibration tokens than `min_coverage`.
    ///
    /// # Errors
    /// [`Error::CheckFailed`], which names the experts.
    pub fn check_coverage(&self, records: &[QuantizeRecord]) -> Result<()> {
        coverage::check(&expert_coverage(records), self.min_coverage)
    }

    /// The model card, if the output is a folder.
    fn documents(&self, plan: &Plan, path: &Path, checkpoint: &Checkpoint) -> Vec<(String, Vec<u8>)> {
        if plan.request.format.capabilities().single_file {
            return Vec::new();
        }
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let card = Card { plan, checkpoint, model: &self.model, command: &self.command, name: &name };
        vec![("README.md".to_owned(), card.text().into_bytes())]
    }

    fn write(
        &self,
        targets: &PerFormat<Target>,
        checkpoint: &Arc<Checkpoint>,
        calibrated: Option<&Calibrated>,
        host: &dyn Host,
    ) -> Result<Outcome> {
        let plan = targets.primary.plan;
        let by_block = calibrated.is_some() || !plan.request.only_rows();
        let bytes = targets.all().map(|target| pipeline::total_input_bytes(target.plan, checkpoint)).sum();
        let bar = if by_block { host.bar(Phase::Blocks, 0) } else { host.bar(Phase::Writing, bytes) };
        let options = Options {
            device: self.device,
            resume: !self.destination.no_resume,
            interrupted: host.interrupted(),
            progress: if by_block { &ProgressBar::hidden() } else { &bar },
            events: &|event| advance(event, &bar, host),
        };
        let input = by_block.then(|| calibrated.map_or(CalibrationInput::default(), |it| it.input(plan)));
        let outcome = pipeline::run(targets, checkpoint, input, &options)?;
        bar.finish_and_clear();
        Ok(outcome)
    }
}

/// Returns the experts of the blocks that all outputs of a job share.
pub fn expert_coverage(records: &[QuantizeRecord]) -> Vec<BlockCoverage> {
    records.first().map(|record| coverage::of(&record.blocks)).unwrap_or_default()
}

fn record(
    target: &Target,
    checkpoint: &Checkpoint,
    outcome: &Outcome,
    input: &ModelIdentity,
    seconds: f64,
) -> QuantizeRecord {
    let plan = target.plan;
    let is_quantized = |tensor: &&TensorPlan| matches!(tensor.action, Action::Quantize(_));
    QuantizeRecord {
        output: target.path.display().to_string(),
        format: plan.request.format.name().to_owned(),
        method: plan.request.recipe.method_names(),
        quantized: plan.tensors.iter().filter(is_quantized).count(),
        tensors: plan.tensors.len(),
        substituted: plan.tensors.iter().filter(|tensor| tensor.substituted).count(),
        resumed: outcome.resumed,
        input_bytes: pipeline::total_input_bytes(plan, checkpoint).saturating_sub(outcome.resumed_bytes),
        output_bytes: plan.bytes(),
        bits_per_weight: plan.total().bits_per_weight(),
        quantized_bits_per_weight: plan.quantized().bits_per_weight(),
        blocks: outcome.blocks.clone(),
        seconds,
        input: input.clone(),
        recipe: plan.request.recipe.to_toml(),
        origin: Origin::here(),
    }
}

/// The digest of the input, and the calibration data if the recipe has any.
struct Evidence {
    input: String,
    /// The digest of the calibration data.
    calibration: Option<String>,
    /// The calibration data, if the work reads any.
    material: Option<Calibrated>,
}

/// Calibration data: sequences, or statistics of an earlier run.
enum Calibrated {
    Text(Samples),
    Statistics(PriorStatistics),
}

impl Evidence {
    fn find(draft: &mut Draft, resume: bool, host: &dyn Host) -> Result<Evidence> {
        // Measured shares may have made it idle: then it is no longer in the recipe.
        let calibration = draft.plans.primary.request.recipe.calibration.as_ref();
        if let Some(Measured { input, samples }) = draft.measured.take() {
            let request = &draft.plans.primary.request;
            let is_done = !request.reads_text() && (request.reshapes() || calibration.is_none());
            let calibration = Some(samples.digest.clone());
            let material = Some(Calibrated::Text(samples)).filter(|_| !is_done);
            return Ok(Evidence { input, calibration, material });
        }
        let checkpoint = &draft.checkpoint;
        let input = pipeline::input_digest(checkpoint, host.interrupted())?;
        let material = match calibration.map(|calibration| (calibration, calibration.statistics.as_slice())) {
            None => None,
            Some((calibration, [])) => {
                let kept = kept_text(calibration, &draft.paths.primary, resume, checkpoint, &input)?;
                Some(Calibrated::Text(samples(calibration, checkpoint, kept, host)?))
            }
            Some((_, paths)) => {
                let plan = &draft.plans.primary;
                if plan.request.corrects() {
                    let what =
                        "statistics in the place of text: no linear is fitted to the original model's states";
                    host.notify(&Notice::Note(what.to_owned()));
                }
                let statistics = pipeline::recall(paths, plan, checkpoint, &input)?;
                Some(Calibrated::Statistics(statistics))
            }
        };
        let calibration = material.as_ref().map(|material| material.digest().to_owned());
        Ok(Evidence { input, calibration, material })
    }
}

impl Calibrated {
    fn digest(&self) -> &str {
        match self {
            Calibrated::Text(samples) => &samples.digest,
            Calibrated::Statistics(prior) => &prior.digest,
        }
    }

    fn input(&self, plan: &Plan) -> CalibrationInput<'_> {
        let calibration = plan.request.recipe.calibration.as_ref();
        let expert_tokens = calibration.map_or(0, |calibration| calibration.expert_tokens);
        match self {
            Calibrated::Text(samples) => {
                CalibrationInput { sequences: &samples.sequences, expert_tokens, prior: None }
            }
            Calibrated::Statistics(prior) => {
                CalibrationInput { prior: Some(prior), ..CalibrationInput::default() }
            }
        }
    }
}

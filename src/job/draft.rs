//! A job before its work: the model opened, the recipe planned, the outputs named, a budget turned into schemes, zeros shared
//! out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::allocation::allocate;
use super::budget::{self, Measured};
use super::host::{Host, Notice};
use super::reshape;
use super::samples::{kept_text, samples};
use super::space::Space;
use crate::backend::Device;
use crate::engine::CheckpointWeights;
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::io::hub::parse_id;
use crate::pipeline::{self, CalibrationInput};
use crate::plan::{self, Plan, Request};
use crate::recipe::{Budget, Calibration, PerFormat, Recipe, Surgery};

/// The destination of an output.
#[derive(Debug, Clone, Default)]
pub struct Destination {
    /// The folder, or the .gguf file; `None` for a name made of the model and the scheme.
    pub output: Option<PathBuf>,
    /// True to replace an output that exists, once the new one is complete.
    pub overwrite: bool,
    /// True to start afresh instead of resuming an interrupted run.
    pub no_resume: bool,
    /// True to plan only: nothing is written, and nothing need be free.
    pub dry_run: bool,
}

/// A planned job.
pub struct Draft {
    /// The input.
    pub checkpoint: Arc<Checkpoint>,
    /// A plan for each format.
    pub plans: PerFormat<Plan>,
    /// The path of each output.
    pub paths: PerFormat<PathBuf>,
    /// The samples and the digest of the input, if a budget, a cut or shares of zeros were measured with them.
    pub measured: Option<Measured>,
    /// The folders with measurements of cuts, which are not needed when the output is complete.
    pub cuts: Vec<PathBuf>,
}

/// The surroundings of a job: where its outputs go, and what carries it out.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub destination: &'a Destination,
    pub device: Device,
    pub host: &'a dyn Host,
}

impl<'a> Surroundings<'a> {
    /// A run that measures beside an output.
    fn run(self, output: &'a Path) -> budget::Run<'a> {
        let Surroundings { destination, device, host } = self;
        budget::Run { output, resume: !destination.no_resume, device, host }
    }
}

impl Draft {
    /// Opens `model` and plans a recipe. What is to be cut is measured, a budget is turned into schemes, and zeros are shared out.
    ///
    /// # Errors
    /// A model that cannot be opened; a recipe that does not fit it; outputs that exist; text that is missing.
    pub(crate) fn new(model: &str, recipe: &Recipe, around: Surroundings) -> Result<Draft> {
        let Surroundings { destination, device, host } = around;
        recipe.refuse_repeated()?;
        refuse_idle(device, recipe)?;
        pipeline::check_device(device)?;
        let request = recipe.per_format().primary.resolve()?;
        let whole = open(model, &recipe.surgery, host)?;
        let outlined = reshape::outline(recipe, &request.shapes, whole.clone())?;
        let checkpoint = shaped(&request, outlined.checkpoint)?;
        let plans = plans(&unbudgeted(&outlined.recipe), &checkpoint, host)?;
        refuse_unused_text(recipe, &request, &plans)?;
        if !plans.primary.request.only_rows() {
            CheckpointWeights(Arc::clone(&checkpoint)).model()?; // what works on blocks must know them
        }
        warn_of_lost_zeros(&checkpoint, &plans.primary, host);
        let paths = paths(model, destination.output.as_deref(), &plans);
        let draft = Draft { checkpoint, plans, paths, measured: None, cuts: Vec::new() };
        if destination.dry_run {
            draft.check_text(recipe, host)?;
        } else {
            draft.check_paths(destination.overwrite)?;
            draft.check_space()?;
        }
        draft.measure(recipe, &request, whole, around)
    }

    /// Measures what is to be cut, what a budget is spent on and which blocks get fewer zeros, and plans again for that.
    fn measure(
        self,
        recipe: &Recipe,
        request: &Request,
        whole: Checkpoint,
        around: Surroundings,
    ) -> Result<Draft> {
        let Some(calibration) = &recipe.calibration else { return Ok(self) };
        let is_cut = !request.shapes.is_empty() && !around.destination.dry_run;
        let draft = match is_cut {
            true => self.reshape(recipe, request, whole, calibration, around)?,
            false => self,
        };
        let draft = match &recipe.budget {
            Some(budget) => draft.within(budget, calibration, around)?,
            None => draft,
        };
        match request.measures_zeros() {
            true => draft.allocated(recipe, calibration, around),
            false => Ok(draft),
        }
    }

    /// Measures what stays of the model, and plans again for that.
    fn reshape(
        self,
        recipe: &Recipe,
        request: &Request,
        whole: Checkpoint,
        calibration: &Calibration,
        around: Surroundings,
    ) -> Result<Draft> {
        let mut measured = self.sample(&Arc::new(whole.clone()), calibration, around)?;
        let run = around.run(&self.paths.primary);
        let reshaped = reshape::measure(recipe, &request.shapes, whole, &mut measured, &run)?;
        let checkpoint = shaped(request, reshaped.checkpoint)?;
        let plans = plans(&unbudgeted(&reshaped.recipe), &checkpoint, around.host)?;
        Ok(Draft { checkpoint, plans, measured: Some(measured), cuts: reshaped.folders, ..self })
    }

    /// The digest of the input, and the calibration set.
    fn sample(
        &self,
        checkpoint: &Arc<Checkpoint>,
        calibration: &Calibration,
        around: Surroundings,
    ) -> Result<Measured> {
        let Surroundings { destination, host, .. } = around;
        let input = pipeline::input_digest(checkpoint, host.interrupted())?;
        let (path, resume) = (&self.paths.primary, !destination.no_resume);
        let kept = match destination.dry_run {
            true => None,
            false => kept_text(calibration, path, resume, checkpoint, &input)?,
        };
        let samples = samples(calibration, checkpoint, kept, host)?;
        Ok(Measured { input, samples })
    }

    /// Plans again with the best schemes within a budget.
    fn within(mut self, budget: &Budget, calibration: &Calibration, around: Surroundings) -> Result<Draft> {
        if !self.plans.companions.is_empty() {
            let hint = "schemes take different space in each: make one at a time";
            return Err(Error::usage("a budget for several formats", hint));
        }
        let measured = self.take_samples(calibration, around)?;
        let run = around.run(&self.paths.primary);
        let recipe = budget::spend(budget, &self.plans.primary, &measured, &run, &self.checkpoint)?;
        Ok(Draft { plans: plans(&recipe, &self.checkpoint, around.host)?, measured: Some(measured), ..self })
    }

    /// Plans again with a share of zeros for each block. A dry run measures nothing.
    fn allocated(
        mut self,
        recipe: &Recipe,
        calibration: &Calibration,
        around: Surroundings,
    ) -> Result<Draft> {
        if around.destination.dry_run {
            let what =
                "owl: the run itself measures the share of each block; the plan shows that of the whole";
            around.host.notify(&Notice::Note(what.to_owned()));
            return Ok(self);
        }
        let allocated = match calibration.statistics.as_slice() {
            [] => {
                let measured = self.take_samples(calibration, around)?;
                let sequences = measured.samples.sequences.as_slice();
                let text = CalibrationInput { sequences, ..CalibrationInput::default() };
                let allocated = self.allocate(recipe, text, &measured.input, around)?;
                self.measured = Some(measured);
                allocated
            }
            paths => {
                let input = pipeline::input_digest(&self.checkpoint, around.host.interrupted())?;
                let prior = pipeline::recall(paths, &self.plans.primary, &self.checkpoint, &input)?;
                let known = CalibrationInput { prior: Some(&prior), ..CalibrationInput::default() };
                self.allocate(recipe, known, &input, around)?
            }
        };
        Ok(Draft { plans: plans(&allocated, &self.checkpoint, around.host)?, ..self })
    }

    /// The recipe as it is planned, in all formats of the user's, with a share of zeros for each block. Text that was for the shares
    /// alone is no longer in it.
    fn allocate(
        &self,
        recipe: &Recipe,
        input: CalibrationInput,
        weights: &str,
        around: Surroundings,
    ) -> Result<Recipe> {
        let (plan, run) = (&self.plans.primary, around.run(&self.paths.primary));
        let is_read = self.plans.all().any(|plan| plan.request.calibrates());
        let calibration = plan.request.recipe.calibration.clone().filter(|_| is_read);
        let recipe = Recipe { format: recipe.format.clone(), calibration, ..plan.request.recipe.clone() };
        allocate(recipe, plan, input, weights, &run, &self.checkpoint)
    }

    /// Takes the samples of an earlier measurement, or draws them.
    fn take_samples(&mut self, calibration: &Calibration, around: Surroundings) -> Result<Measured> {
        match self.measured.take() {
            Some(measured) => Ok(measured),
            None => self.sample(&self.checkpoint, calibration, around),
        }
    }

    fn check_paths(&self, overwrite: bool) -> Result<()> {
        let mut outputs = self.plans.all().zip(self.paths.all());
        outputs.try_for_each(|(plan, path)| {
            let single = plan.request.format.capabilities().single_file;
            pipeline::check_target(&self.checkpoint, path, single, overwrite)
        })
    }

    /// Refuses outputs, with the hidden states beside them, that the disk has no space for.
    fn check_space(&self) -> Result<()> {
        let mut needed = Space::default();
        for (plan, path) in self.plans.all().zip(self.paths.all()) {
            needed.outputs += plan.bytes();
            needed.there += pipeline::partial_bytes(path);
        }
        let primary = &self.plans.primary;
        if let Some(calibration) =
            primary.request.recipe.calibration.as_ref().filter(|it| it.statistics.is_empty())
        {
            let tokens = calibration.samples.saturating_mul(calibration.seq_len);
            let estimate = pipeline::estimate(primary, &self.checkpoint, tokens, 1);
            needed.hidden_states = estimate.map_or(0, |estimate| estimate.disk);
        }
        needed.check(&self.paths.primary)
    }

    /// Reads the text of a recipe, if it can be read twice, to find out that it suffices.
    fn check_text(&self, recipe: &Recipe, host: &dyn Host) -> Result<()> {
        match &recipe.calibration {
            Some(calibration) if calibration.at_hand() => {
                samples(calibration, &self.checkpoint, None, host).map(drop)
            }
            _ => Ok(()),
        }
    }
}

/// Opens a model, checks that it is whole, and cuts it where a recipe says what stays.
fn open(model: &str, surgery: &[Surgery], host: &dyn Host) -> Result<Checkpoint> {
    if surgery.iter().any(|cut| cut.corrected.is_some()) {
        let what = "a recipe whose surgery has corrected weights: they are not in the recipe";
        let hint = "take the stages that chose it, which measure again; or leave `corrected` out, and the weights keep their values";
        return Err(Error::usage(what, hint));
    }
    let whole = Arc::new(host.open(model)?);
    plan::check_input(&whole, &CheckpointWeights(Arc::clone(&whole)))?;
    warn_without_config(&whole, host);
    reshape::cut(Arc::unwrap_or_clone(whole), surgery)
}

/// A model as it is planned: cut, and with a head of its own where stages need one. Its config.json must say what it is.
fn shaped(request: &Request, checkpoint: Checkpoint) -> Result<Arc<Checkpoint>> {
    let checkpoint = Arc::new(pipeline::untie(request, checkpoint)?);
    if request.reshapes() {
        plan::check_input(&checkpoint, &CheckpointWeights(Arc::clone(&checkpoint)))?;
    }
    Ok(checkpoint)
}

/// A recipe before its budget is turned into schemes.
fn unbudgeted(recipe: &Recipe) -> Recipe {
    Recipe { budget: None, ..recipe.clone() }
}

/// Plans a recipe on a checkpoint, once for each of its formats.
///
/// # Errors
/// A recipe that does not fit the checkpoint; formats that need other codes than the first; with `strict`, substitutions.
pub fn plans(recipe: &Recipe, checkpoint: &Arc<Checkpoint>, host: &dyn Host) -> Result<PerFormat<Plan>> {
    let mut plans = recipe
        .per_format()
        .try_map(|recipe| recipe.plan(checkpoint).inspect_err(|_| tell_refused(&recipe, checkpoint, host)))?;
    plan::agree(&mut plans)?;
    for plan in plans.all() {
        plan.refuse_substitutions().inspect_err(|_| host.notify(&Notice::Refused(plan, checkpoint)))?;
    }
    Ok(plans)
}

/// Says before the work that its output will be weights without a model.
fn warn_without_config(checkpoint: &Checkpoint, host: &dyn Host) {
    if checkpoint.config.is_none() {
        let what = "no config.json beside the weights: engines will not load the output without one";
        host.notify(&Notice::Warning(format!("{}: {what}", checkpoint.path.display())));
    }
}

/// Says before the work that zeros of an input which a recipe has pruned may not stay zero.
fn warn_of_lost_zeros(checkpoint: &Checkpoint, plan: &Plan, host: &dyn Host) {
    let own = pipeline::recorded_recipe(checkpoint).and_then(|recipe| recipe.resolve());
    let was_pruned = own.is_ok_and(|request| request.sparsity().is_some());
    let schemes = plan.schemes();
    let fills = !plan.request.only_rows() || schemes.values().any(|(scheme, _)| !scheme.has_zero());
    if was_pruned && plan.request.sparsity().is_none() && !schemes.is_empty() && fills {
        let what = "the input was pruned, and not all of its zeros will stay zero: prune and quantize in one run \
                    (--method sparsegpt,gptq), or round to a scheme with a code for zero (w4a16, q8_0, q4_0)";
        host.notify(&Notice::Warning(what.to_owned()));
    }
}

/// Shows the plan that only `strict` refuses.
fn tell_refused(recipe: &Recipe, checkpoint: &Arc<Checkpoint>, host: &dyn Host) {
    let lenient = Recipe { strict: false, ..recipe.clone() };
    if let (true, Ok(plan)) = (recipe.strict, lenient.plan(checkpoint)) {
        host.notify(&Notice::Refused(&plan, checkpoint));
    }
}

/// Refuses a device that would have nothing to do.
fn refuse_idle(device: Device, recipe: &Recipe) -> Result<()> {
    if device == Device::Cpu || recipe.has_text() {
        return Ok(());
    }
    let what = format!("--device {device} without a text: nothing runs the model");
    Err(Error::usage(what, "leave --device out, or name a text with --data FILE"))
}

fn refuse_unused_text(recipe: &Recipe, request: &Request, plans: &PerFormat<Plan>) -> Result<()> {
    let unused = request.shapes.is_empty() && plans.all().all(|plan| !plan.request.reads_text());
    if recipe.calibration.is_some() && recipe.budget.is_none() && unused {
        let names = recipe.method_names();
        let (what, hint) = match &recipe.scheme {
            Some(_) => (format!("{names} does not look at text for this scheme"), "--method gptq does"),
            None => (format!("{names} does not look at text"), "to prune by a text: --method sparsegpt"),
        };
        return Err(Error::usage(what, format!("{hint}; or leave the calibration out")));
    }
    Ok(())
}

/// The path of each output: as named; several go into the folder that was named, under their formats.
fn paths(model: &str, output: Option<&Path>, plans: &PerFormat<Plan>) -> PerFormat<PathBuf> {
    let several = !plans.companions.is_empty();
    match output {
        Some(path) if !several => PerFormat::alone(path.to_owned()),
        Some(folder) => plans.as_ref().map(|plan| path_within(folder, plan)),
        None => plans.as_ref().map(|plan| default_path(model, plan, several)),
    }
}

fn path_within(folder: &Path, plan: &Plan) -> PathBuf {
    let name = plan.request.format.name();
    let single = plan.request.format.capabilities().single_file;
    folder.join(if single { format!("model.{name}") } else { name.to_owned() })
}

/// A path here, or beside the model from within its folder: named after the model and the scheme, and after the format if there
/// are several.
fn default_path(model: &str, plan: &Plan, several: bool) -> PathBuf {
    let local = Path::new(model);
    let whole = local.canonicalize().ok();
    let name = if local.is_file() { local.file_stem() } else { local.file_name() };
    let name = name.or_else(|| whole.as_deref()?.file_name());
    let id = parse_id(model).filter(|_| whole.is_none());
    let stem = id.as_ref().map(|id| id.name().into()).or_else(|| Some(name?.to_string_lossy()));
    let stem = stem.unwrap_or_else(|| "model".into());
    let format = plan.request.format;
    let suffix = plan
        .request
        .recipe
        .scheme
        .as_deref()
        .or_else(|| {
            plan.request.sparsity().and(plan.request.recipe.stages.last()).map(|last| last.method.as_str())
        })
        .or_else(|| plan.request.recipe.surgery.last().map(|last| last.method.as_str()))
        .or(plan.request.recipe.dtype.as_deref())
        .unwrap_or(format.name());
    let format_suffix = if several { format!("-{}", format.name()) } else { String::new() };
    let extension = if format.capabilities().single_file { ".gguf" } else { "" };
    let name = format!("{stem}-{suffix}{format_suffix}{extension}");
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    match (&whole, here) {
        // From within the model's folder the output goes beside that.
        (Some(input), Ok(here)) if input.is_dir() && here.starts_with(input) => input.with_file_name(name),
        _ => PathBuf::from(name),
    }
}

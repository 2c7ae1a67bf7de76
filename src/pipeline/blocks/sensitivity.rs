//! The loss of each group of linears that engines run as one, with fewer bits: the basis of mixed precision.
//!
//! A block is run over the calibration text as it is, and once more for each group, with the group's weights rounded to the
//! first choice. The loss is the change of the block's outputs y, the mean over tokens of ‖y′ − y‖² / ‖y‖². For the other
//! choices it is assumed to be proportional to Σ (w − q)²·x², the error of the weights weighted by the squares x² of their
//! inputs. Relative to the residual stream, the errors of blocks add up.
//!
//! The result is kept in a file, so that another budget, or a run that was stopped later, need not measure again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::chain::Chain;
use super::layouts::layouts;
use super::machine;
use super::report::BlockReport;
use super::runner::{CalibrationInput, Runner};
use crate::backend::Device;
use crate::calib::observe::{InputStatistics, Watch};
use crate::error::{Error, Result};
use crate::io::{Checkpoint, read_whole};
use crate::json::pretty;
use crate::model::{LinearPlace, Weights};
use crate::numerics::{Extent, Scheme, Weight};
use crate::pipeline::options::Options;
use crate::pipeline::output::{Journal, Workspace, model_digest};
use crate::pipeline::stream::BlockResult;
use crate::plan::{Plan, Roles, SINGLE_FILE_NAME, Sensitivity};
use crate::stage::{Block, BlockLinear, Quantize, error_power, quantize_linear};
use crate::statistics::Needs;

/// Tokens that suffice: the loss is a mean over all of them.
const TOKENS: usize = 8192;

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Identifies the model, the text and the choices.
    key: String,
    /// [`digest`] of the losses.
    #[serde(default)]
    blake3: String,
    sensitivity: Sensitivity,
}

impl Kept {
    /// Returns true if the losses are those that were written.
    fn is_whole(&self) -> bool {
        digest(&self.sensitivity) == self.blake3
    }
}

/// blake3 over the losses, as f32: a parser may miss the last bit of an f64.
fn digest(sensitivity: &Sensitivity) -> String {
    let mut hasher = blake3::Hasher::new();
    for (group, losses) in sensitivity {
        hasher.update(group.as_bytes());
        losses.iter().for_each(|loss| {
            hasher.update(&(*loss as f32).to_le_bytes());
        });
    }
    hasher.finalize().to_hex().to_string()
}

/// Measures the loss of each group of linears (see [`Roles::group`]) with each of the choices, or reads the result of an earlier
/// run. The choices are plans of the whole model, the smallest first. `weights` is the digest of its weights.
///
/// # Errors
/// An architecture that llmc does not support; inputs that are not finite; errors of reading and writing. The same call
/// resumes an interrupted run.
pub(crate) fn sensitivity(
    choices: &[Plan],
    sequences: &[Vec<u32>],
    weights: &str,
    file: &Path,
    checkpoint: &Arc<Checkpoint>,
    options: &Options,
) -> Result<Sensitivity> {
    let sequences = spread(sequences);
    let key = key(choices, &sequences, &model_digest(checkpoint, weights), options.device);
    if let Some(kept) = read(file)?.filter(|kept| kept.key == key && kept.is_whole()) {
        return Ok(kept.sensitivity);
    }
    let workspace = Workspace::open(file, true)?;
    let journal = Journal::keyed(&workspace, &key, || true, options.resume)?;
    let input = CalibrationInput { sequences: &sequences, expert_tokens: 1, prior: None };
    let ends = BlockResult::default();
    let allow_nonfinite = choices[0].request.recipe.allow_nonfinite;
    let runner = Runner::new(checkpoint, layouts(checkpoint)?, input, &ends, allow_nonfinite, options)?;
    let schemes = choices.iter().map(Plan::schemes).collect::<Vec<_>>();
    let of =
        |linear: &str| schemes.iter().map(|schemes| schemes.get(linear).map(|(scheme, _)| *scheme)).collect();
    let Plan { request, roles, .. } = &choices[0];
    let survey = Survey { runner: &runner, method: request.rowwise.as_ref(), roles: *roles, schemes: &of };
    runner.each_block(
        &workspace,
        &[&journal],
        false,
        |report| Ok(report.has_files(&workspace)),
        |index, input, output| {
            let measured = survey.block(index, &input[0], &output[0])?;
            let digest = workspace.write(&block_file(index), &pretty(&serde_json::json!(measured)))?;
            let files = BTreeMap::from([(block_file(index), digest)]);
            let digests = BTreeMap::from([("sensitivity".to_owned(), files)]);
            Ok(BlockReport { digests, ..BlockReport::of(index) })
        },
    )?;
    let blocks =
        (0..runner.layouts.len()).map(|index| read_json::<Sensitivity>(&workspace.path(&block_file(index))));
    let sensitivity = blocks.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let kept = Kept { blake3: digest(&sensitivity), key, sensitivity };
    workspace.write(SINGLE_FILE_NAME, &pretty(&serde_json::json!(kept)))?;
    workspace.publish()?;
    Ok(kept.sensitivity)
}

/// The groups that [`sensitivity`] measures, each with a loss of zero.
pub(crate) fn unmeasured(choices: &[Plan], checkpoint: &Arc<Checkpoint>) -> Result<Sensitivity> {
    let quantized: Vec<_> = choices.iter().map(Plan::schemes).collect();
    let (_, layouts) = layouts(checkpoint)?;
    let roles = choices[0].roles;
    let linears = layouts.iter().flat_map(|layout| &layout.linears).map(|linear| linear.name.as_str());
    let chosen = linears.filter(|name| quantized.iter().any(|schemes| schemes.contains_key(name)));
    Ok(chosen.map(|name| (roles.group(name), vec![0.0; choices.len()])).collect())
}

/// Sequences spread over the whole set, with about [`TOKENS`] tokens.
fn spread(sequences: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    let every = tokens.div_ceil(TOKENS).max(1);
    sequences.iter().step_by(every).cloned().collect()
}

fn key(choices: &[Plan], sequences: &[Vec<u32>], model: &str, device: Device) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{}\n{model}\n{}", env!("CARGO_PKG_VERSION"), machine::key(device)).as_bytes());
    for plan in choices {
        hasher.update(plan.request.recipe.to_toml().as_bytes());
    }
    for token in sequences.iter().flatten() {
        hasher.update(&token.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn block_file(index: usize) -> String {
    format!("sensitivity-{index}.json")
}

/// Reads the file of an earlier run, if there is one.
///
/// # Errors
/// A file of that name that is not from llmc.
fn read(file: &Path) -> Result<Option<Kept>> {
    if !file.exists() {
        return Ok(None);
    }
    let bytes = read_whole(file)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|_| {
        let what = format!("{} is in the way, and is not what a budget has measured", file.display());
        Error::usage(what, "move it elsewhere, or choose another output with -o")
    })
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::malformed(path, "what was measured", e, "--no-resume measures it again"))
}

/// The measurement of blocks.
struct Survey<'a> {
    runner: &'a Runner<'a>,
    method: &'a dyn Quantize,
    roles: Roles,
    /// The scheme of a linear with each choice; `None` if it stays dense.
    schemes: &'a (dyn Fn(&str) -> Vec<Option<Scheme>> + Sync),
}

impl Survey<'_> {
    /// Measures the groups of a block. Its outputs go into `reference`.
    fn block(&self, index: usize, input: &Chain, reference: &Chain) -> Result<Sensitivity> {
        let watch = Watch { needs: Needs::IMPORTANCE, ..Watch::default() };
        let seen = self.runner.gather(index, &self.runner.weights(), input, watch, Some(reference))?.seen;
        let mut groups: BTreeMap<String, Vec<&LinearPlace>> = Default::default();
        for place in &self.runner.layouts[index].linears {
            if (self.schemes)(&place.name).iter().any(Option::is_some) {
                groups.entry(self.roles.group(&place.name)).or_default().push(place);
            }
        }
        let measure = |(group, places): (String, Vec<&LinearPlace>)| {
            let (coarsest, errors) = self.round(index, &places, &seen)?;
            let weights = self.runner.weights().with(&coarsest, false);
            let distance = self.runner.distance(index, &weights, input, reference)?;
            Ok((group, proportional(distance, &errors)))
        };
        groups.into_iter().map(measure).collect()
    }

    /// The linears with the first choice, and the error of their weights with each choice.
    fn round(
        &self,
        index: usize,
        places: &[&LinearPlace],
        seen: &InputStatistics,
    ) -> Result<(Block, Vec<f64>)> {
        let rounded = places.par_iter().map(|place| self.round_linear(place, seen));
        let (mut linears, mut totals) = (Vec::new(), Vec::new());
        for (coarsest, errors) in rounded.collect::<Result<Vec<_>>>()? {
            linears.extend(coarsest);
            totals.resize(errors.len(), 0.0);
            totals.iter_mut().zip(errors).for_each(|(total, error)| *total += error);
        }
        Ok((Block { index, linears, ..Block::default() }, totals))
    }

    fn round_linear(
        &self,
        place: &LinearPlace,
        seen: &InputStatistics,
    ) -> Result<(Option<BlockLinear>, Vec<f64>)> {
        let matrix = self.runner.weights().matrix(&place.name)?;
        let values = matrix.read(0..matrix.shape()[0])?.into_values();
        let (mut coarsest, mut errors) = (None, Vec::new());
        for (choice, scheme) in (self.schemes)(&place.name).into_iter().enumerate() {
            let Some(scheme) = scheme else {
                errors.push(0.0);
                continue;
            };
            let linear = BlockLinear::new(&place.name, scheme, Weight::Dense(values.clone()));
            let extent = scheme.needs_extent().then(|| Extent::of(values.as_slice().unwrap_or_default()));
            let q = quantize_linear(self.method, BlockLinear { extent, ..linear })?;
            errors.push(error_power(values.view(), q.values().view(), seen.inputs[place.input].as_ref()));
            if choice == 0 {
                coarsest = Some(BlockLinear::new(&place.name, scheme, Weight::Quantized(q)));
            }
        }
        matrix.release();
        Ok((coarsest, errors))
    }
}

/// The loss with each choice, if the loss with the first is `distance`.
fn proportional(distance: f64, errors: &[f64]) -> Vec<f64> {
    let first = errors.first().copied().unwrap_or(0.0);
    let gain = if first > 0.0 { distance / first } else { 0.0 };
    errors.iter().map(|error| gain * error).collect()
}

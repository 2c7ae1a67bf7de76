//! The loss of each group of linears that engines run as one, with fewer bits: the basis of mixed precision.
//!
//! A block is run over the calibration text as it is, and once more for each group, with the group's weights rounded to the
//! first choice. The loss is the change of the block's outputs y, the mean over tokens of ‖y′ − y‖² / ‖y‖². For the other
//! choices it is assumed to be proportional to Σ (w − q)²·x², the error of the weights weighted by the squares x² of their
//! inputs. Relative to the residual stream, the errors of blocks add up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::chain::Chain;
use super::layouts::layouts;
use super::measurements;
use super::runner::{CalibrationInput, Runner};
use crate::calib::observe::{InputStatistics, Watch};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{LinearPlace, Weights};
use crate::numerics::{Extent, Scheme, Weight};
use crate::pipeline::options::Options;
use crate::pipeline::output::model_digest;
use crate::pipeline::stream::BlockResult;
use crate::plan::{Plan, Roles, Sensitivity};
use crate::stage::{Block, BlockLinear, Quantize, error_power, quantize_linear};
use crate::statistics::Needs;

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
    let sequences = measurements::spread(sequences);
    let recipes: Vec<String> = choices.iter().map(|plan| plan.request.recipe.to_toml()).collect();
    let what = recipes.iter().map(String::as_str);
    let key = measurements::key(what, &sequences, &model_digest(checkpoint, weights), options.device);
    if let Some(sensitivity) = measurements::recall(file, &key)? {
        return Ok(sensitivity);
    }
    let input = CalibrationInput { sequences: &sequences, expert_tokens: 1, prior: None };
    let ends = BlockResult::default();
    let allow_nonfinite = choices[0].request.recipe.allow_nonfinite;
    let runner = Runner::new(checkpoint, layouts(checkpoint)?, input, &ends, allow_nonfinite, options)?;
    let schemes = choices.iter().map(Plan::schemes).collect::<Vec<_>>();
    let of =
        |linear: &str| schemes.iter().map(|schemes| schemes.get(linear).map(|(scheme, _)| *scheme)).collect();
    let Plan { request, roles, .. } = &choices[0];
    let survey = Survey { runner: &runner, method: request.rowwise.as_ref(), roles: *roles, schemes: &of };
    measurements::measure(&runner, file, key, |index, input, output| survey.block(index, input, output))
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

//! The outliers of each block of the original model: the basis of `allocation = "owl"`, in [`crate::prune::allocation`].
//!
//! The norms of inputs are measured on a part of the calibration text, or are those of an earlier run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ndarray::Array2;
use rayon::prelude::*;

use super::chain::Chain;
use super::layouts::layouts;
use super::measurements::{self, Measurements};
use super::runner::{CalibrationInput, Runner};
use crate::calib::PriorStatistics;
use crate::calib::observe::Watch;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::{LinearPlace, Weights};
use crate::pipeline::options::{Options, check_interrupted};
use crate::pipeline::output::model_digest;
use crate::pipeline::stream::BlockResult;
use crate::plan::{Plan, layer_path};
use crate::prune::allocation::Outliers;
use crate::statistics::{Needs, Statistics};

/// Measures the outliers of each block that has linears whose zeros the pruning stage shares out, or reads the result of an
/// earlier run from `file`. Blocks are in order, under the beginning of their tensors' names: `model.layers.3`. `weights` is the
/// digest of the model's weights.
///
/// # Errors
/// An architecture that llmc does not support; inputs that are not finite; errors of reading and writing. The same call
/// resumes an interrupted run.
pub(crate) fn outliers(
    plan: &Plan,
    input: CalibrationInput,
    weights: &str,
    file: &Path,
    checkpoint: &Arc<Checkpoint>,
    options: &Options,
) -> Result<Vec<(String, Outliers)>> {
    let sequences = measurements::spread(input.sequences);
    let input = CalibrationInput { sequences: &sequences, expert_tokens: 1, ..input };
    let ends = BlockResult::default();
    let allow_nonfinite = plan.request.recipe.allow_nonfinite;
    let runner = Runner::new(checkpoint, layouts(checkpoint)?, input, &ends, allow_nonfinite, options)?;
    let survey = Survey { places: places(plan, &runner)?, runner: &runner };
    let measured = match input.prior {
        Some(prior) => survey.from(prior)?,
        None => {
            let model = model_digest(checkpoint, weights);
            let key = measurements::key(survey.identity(), &sequences, &model, options.device);
            match measurements::recall(file, &key)? {
                Some(measured) => measured,
                None => measurements::measure(&runner, file, key, |index, input, output| {
                    survey.block(index, input, output)
                })?,
            }
        }
    };
    Ok(survey.in_order(&measured))
}

/// The linears of each block whose zeros the pruning stage shares out.
fn places<'a>(plan: &Plan, runner: &'a Runner) -> Result<Vec<Vec<&'a LinearPlace>>> {
    let pruned = plan.pruned_as_the_stage_says()?;
    let is_pruned = |place: &&LinearPlace| pruned.contains(place.name.as_str());
    Ok(runner.layouts.iter().map(|layout| layout.linears.iter().filter(is_pruned).collect()).collect())
}

/// The measurement of blocks.
struct Survey<'a> {
    runner: &'a Runner<'a>,
    /// The linears of each block that are looked at.
    places: Vec<Vec<&'a LinearPlace>>,
}

impl Survey<'_> {
    /// The name of a block; `None` for one without linears to look at.
    fn name(&self, index: usize) -> Option<&str> {
        layer_path(&self.places[index].first()?.name)
    }

    /// The measurement in words, for its key.
    fn identity(&self) -> impl Iterator<Item = &str> {
        let linears = self.places.iter().flatten().flat_map(|place| ["\n", place.name.as_str()]);
        ["owl"].into_iter().chain(linears)
    }

    /// Runs a block over the text and measures it. Its outputs go into `output`.
    fn block(&self, index: usize, input: &Chain, output: &Chain) -> Result<Measurements> {
        let watch = Watch { needs: Needs::IMPORTANCE, ..Watch::default() };
        let seen = self.runner.gather(index, &self.runner.weights(), input, watch, Some(output))?.seen;
        self.count(index, |place, _| Ok(seen.inputs[place.input].clone()))
    }

    /// Measures all blocks with statistics of an earlier run.
    fn from(&self, prior: &PriorStatistics) -> Result<Measurements> {
        let mut measured = Measurements::new();
        for index in 0..self.places.len() {
            check_interrupted(self.runner.options)?;
            let prior = prior.block(index)?;
            measured.extend(self.count(index, |place, cols| prior.statistics(&place.name, cols))?);
        }
        Ok(measured)
    }

    /// Counts the outliers of a block: its weights, and D. Linears without statistics are left out.
    fn count(
        &self,
        index: usize,
        statistics: impl Fn(&LinearPlace, usize) -> Result<Option<Statistics>> + Sync,
    ) -> Result<Measurements> {
        let linears = self.places[index].par_iter().map(|place| {
            let w = self.read(place)?;
            Ok(statistics(place, w.ncols())?.map(|seen| (w, norms(&seen))))
        });
        let linears: Vec<_> = linears.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let Some(name) = self.name(index).filter(|_| !linears.is_empty()) else {
            return Ok(Measurements::new());
        };
        let Outliers { weights, percent } = Outliers::count(&linears);
        Ok(BTreeMap::from([(name.to_owned(), vec![weights, percent])]))
    }

    fn read(&self, place: &LinearPlace) -> Result<Array2<f32>> {
        let matrix = self.runner.weights().matrix(&place.name)?;
        let values = matrix.read(0..matrix.shape()[0])?.into_values();
        matrix.release();
        Ok(values)
    }

    fn in_order(&self, measured: &Measurements) -> Vec<(String, Outliers)> {
        let of_block = |index: usize| {
            let name = self.name(index)?;
            let [weights, percent] = measured.get(name)?.as_slice().try_into().ok()?;
            Some((name.to_owned(), Outliers { weights, percent }))
        };
        (0..self.places.len()).filter_map(of_block).collect()
    }
}

/// ‖X\[j\]‖, over the mean of tokens.
fn norms(seen: &Statistics) -> Vec<f32> {
    seen.second_moment().into_iter().map(f32::sqrt).collect()
}

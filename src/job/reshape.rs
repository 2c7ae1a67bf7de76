//! A model made smaller before it is planned: what stays is measured, and the recipe then says it.

use std::path::{Path, PathBuf};

use super::budget::{Measured, Run};
use super::cut::survey_on;
use super::host::Notice;
use super::size::{self, ways_of};
use crate::error::Result;
use crate::io::{Checkpoint, with_needed};
use crate::model::Sizes;
use crate::pipeline::ShapeSurvey;
use crate::prune::vocabulary::filled;
use crate::recipe::{Recipe, Surgery};
use crate::registry::shaping;
use crate::similar::same;
use crate::stage::{Shape, Vocabulary};

/// A model that was made smaller, and the recipe for what is left of it.
pub(crate) struct Reshaped {
    /// The model.
    pub checkpoint: Checkpoint,
    /// The recipe, with what was cut in the place of the stages that chose it.
    pub recipe: Recipe,
    /// The folders that keep the measurements until the output is complete.
    pub folders: Vec<PathBuf>,
}

/// Cuts a model as a recipe says that it was cut.
///
/// # Errors
/// Numbers that the model does not have; what its config.json cannot say.
pub(crate) fn cut(checkpoint: Checkpoint, surgery: &[Surgery]) -> Result<Checkpoint> {
    surgery.iter().try_fold(checkpoint, |checkpoint, cut| checkpoint.edited(cut))
}

/// The model and the recipe as they will be, from their sizes alone.
///
/// # Errors
/// More than the model has; nothing that would go.
pub(crate) fn outline(recipe: &Recipe, shapes: &[Shape], checkpoint: Checkpoint) -> Result<Reshaped> {
    let mut reshaped = Reshaped::whole(recipe, checkpoint);
    for (method, shape) in passes(recipe, shapes) {
        let stages = match shape {
            // Its ways are of about the same size.
            Shape::Size(size) => ways_of(&size, &reshaped.checkpoint)?.swap_remove(0),
            _ => vec![shape],
        };
        for shape in stages {
            let surgery = shape.outline(&reshaped.checkpoint.sizes()?)?;
            reshaped.take(Surgery { method: method.clone(), ..surgery }, &[])?;
        }
    }
    Ok(reshaped)
}

/// Measures what stays of a model, stage by stage.
///
/// # Errors
/// Whatever measuring meets. The same call resumes an interrupted run.
pub(crate) fn measure(
    recipe: &Recipe,
    shapes: &[Shape],
    checkpoint: Checkpoint,
    measured: &mut Measured,
    run: &Run,
) -> Result<Reshaped> {
    let mut reshaped = Reshaped::whole(recipe, checkpoint);
    for (method, shape) in passes(recipe, shapes) {
        match shape {
            Shape::Vocabulary(vocabulary) => {
                let surgery = cut_vocabulary(recipe, vocabulary, &reshaped.checkpoint, measured)?;
                reshaped.take(Surgery { method, ..surgery }, &[])?;
            }
            Shape::Size(size) => {
                let folder = folder(run.output, reshaped.folders.len());
                let base = reshaped.survey(shape, &method, measured, &folder);
                for shape in size::search(&size, &base, &reshaped.checkpoint, run)? {
                    reshaped.measure(shape, &method, measured, run)?;
                }
            }
            _ => reshaped.measure(shape, &method, measured, run)?,
        }
    }
    Ok(reshaped)
}

impl Reshaped {
    /// Measures one cut, and makes it.
    fn measure(&mut self, shape: Shape, method: &str, measured: &Measured, run: &Run) -> Result<()> {
        let folder = folder(run.output, self.folders.len());
        let survey = self.survey(shape, method, measured, &folder);
        let before = self.checkpoint.sizes()?;
        let (surgery, files) = survey_on(&survey, &self.checkpoint, run)?;
        if let Some(gone) = layers_that_go(&surgery, &before) {
            run.host.notify(&Notice::Note(format!("{method}: {gone}")));
        }
        self.folders.push(folder);
        self.take(surgery, &files)
    }

    fn survey<'a>(
        &'a self,
        shape: Shape,
        method: &'a str,
        measured: &'a Measured,
        folder: &'a Path,
    ) -> ShapeSurvey<'a> {
        let calibration = self.recipe.calibration.as_ref();
        ShapeSurvey {
            expert_tokens: calibration.map_or(1, |calibration| calibration.expert_tokens),
            shape,
            method,
            before: &self.recipe.surgery,
            sequences: &measured.samples.sequences,
            weights: &measured.input,
            folder,
            allow_nonfinite: self.recipe.allow_nonfinite,
        }
    }

    /// Makes a cut, with the files of corrected weights.
    fn take(&mut self, surgery: Surgery, files: &[PathBuf]) -> Result<()> {
        self.checkpoint = self.checkpoint.clone().corrected(files)?.edited(&surgery)?;
        self.recipe.surgery.push(surgery);
        Ok(())
    }

    /// Nothing is cut yet.
    fn whole(recipe: &Recipe, checkpoint: Checkpoint) -> Reshaped {
        let shaping = shaping();
        let is_shape = |name: &str| shaping.iter().any(|known| same(known, name));
        let stages = recipe.stages.iter().filter(|stage| !is_shape(&stage.method)).cloned().collect();
        Reshaped { checkpoint, recipe: Recipe { stages, ..recipe.clone() }, folders: Vec::new() }
    }
}

/// The stages that are measured one after the other, with their names: they come first in a recipe.
fn passes(recipe: &Recipe, shapes: &[Shape]) -> Vec<(String, Shape)> {
    let names = recipe.stages.iter().map(|stage| stage.method.clone());
    let passes = |(name, shape): (String, &Shape)| {
        shape.passes().into_iter().map(move |pass| (name.clone(), pass)).collect::<Vec<_>>()
    };
    names.zip(shapes).flat_map(passes).collect()
}

/// Takes out the tokens that the text never uses, and numbers those of the calibration set anew.
fn cut_vocabulary(
    recipe: &Recipe,
    vocabulary: Vocabulary,
    checkpoint: &Checkpoint,
    measured: &mut Measured,
) -> Result<Surgery> {
    let sequences = &mut measured.samples.sequences;
    let calibration = recipe.calibration.clone().unwrap_or_default();
    let used = calibration.tokens(checkpoint, sequences)?;
    let kept = filled(&with_needed(checkpoint, used)?, checkpoint.sizes()?.vocabulary, vocabulary.multiple);
    let place = |token: &mut u32| *token = kept.place(*token).unwrap_or_default() as u32;
    sequences.iter_mut().flatten().for_each(place);
    Ok(Surgery { vocabulary: Some(kept), ..Surgery::default() })
}

/// The folder beside an output that keeps a measurement.
fn folder(output: &Path, number: usize) -> PathBuf {
    let mut folder: PathBuf = output.components().collect();
    folder.as_mut_os_string().push(format!(".cut-{number}"));
    folder
}

/// The layers that go, in words; `None` where all stay.
fn layers_that_go(surgery: &Surgery, before: &Sizes) -> Option<String> {
    surgery.layers.as_ref().map(|kept| format!("layers {} go", kept.others(before.layers)))
}

//! The measurements behind stages that make a model smaller: what stays of it, and the weights that make up for the rest.
//!
//! The result is kept in a folder beside the output until that is complete, so that a run that was stopped later need not measure
//! again: `surgery.toml`, and a file of corrected weights for each block.

mod depth;
mod divergence;
mod experts;
mod greedy;
mod refit;
mod score;
mod states;
mod weights;
mod width;
mod work;

pub(crate) use greedy::held_out;
pub(crate) use score::divergences_of;
pub(crate) use work::Survey;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::blocks::{CalibrationInput, Runner, machine_key, stored_layouts, unobserved};
use super::options::Options;
use super::output::{Journal, Workspace, model_digest};
use super::stream::BlockResult;
use crate::error::{Error, Result};
use crate::io::{Checkpoint, read_text};
use crate::recipe::Surgery;
use crate::stage::{Depth, LayerScore, Shape};
use weights::{corrected_files, digest};
use work::Work;

/// The file of the result in its folder.
const RESULT: &str = "surgery.toml";

/// The content of that file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Identifies the model, the text and the stage.
    key: String,
    surgery: Surgery,
}

/// Measures what stays of a model, or reads the result of an earlier run. Returns it with the files of corrected weights.
///
/// # Errors
/// An architecture that llmc does not support; activations that are not finite; errors of reading and writing. The same call
/// resumes an interrupted run.
pub(crate) fn survey(
    survey: &Survey,
    checkpoint: &Arc<Checkpoint>,
    options: &Options,
) -> Result<(Surgery, Vec<PathBuf>)> {
    let key = key(survey, checkpoint, options);
    let layers = checkpoint.sizes()?.layers;
    if let Some(kept) = read(survey.folder)?.filter(|kept| options.resume && kept.key == key) {
        let files = corrected_files(survey.folder, layers);
        if digest(&files)? == kept.surgery.corrected {
            return Ok((kept.surgery, files));
        }
    }
    let ends = BlockResult::default();
    let Survey { sequences, expert_tokens, .. } = *survey;
    let input = CalibrationInput { sequences, expert_tokens, prior: None };
    let described = match survey.shape {
        Shape::Depth(_) => unobserved(checkpoint)?,
        _ => stored_layouts(checkpoint)?,
    };
    let runner = Runner::new(checkpoint, described, input, &ends, survey.allow_nonfinite, options)?;
    refuse_headless(survey.shape, &runner)?;
    let workspace = Workspace::open(survey.folder, false)?;
    let journal = Journal::keyed(&workspace, &key, || true, options.resume)?;
    let work =
        Work { survey, runner, workspace, journal, arch: checkpoint.arch()?, sizes: checkpoint.sizes()? };
    let surgery = match work.choose() {
        // The same call can resume these.
        Ok(surgery) => surgery,
        Err(error @ (Error::Io { .. } | Error::Interrupted { .. })) => return Err(error),
        Err(error) => {
            work.workspace.discard()?;
            return Err(error);
        }
    };
    let corrected = digest(&corrected_files(work.workspace.partial(), layers))?;
    let surgery = Surgery { method: survey.method.to_owned(), corrected, ..surgery };
    let kept = Kept { key, surgery };
    let text = toml::to_string(&kept).expect("a struct of strings and lists is always valid TOML");
    work.workspace.write(RESULT, text.as_bytes())?;
    work.workspace.publish()?;
    let files = corrected_files(survey.folder, layers);
    Ok((kept.surgery, files))
}

impl Work<'_> {
    fn choose(&self) -> Result<Surgery> {
        let outline = self.survey.shape.outline(&self.sizes)?;
        match self.survey.shape {
            Shape::Depth(depth) => {
                let keep = outline.layers.map_or(0, |layers| layers.numbers().len());
                let layers = match depth.by {
                    LayerScore::Greedy => self.greedy(keep)?,
                    LayerScore::Influence => self.by_influence(keep)?,
                    LayerScore::Contiguous => self.by_angle(keep)?,
                };
                if depth.correct {
                    self.close_gaps(&layers)?;
                }
                Ok(Surgery { layers: Some(layers), ..Surgery::default() })
            }
            Shape::Width(width) => match &outline.hidden {
                Some(kept) => self.narrow_stream(kept.numbers().len()),
                None => self.narrow(&width, &outline),
            },
            Shape::Experts(experts) => self.take_experts(&experts, &outline),
            Shape::Vocabulary(_) | Shape::Size(_) => Ok(outline), // chosen without the blocks
        }
    }
}

/// Refuses to compare predictions of a model that makes none.
fn refuse_headless(shape: Shape, runner: &Runner) -> Result<()> {
    let compares = matches!(shape, Shape::Depth(Depth { by: LayerScore::Greedy, .. }));
    if !compares || runner.model.frame.head.is_some() {
        return Ok(());
    }
    let what = "depth.by = greedy compares predictions, and an encoder makes none";
    Err(Error::usage(what, "--set depth.by=influence looks at hidden states alone"))
}

fn key(survey: &Survey, checkpoint: &Checkpoint, options: &Options) -> String {
    let mut hasher = blake3::Hasher::new();
    let (version, model) = (env!("CARGO_PKG_VERSION"), model_digest(checkpoint, survey.weights));
    let device = machine_key(options.device);
    hasher.update(
        format!(
            "{version}\n{model}\n{device}{:?}\n{:?}\n{}\n{}\n",
            survey.shape, survey.before, survey.allow_nonfinite, survey.expert_tokens
        )
        .as_bytes(),
    );
    for token in survey.sequences.iter().flat_map(|sequence| sequence.iter().chain(&[u32::MAX])) {
        hasher.update(&token.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Removes the folder that keeps a result, which is not needed any more.
pub(crate) fn forget_survey(folder: &Path) -> Result<()> {
    std::fs::remove_dir_all(folder).map_err(|e| Error::io(folder, e))
}

/// Reads the folder of an earlier run, if there is one.
///
/// # Errors
/// A folder of that name that is not from llmc.
fn read(folder: &Path) -> Result<Option<Kept>> {
    if folder.symlink_metadata().is_err() {
        return Ok(None);
    }
    let kept = read_text(&folder.join(RESULT)).ok().and_then(|text| toml::from_str(&text).ok());
    kept.map(Some).ok_or_else(|| {
        let what = format!("{} is in the way, and is not what pruning has measured", folder.display());
        Error::usage(what, "move it elsewhere, or choose another output with -o")
    })
}

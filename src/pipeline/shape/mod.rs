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
mod width;

pub(crate) use greedy::held_out;
pub(crate) use score::divergence_of;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::Array2;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};

use super::blocks::{Batches, BlockReport, CalibrationInput, Runner, machine_key};
use super::options::Options;
use super::output::{Journal, Workspace, model_digest};
use super::stream::BlockResult;
use crate::error::{Error, Result};
use crate::io::{Checkpoint, read_text, read_whole};
use crate::json::pretty;
use crate::model::Sizes;
use crate::numerics::convert;
use crate::recipe::Surgery;
use crate::stage::{Depth, LayerScore, Shape};
use crate::tensor::DType;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Survey<'a> {
    /// The stage.
    pub shape: Shape,
    /// Its name.
    pub method: &'a str,
    /// What was cut before it.
    pub before: &'a [Surgery],
    /// The calibration set.
    pub sequences: &'a [Vec<u32>],
    /// The digest of the input's weights.
    pub weights: &'a str,
    /// The folder that keeps the result.
    pub folder: &'a Path,
    /// True if weights that are not finite become 0; else they are an error.
    pub allow_nonfinite: bool,
}

/// The file of the result in its folder.
const RESULT: &str = "surgery.toml";

/// The content of that file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Identifies the model, the text and the stage.
    key: String,
    surgery: Surgery,
}

/// A measurement in work.
struct Work<'a> {
    survey: &'a Survey<'a>,
    runner: Runner<'a>,
    workspace: Workspace,
    journal: Journal,
    sizes: Sizes,
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
    if let Some(kept) = read(survey.folder)?.filter(|kept| kept.key == key) {
        let files = corrected_files(survey.folder, layers);
        if digest(&files)? == kept.surgery.corrected {
            return Ok((kept.surgery, files));
        }
    }
    let ends = BlockResult::default();
    let input = CalibrationInput { sequences: survey.sequences, expert_tokens: 1, prior: None };
    let runner = match survey.shape {
        Shape::Depth(_) => Runner::unobserved,
        _ => Runner::new,
    };
    let runner = runner(checkpoint, input, &ends, survey.allow_nonfinite, options)?;
    refuse_headless(survey.shape, &runner)?;
    let workspace = Workspace::open(survey.folder, false)?;
    let journal = Journal::keyed(&workspace, &key, || true, options.resume)?;
    let work = Work { survey, runner, workspace, journal, sizes: checkpoint.sizes()? };
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

    /// Runs the blocks one after the other, and keeps what is measured of each as JSON. `measure` gets a block's number, the states
    /// before it, and those behind it, which it fills.
    fn each_block<T: Serialize + for<'a> Deserialize<'a>>(
        &self,
        mut measure: impl FnMut(usize, &super::blocks::Chain, &super::blocks::Chain) -> Result<T>,
    ) -> Result<Vec<T>> {
        let intact = |report: &BlockReport| Ok(report.has_files(&self.workspace));
        self.runner.each_block(
            &self.workspace,
            &[&self.journal],
            false,
            intact,
            |index, input, output| {
                let measured = measure(index, &input[0], &output[0])?;
                let name = measured_file(index);
                let digest = self.workspace.write(&name, &pretty(&serde_json::json!(measured)))?;
                let files = [(name, digest)].into();
                Ok(BlockReport { digests: [("measured".to_owned(), files)].into(), ..BlockReport::of(index) })
            },
        )?;
        (0..self.runner.layouts.len()).map(|index| self.measured(&measured_file(index))).collect()
    }

    /// Reads what was measured of a block.
    fn measured<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<T> {
        let path = self.workspace.path(name);
        serde_json::from_slice(&read_whole(&path)?)
            .map_err(|e| Error::malformed(&path, "what was measured", e, "--no-resume measures it again"))
    }

    fn batches(&self) -> &Batches<'_> {
        &self.runner.batches
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

fn measured_file(index: usize) -> String {
    format!("measured-{index}.json")
}

/// The name of the file of a block's corrected weights.
fn weights_file(index: usize) -> String {
    format!("corrected-{index:05}.safetensors")
}

/// The files of corrected weights in a folder, in the order of the blocks.
fn corrected_files(folder: &Path, layers: usize) -> Vec<PathBuf> {
    (0..layers).map(|index| folder.join(weights_file(index))).filter(|path| path.is_file()).collect()
}

/// Weights, in f32 under their names, as a safetensors file.
fn weights_bytes(weights: &[(String, &Array2<f32>)]) -> Result<Vec<u8>> {
    let bytes = |values: &Array2<f32>| {
        let mut bytes = Vec::new();
        convert::from_f32(DType::F32, values.as_slice().unwrap_or_default(), &mut bytes);
        bytes
    };
    let stored: Vec<_> =
        weights.iter().map(|(name, values)| (name, values.shape().to_vec(), bytes(values))).collect();
    let views = stored.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.as_str(), view.expect("as many bytes as the shape has"))
    });
    safetensors::serialize(views, None).map_err(|e| {
        Error::unsupported(format!("corrected weights: {e}"), "this is a defect of llmc: please report it")
    })
}

/// blake3 over files; `None` of none.
fn digest(files: &[PathBuf]) -> Result<Option<String>> {
    if files.is_empty() {
        return Ok(None);
    }
    let mut hasher = blake3::Hasher::new();
    for path in files {
        hasher.update_mmap_rayon(path).map_err(|e| Error::io(path, e))?;
    }
    Ok(Some(hasher.finalize().to_hex().to_string()))
}

fn key(survey: &Survey, checkpoint: &Checkpoint, options: &Options) -> String {
    let mut hasher = blake3::Hasher::new();
    let (version, model) = (env!("CARGO_PKG_VERSION"), model_digest(checkpoint, survey.weights));
    let device = machine_key(options.device);
    hasher
        .update(format!("{version}\n{model}\n{device}{:?}\n{:?}\n", survey.shape, survey.before).as_bytes());
    for token in survey.sequences.iter().flat_map(|sequence| sequence.iter().chain(&[u32::MAX])) {
        hasher.update(&token.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
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

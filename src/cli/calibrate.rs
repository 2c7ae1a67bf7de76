//! `llmc calibrate`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use super::calibration_args::CalibrationArguments;
use super::{Context, coverage, job};
use crate::calib::Samples;
use crate::error::{Error, Result};
use crate::pipeline::{self, BlockReport, Options, Survey};
use crate::recipe::Calibration;
use crate::statistics::Needs;

/// Gather statistics of a model's activations over a calibration set, or a llama.cpp importance matrix
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc calibrate models/qwen --data corpus.jsonl --hessian -o qwen-stats
  llmc calibrate org/name --data self --samples 256 -o qwen-imatrix.gguf")]
pub struct Arguments {
    /// A .safetensors file, a folder, a .gguf, or a hub id (org/name[@revision])
    model: String,
    /// Folder for the statistics; FILE.gguf for an importance matrix alone
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    #[command(flatten)]
    calibration: CalibrationArguments,
    /// Keep the Hessians of the linears too, as gptq, awq and eora need them: columns² numbers for each input
    #[arg(long)]
    hessian: bool,
    /// Write the importance matrix too, as llama.cpp reads it
    #[arg(long, value_name = "FILE.gguf")]
    imatrix: Option<PathBuf>,
    /// Replace an output that exists, once the new one is complete
    #[arg(long)]
    overwrite: bool,
    /// Throw away what an interrupted run left instead of going on from it
    #[arg(long)]
    no_resume: bool,
}

impl Arguments {
    /// The folder of statistics, and the importance matrix.
    fn outputs(&self) -> Result<(Option<&Path>, Option<&Path>)> {
        if !is_gguf(&self.output) {
            return Ok((Some(&self.output), self.imatrix.as_deref()));
        }
        let what = |flag: &str| format!("{flag}, and an output that is an importance matrix alone");
        match (self.hessian, &self.imatrix) {
            (true, _) => Err(Error::usage(what("--hessian"), "name a folder: -o stats --imatrix FILE.gguf")),
            (_, Some(_)) => {
                Err(Error::usage(what("--imatrix"), "name a folder: -o stats --imatrix FILE.gguf"))
            }
            _ => Ok((None, Some(&self.output))),
        }
    }

    /// What is kept: all that costs little, and Hessians where asked; of an importance matrix, what it holds.
    fn needs(&self, folder: Option<&Path>) -> Needs {
        let all = folder.is_some();
        Needs { absmax: all, mean_abs: all, second_moment: true, hessian: self.hessian }
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Calibrates.
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let start = Instant::now();
    let (folder, imatrix) = arguments.outputs()?;
    let checkpoint = Arc::new(context.open(&arguments.model)?);
    for (path, single) in [(folder, false), (imatrix, true)] {
        path.map_or(Ok(()), |path| pipeline::check_target(&checkpoint, path, single, arguments.overwrite))?;
    }
    let calibration = arguments.calibration.over(Calibration::default());
    let samples = job::draw(&calibration, &checkpoint, context)?;
    let survey = Survey {
        samples: &samples,
        expert_tokens: calibration.expert_tokens,
        needs: arguments.needs(folder),
        folder,
        imatrix,
    };
    let bar = context.bar(0, job::BLOCKS, "");
    let options = Options {
        resume: !arguments.no_resume,
        interrupted: &context.interrupted,
        progress: &ProgressBar::hidden(),
        events: &|event| job::tell(event, &bar, context),
    };
    let blocks = pipeline::calibrate(&survey, &checkpoint, &options)?;
    bar.finish_and_clear();
    report(&survey, &blocks, start, context)?;
    coverage::check(&blocks, arguments.calibration.min_coverage)
}

fn report(survey: &Survey, blocks: &[BlockReport], start: Instant, context: &Context) -> Result<()> {
    let Samples { sequences, sources, .. } = survey.samples;
    let (tokens, seconds) = (survey.samples.tokens(), start.elapsed().as_secs_f64());
    let outputs =
        || [survey.folder, survey.imatrix].into_iter().flatten().map(|path| path.display().to_string());
    let text = || {
        format!(
            "{}\n{} blocks over {} sequences, {tokens} tokens together, in {seconds:.2} s\n{}",
            outputs().collect::<Vec<_>>().join("\n"),
            blocks.len(),
            sequences.len(),
            coverage::table(blocks)
        )
    };
    context.print(text, || {
        json!({
            "outputs": outputs().collect::<Vec<_>>(),
            "blocks": blocks.len(),
            "sequences": sequences.len(),
            "tokens": tokens,
            "sources": sources,
            "coverage": coverage::to_json(blocks),
            "seconds": seconds,
        })
    })
}

//! `llmc calibrate`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::calibration_args::CalibrationArguments;
use super::context::Context;
use crate::error::{Error, Result};
use crate::io::has_extension;
use crate::job::{Calibrate, CalibrateRecord, coverage};
use crate::recipe::Calibration;

/// Gather statistics of a model's activations over a calibration set, or a llama.cpp importance matrix
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc calibrate models/qwen --data corpus.jsonl --hessian -o qwen-stats
  llmc calibrate org/name --data self --samples 256 -o qwen-imatrix.gguf")]
pub(crate) struct Arguments {
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
        if !has_extension(&self.output, "gguf") {
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
}

/// Calibrates.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let (folder, imatrix) = arguments.outputs()?;
    let job = Calibrate {
        model: arguments.model.clone(),
        calibration: arguments.calibration.over(Calibration::default()),
        folder: folder.map(Path::to_owned),
        imatrix: imatrix.map(Path::to_owned),
        device: arguments.calibration.device,
        hessian: arguments.hessian,
        overwrite: arguments.overwrite,
        no_resume: arguments.no_resume,
        min_coverage: arguments.calibration.min_coverage,
    };
    let record = job.run(context)?;
    context.print(|| text(&record), || json!(record))?;
    job.check_coverage(&record)
}

fn text(record: &CalibrateRecord) -> String {
    format!(
        "{}\n{} blocks over {} sequences, {} tokens together, in {:.2} s\n{}",
        record.outputs.join("\n"),
        record.blocks,
        record.sequences,
        record.tokens,
        record.seconds,
        coverage::table(&record.coverage)
    )
}

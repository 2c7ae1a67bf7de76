//! The flags that say where outputs go, shared by `quantize`, `convert` and `run`.

use std::path::PathBuf;

use clap::Args;

use crate::io::has_extension;
use crate::job::Destination;

/// The flags of an output.
#[derive(Debug, Default, Args)]
pub(crate) struct OutputArguments {
    /// Output folder (or .gguf file) [default: named after the model]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Replace an output that exists, once the new one is complete
    #[arg(long)]
    overwrite: bool,
    /// Throw away what an interrupted run left instead of going on from it
    #[arg(long)]
    no_resume: bool,
    /// Print the plan and stop
    #[arg(long)]
    dry_run: bool,
}

impl OutputArguments {
    /// The destination of the job.
    pub(crate) fn destination(&self) -> Destination {
        Destination {
            output: self.output.clone(),
            overwrite: self.overwrite,
            no_resume: self.no_resume,
            dry_run: self.dry_run,
        }
    }

    /// True if the named output is a GGUF file.
    pub(crate) fn is_gguf(&self) -> bool {
        self.output.as_deref().is_some_and(|path| has_extension(path, "gguf"))
    }
}

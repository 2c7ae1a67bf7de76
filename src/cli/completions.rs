//! `llmc completions`.

use clap::Args;
use clap_complete::Shell;
use serde_json::json;

use super::context::Context;
use crate::error::Result;

/// Print shell completions
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc completions bash > ~/.local/share/bash-completion/completions/llmc
  llmc completions zsh > ~/.zfunc/_llmc")]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

/// Prints the completions of a command.
pub(crate) fn run(arguments: &Arguments, mut command: clap::Command, context: &Context) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "llmc", &mut script);
    let script = String::from_utf8_lossy(&script);
    context.print(|| script.to_string(), || json!({ "script": script }))
}

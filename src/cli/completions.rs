//! `llmc completions`.

use clap::Args;
use clap_complete::Shell;

use crate::error::Result;

/// Print shell completions
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc completions bash > ~/.local/share/bash-completion/completions/llmc
  llmc completions zsh > ~/.zfunc/_llmc")]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

/// Prints them.
pub fn run(arguments: &Arguments) -> Result<()> {
    clap_complete::generate(arguments.shell, &mut super::command(), "llmc", &mut std::io::stdout());
    Ok(())
}

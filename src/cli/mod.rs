//! The command line: one file per subcommand.

use std::process::ExitCode;

/// Parses, runs, prints the error chain.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}

//! The `llmc` binary: parse, run, print the error chain, exit code; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    llmc::cli::main()
}

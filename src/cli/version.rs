//! `llmc --version -v`: the version, and what this build can do on this machine.

use clap::error::ErrorKind;
use serde_json::json;

use crate::job::Machine;

/// The long form of the version, where clap has `--version` to answer, with `-v`.
pub(crate) fn verbose(message: &clap::Error) -> Option<String> {
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let is_verbose = |word: &String| {
        word == "--verbose" || word.starts_with('-') && !word.starts_with("--") && word.contains('v')
    };
    if message.kind() != ErrorKind::DisplayVersion || !words.iter().any(is_verbose) {
        return None;
    }
    let as_json = words.iter().any(|word| word == "--json");
    Some(if as_json { json() } else { text() })
}

/// The features of this build.
fn features() -> Vec<&'static str> {
    let all = [("cuda", cfg!(feature = "cuda")), ("candle-cuda", cfg!(feature = "candle-cuda"))];
    all.into_iter().filter(|(_, enabled)| *enabled).map(|(name, _)| name).collect()
}

fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug: many times slower than a release build" } else { "release" }
}

fn text() -> String {
    let Machine { os, architecture, instructions, threads } = Machine::here();
    let features = if features().is_empty() { "none".to_owned() } else { features().join(", ") };
    format!(
        "llmc {}\nfeatures      {features}\nbuild         {}\nsystem        {os}, {architecture}\n\
         instructions  {instructions}\nthreads       {threads}\n",
        env!("CARGO_PKG_VERSION"),
        build(),
    )
}

fn json() -> String {
    let value = json!({
        "llmc": env!("CARGO_PKG_VERSION"),
        "features": features(),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "machine": Machine::here(),
    });
    format!("{value:#}\n")
}

//! `llmc cache`.

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;

use super::context::Context;
use super::table::{self, Column, table};
use crate::error::Result;
use crate::job::{CacheRecord, CachedFile, clear_cache, list_cache};

/// List what llmc keeps for later runs, or remove it
///
/// It keeps the log-probabilities of models that others were compared with (`llmc eval perplexity --against`; 2 GB at most, the
/// oldest go first), and the choice of GPU kernels (`llmc bench kernels --tune`). All of it can be made again. Models that
/// were downloaded are in the hub's own cache, which `hf cache` shows.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc cache
  llmc cache clear")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove all of it
    Clear,
}

/// Lists, or clears.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    match arguments.command {
        None => {
            let record = list_cache()?;
            context.print(|| listing(&record), || json!(record))
        }
        Some(Command::Clear) => {
            let record = clear_cache()?;
            context.print(|| format!("removed {}\n", total(&record)), || json!(record))
        }
    }
}

const COLUMNS: [Column; 3] = [Column::text("file"), Column::number("size"), Column::number("last used")];

fn listing(record: &CacheRecord) -> String {
    let Some(folder) = &record.folder else { return "no cache folder: there is no home folder\n".to_owned() };
    let row = |file: &CachedFile| {
        let name = file.path.strip_prefix(folder).unwrap_or(&file.path);
        let age = HumanDuration(Duration::from_secs(file.age_seconds));
        vec![name.display().to_string(), HumanBytes(file.bytes).to_string(), format!("{age} ago")]
    };
    let rows: Vec<Vec<String>> = record.files.iter().map(row).collect();
    let files = if rows.is_empty() { String::new() } else { table(&COLUMNS, &rows, table::width()) + "\n" };
    format!("{files}{} in {}\n", total(record), folder.display())
}

fn total(record: &CacheRecord) -> String {
    let bytes = record.files.iter().map(|file| file.bytes).sum();
    let files = match record.files.len() {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    };
    format!("{files}, {}", HumanBytes(bytes))
}

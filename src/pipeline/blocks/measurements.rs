//! Numbers that are measured of every block on a part of the calibration text, before the work that depends on them.
//!
//! They are kept in a file, so that work that differs in what it makes of them, or that was stopped later, need not measure
//! again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::chain::Chain;
use super::machine;
use super::report::BlockReport;
use super::runner::Runner;
use crate::backend::Device;
use crate::error::{Error, Result};
use crate::io::read_whole;
use crate::json::pretty;
use crate::pipeline::output::{Journal, Workspace};
use crate::plan::SINGLE_FILE_NAME;

/// Tokens that suffice for a mean over all of them.
const TOKENS: usize = 8192;

/// The numbers of each thing that was measured, by its name.
pub(super) type Measurements = BTreeMap<String, Vec<f64>>;

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Identifies the model, the text and the measurement.
    key: String,
    /// [`digest`] of the numbers.
    #[serde(default)]
    blake3: String,
    /// Under the name of the first measurement that was kept.
    #[serde(rename = "sensitivity")]
    measured: Measurements,
}

impl Kept {
    /// Returns true if the numbers are those that were written.
    fn is_whole(&self) -> bool {
        digest(&self.measured) == self.blake3
    }
}

/// blake3 over the numbers, as f32: a parser may miss the last bit of an f64.
fn digest(measured: &Measurements) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, numbers) in measured {
        hasher.update(name.as_bytes());
        numbers.iter().for_each(|number| {
            hasher.update(&(*number as f32).to_le_bytes());
        });
    }
    hasher.finalize().to_hex().to_string()
}

/// Sequences spread over the whole set, with about [`TOKENS`] tokens.
pub(super) fn spread(sequences: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    let every = tokens.div_ceil(TOKENS).max(1);
    sequences.iter().step_by(every).cloned().collect()
}

/// The key of a measurement: `what` says what is measured, `model` is the digest of the model.
pub(super) fn key<'a>(
    what: impl IntoIterator<Item = &'a str>,
    sequences: &[Vec<u32>],
    model: &str,
    device: Device,
) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{}\n{model}\n{}", env!("CARGO_PKG_VERSION"), machine::key(device)).as_bytes());
    for part in what {
        hasher.update(part.as_bytes());
    }
    for token in sequences.iter().flatten() {
        hasher.update(&token.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Reads what an earlier run has measured under the same key, if it has.
///
/// # Errors
/// A file of that name that is not from llmc.
pub(super) fn recall(file: &Path, key: &str) -> Result<Option<Measurements>> {
    if !file.exists() {
        return Ok(None);
    }
    let bytes = read_whole(file)?;
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|_| {
        let what = format!("{} is in the way, and is not what llmc has measured", file.display());
        Error::usage(what, "move it elsewhere, or choose another output with -o")
    })?;
    Ok(Some(kept).filter(|kept| kept.key == key && kept.is_whole()).map(|kept| kept.measured))
}

/// Measures every block, and keeps the numbers in the file. `block` gets a block's number, and the chains before it and after
/// it, of which it fills the latter.
///
/// # Errors
/// The errors of `block`; errors of reading and writing. The same call resumes an interrupted run.
pub(super) fn measure(
    runner: &Runner,
    file: &Path,
    key: String,
    mut block: impl FnMut(usize, &Chain, &Chain) -> Result<Measurements>,
) -> Result<Measurements> {
    let workspace = Workspace::open(file, true)?;
    let journal = Journal::keyed(&workspace, &key, || true, runner.options.resume)?;
    runner.each_block(
        &workspace,
        &[&journal],
        false,
        |report| Ok(report.has_files(&workspace)),
        |index, input, output| {
            let measured = block(index, &input[0], &output[0])?;
            let digest = workspace.write(&block_file(index), &pretty(&serde_json::json!(measured)))?;
            let files = BTreeMap::from([(block_file(index), digest)]);
            let digests = BTreeMap::from([("measured".to_owned(), files)]);
            Ok(BlockReport { digests, ..BlockReport::of(index) })
        },
    )?;
    let blocks =
        (0..runner.layouts.len()).map(|index| read_json::<Measurements>(&workspace.path(&block_file(index))));
    let measured = blocks.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let kept = Kept { blake3: digest(&measured), key, measured };
    workspace.write(SINGLE_FILE_NAME, &pretty(&serde_json::json!(kept)))?;
    workspace.publish()?;
    Ok(kept.measured)
}

fn block_file(index: usize) -> String {
    format!("measured-{index}.json")
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::malformed(path, "what was measured", e, "--no-resume measures it again"))
}

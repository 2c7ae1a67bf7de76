//! Numbers that are measured of every block on a part of the calibration text, before the work that depends on them.
//!
//! They are kept in a file, so that work that differs in what it makes of them, or that was stopped later, need not measure
//! again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
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

/// Digests of files, by name.
pub(crate) type Files = BTreeMap<String, String>;

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
    let blocks: Vec<Measurements> =
        runner.measure_each(&workspace, &journal, false, |index, input, output, _| {
            block(index, &input[0], &output[0])
        })?;
    let measured = blocks.into_iter().flatten().collect();
    let kept = Kept { blake3: digest(&measured), key, measured };
    workspace.write(SINGLE_FILE_NAME, &pretty(&serde_json::json!(kept)))?;
    workspace.publish()?;
    Ok(kept.measured)
}

impl Runner<'_> {
    /// Runs the blocks one after the other, and keeps what is measured of each as JSON. `measure` gets a block's number, the states
    /// before it, those behind it, which it fills, and the list of the other files that it writes. `reference` adds the states of
    /// the original model.
    pub(crate) fn measure_each<T: Serialize + DeserializeOwned>(
        &self,
        workspace: &Workspace,
        journal: &Journal,
        reference: bool,
        mut measure: impl FnMut(usize, &[Chain], &[Chain], &mut Files) -> Result<T>,
    ) -> Result<Vec<T>> {
        let intact = |report: &BlockReport| Ok(report.has_files(workspace));
        self.each_block(workspace, &[journal], reference, intact, |index, input, output| {
            let mut files = Files::new();
            let measured = measure(index, input, output, &mut files)?;
            let digest = workspace.write(&block_file(index), &pretty(&serde_json::json!(measured)))?;
            files.insert(block_file(index), digest);
            Ok(BlockReport { digests: [("measured".to_owned(), files)].into(), ..BlockReport::of(index) })
        })?;
        (0..self.layouts.len()).map(|index| read_measured(&workspace.path(&block_file(index)))).collect()
    }
}

fn block_file(index: usize) -> String {
    format!("measured-{index}.json")
}

/// Reads what was measured, from a file of a partial output.
pub(crate) fn read_measured<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&read_whole(path)?)
        .map_err(|e| Error::malformed(path, "what was measured", e, "--no-resume measures it again"))
}

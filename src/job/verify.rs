//! An output read again as an engine would, alone or beside the model that it was made from.

use serde::{Deserialize, Serialize};

use super::host::{Host, Notice, Phase};
use super::record::Origin;
use super::reshape::cut;
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::pipeline::{self, TensorCheck, Verification};

/// An output to be verified.
#[derive(Debug, Clone, Default)]
pub struct Verify {
    /// The output.
    pub output: String,
    /// The model that it was made from; `None` reads the output alone.
    pub against: Option<String>,
}

/// The record of a verification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyRecord {
    /// True if every tensor holds.
    pub holds: bool,
    /// Tensors that do not hold.
    pub failed: usize,
    /// Tensors.
    pub total: usize,
    /// True if the output was compared with the model that it was made from.
    pub compared: bool,
    /// True if that model is, byte for byte, the one that the output names; `None` without one.
    pub input_matches: Option<bool>,
    /// True if a calibrated run changed tensors and the output's record is missing, so that these were not compared.
    pub missing_record: bool,
    /// Every tensor.
    pub tensors: Vec<TensorCheck>,
    /// Version of this record, and its origin.
    #[serde(flatten)]
    pub origin: Origin<1>,
}

impl Verify {
    /// Verifies. A tensor that does not hold is told in the record: see [`VerifyRecord::verdict`].
    ///
    /// # Errors
    /// Files that cannot be read, or that llmc did not write.
    pub fn run(&self, host: &dyn Host) -> Result<VerifyRecord> {
        let written = host.open(&self.output)?;
        let (verification, input_matches) = match &self.against {
            Some(input) => {
                let (verification, matches) = compare(&written, host.open(input)?, host)?;
                (verification, Some(matches))
            }
            None => (pipeline::verify_alone(&written, is_compensated(&written), host.interrupted())?, None),
        };
        let failed = verification.failed().count();
        Ok(VerifyRecord {
            holds: failed == 0,
            failed,
            total: verification.tensors.len(),
            compared: self.against.is_some(),
            input_matches,
            missing_record: verification.missing_record,
            tensors: verification.tensors,
            origin: Origin::here(),
        })
    }
}

/// Returns true if the recipe of an output has a compensating stage. What other tools wrote has no recipe.
fn is_compensated(written: &Checkpoint) -> bool {
    let recipe = pipeline::recorded_recipe(written).and_then(|recipe| recipe.resolve());
    recipe.is_ok_and(|request| request.adapter_rank().is_some())
}

fn compare(written: &Checkpoint, input: Checkpoint, host: &dyn Host) -> Result<(Verification, bool)> {
    let recipe = pipeline::recorded_recipe(written)?;
    let digest = pipeline::input_digest(&input, host.interrupted())?;
    let input = &pipeline::untie(&recipe.resolve()?, cut(input, &recipe.surgery)?)?;
    let plan = recipe.plan(input)?;
    let matches = written.metadata.get("llmc.input.blake3").is_none_or(|recorded| *recorded == digest);
    if !matches {
        let path = input.path.display();
        host.notify(&Notice::Warning(format!(
            "{path} is not the model that the output was made from: its blake3 differs"
        )));
    }
    let bar = host.bar(Phase::Verifying, pipeline::total_input_bytes(&plan, input));
    let verification = pipeline::verify(&plan, input, written, host.interrupted(), &bar)?;
    bar.finish_and_clear();
    Ok((verification, matches))
}

impl VerifyRecord {
    /// Fails if a tensor does not hold. `output` is its name as given.
    ///
    /// # Errors
    /// [`Error::CheckFailed`], with a hint.
    pub fn verdict(&self, output: &str) -> Result<()> {
        if self.holds {
            return Ok(());
        }
        let hint = match self.input_matches {
            Some(false) => {
                "compare it with the model that it was made from: its model card and metadata (llmc.input) name it"
            }
            Some(true) => "make it again with --overwrite; if it fails again, please report it",
            None => "the file is damaged, or was made so: make it again, and verify it --against its input",
        };
        let what = format!("{output}: {} of {} do not hold", self.failed, self.total);
        Err(Error::CheckFailed { what, hint: hint.into() })
    }
}

//! `index.json` of a folder of statistics: of which model, of which text, which statistics.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::calib::{Samples, SourceSamples};
use crate::error::{Error, Result};
use crate::io::read_whole;
use crate::statistics::Needs;

/// The index's name in the folder.
pub(crate) const INDEX_FILE: &str = "index.json";
/// Of the layout of the folder.
const VERSION: u32 = 1;
/// The field of [`Needs`] for each statistic.
type Flag = fn(&mut Needs) -> &mut bool;

/// Names of statistics, and where [`Needs`] has them.
const STATISTICS: [(&str, Flag); 4] = [
    ("absmax", |needs| &mut needs.absmax),
    ("mean_abs", |needs| &mut needs.mean_abs),
    ("second_moment", |needs| &mut needs.second_moment),
    ("hessian", |needs| &mut needs.hessian),
];

/// The index of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Of the layout of the folder.
    version: u32,
    /// blake3 of the digest of the model's weight files and its config.json.
    pub model: String,
    /// Its decoder blocks.
    pub blocks: usize,
    /// Names of the statistics that were gathered.
    pub statistics: Vec<String>,
    /// Tokens of the calibration set.
    pub tokens: usize,
    /// blake3 of its sequences: see [`Samples`].
    pub data: String,
    /// The sources of the sequences.
    pub sources: Vec<SourceSamples>,
}

impl Index {
    /// Of statistics of a model that read these samples.
    pub(crate) fn new(model: &str, blocks: usize, mut needs: Needs, samples: &Samples) -> Index {
        let gathered = STATISTICS.iter().filter(|(_, field)| *field(&mut needs));
        Index {
            version: VERSION,
            model: model.to_owned(),
            blocks,
            statistics: gathered.map(|(name, _)| (*name).to_owned()).collect(),
            tokens: samples.tokens(),
            data: samples.digest.clone(),
            sources: samples.sources.clone(),
        }
    }

    /// As the file has it.
    pub(crate) fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("numbers, texts and lists are valid JSON");
        json + "\n"
    }

    /// The index of a folder.
    pub fn read(folder: &Path) -> Result<Index> {
        let file = folder.join(INDEX_FILE);
        if !file.exists() {
            return Err(Error::malformed(
                folder,
                "a folder of statistics",
                "no index.json",
                "it is written last: run the same `llmc calibrate` again, and it goes on where it stopped",
            ));
        }
        let bytes = read_whole(&file)?;
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| broken(&file, e))?;
        if index.version != VERSION {
            let found = format!("version {}", index.version);
            return Err(Error::malformed(&file, format!("version {VERSION}"), found, AGAIN));
        }
        index.needs()?;
        Ok(index)
    }

    /// The statistics that were gathered.
    pub(crate) fn needs(&self) -> Result<Needs> {
        let mut needs = Needs::default();
        for name in &self.statistics {
            let Some((_, field)) = STATISTICS.iter().find(|(known, _)| known == name) else {
                return Err(broken(Path::new(INDEX_FILE), format!("the statistic {name:?}")));
            };
            *field(&mut needs) = true;
        }
        Ok(needs)
    }

    /// That the folder is of this model and has what is needed.
    pub(super) fn check(&self, folder: &Path, model: &str, blocks: usize, mut needs: Needs) -> Result<()> {
        if self.model != model || self.blocks != blocks {
            let found = format!("those of {} ({} blocks)", self.model, self.blocks);
            let expected = format!("statistics of the model {model} ({blocks} blocks)");
            let hint = "statistics go with the weights that they were gathered with: run `llmc calibrate` on this model";
            return Err(Error::malformed(folder, expected, found, hint));
        }
        let mut gathered = self.needs()?;
        let lacking = STATISTICS.iter().filter(|(_, field)| *field(&mut needs) && !*field(&mut gathered));
        let missing: Vec<&str> = lacking.map(|(name, _)| *name).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => {
                let hint = "gather them too: `llmc calibrate MODEL --hessian -o stats` keeps all there are";
                Err(Error::malformed(folder, missing.join(", "), self.statistics.join(", "), hint))
            }
        }
    }
}

/// The hint for a wrong folder.
const AGAIN: &str = "gather the statistics again with this version's `llmc calibrate`";

fn broken(file: &Path, found: impl std::fmt::Display) -> Error {
    Error::malformed(file, "an index of statistics", found, AGAIN)
}

//! What was done to each block, kept beside the journal line by line, so that a resumed run tells the same as one that
//! was never interrupted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pipeline::output::{REPORTS_NAME, Workspace};

/// A finished block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockReport {
    /// Its number.
    pub block: usize,
    /// Its quantized linears.
    pub linears: Vec<LinearReport>,
    /// Its experts; empty where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<ExpertReport>,
    /// Scales of activations that outputs hold, by the names they have there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scales: BTreeMap<String, f32>,
    /// Digests of what outputs hold of it, by format and name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, BTreeMap<String, String>>,
    /// Tensors with NaN or infinities, which were taken as 0: (name, NaN, infinities).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nonfinite: Vec<(String, usize, usize)>,
}

/// A quantized linear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinearReport {
    /// Its weight's name.
    pub name: String,
    /// What it became.
    pub scheme: String,
    /// ‖(W − Q)·X‖ / ‖W·X‖ over the calibration set X, as the compressed model before it makes that; by the squares of X alone
    /// where the method gathers no more.
    pub relative_error: Option<f64>,
    /// The same of W − Q − B·A, where an adapter makes up for the error of the codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensated_error: Option<f64>,
}

/// What an expert was calibrated with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertReport {
    /// Its number.
    pub expert: usize,
    /// Tokens that the router sent there.
    pub tokens: u64,
    /// Whether they were too few, and all tokens were shown to it instead.
    pub shown_all: bool,
}

impl BlockReport {
    /// Nothing done yet.
    pub fn of(block: usize) -> BlockReport {
        BlockReport { block, ..BlockReport::default() }
    }
}

/// The reports of the blocks so far, in memory and in a file, which is kept until the output is published: a run that is
/// stopped behind its last block goes on there.
pub struct Reports {
    path: PathBuf,
    reports: Vec<BlockReport>,
}

impl Reports {
    /// Those of the first `done` blocks, as an interrupted run left them; none where any is missing.
    pub fn open(workspace: &Workspace, done: usize) -> Result<Reports> {
        let path = workspace.path(REPORTS_NAME);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let read: Vec<BlockReport> =
            text.lines().take(done).filter_map(|line| serde_json::from_str(line).ok()).collect();
        let mut reports = Reports { path, reports: Vec::new() };
        if read.len() == done && read.iter().enumerate().all(|(index, report)| report.block == index) {
            reports.reports = read;
        }
        reports.rewrite()?;
        Ok(reports)
    }

    /// Blocks done.
    pub fn len(&self) -> usize {
        self.reports.len()
    }

    /// Begins afresh.
    pub fn clear(&mut self) -> Result<()> {
        self.reports.clear();
        self.rewrite()
    }

    /// Adds a block. A line that is cut short is not of a block that the journal has.
    pub fn push(&mut self, report: BlockReport) -> Result<()> {
        let append = || -> std::io::Result<()> {
            let mut file = File::options().append(true).open(&self.path)?;
            file.write_all(line(&report)?.as_bytes())?;
            file.sync_data()
        };
        append().map_err(|e| Error::io(&self.path, e))?;
        self.reports.push(report);
        Ok(())
    }

    /// All of them.
    pub fn into_all(self) -> Vec<BlockReport> {
        self.reports
    }

    /// Writes what counts, and nothing else, in the place of the file.
    fn rewrite(&self) -> Result<()> {
        let new = self.path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            for report in &self.reports {
                file.write_all(line(report)?.as_bytes())?;
            }
            file.sync_data()?;
            std::fs::rename(&new, &self.path)
        };
        write().map_err(|e| Error::io(&self.path, e))
    }
}

fn line(report: &BlockReport) -> std::io::Result<String> {
    Ok(format!("{}\n", serde_json::to_string(report)?))
}

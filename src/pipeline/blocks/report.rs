//! What was done to each block, kept beside the journal line by line, so that a resumed run tells the same as one that
//! was never interrupted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pipeline::Workspace;

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
    /// blake3 of the values that its codes stand for, as little-endian f32; empty where it was left to be rounded later.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
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

/// The reports of the blocks so far, in memory and in a file.
pub struct Reports {
    path: PathBuf,
    reports: Vec<BlockReport>,
}

impl Reports {
    /// Those of the first `done` blocks, as an interrupted run left them; none where any is missing.
    pub fn open(workspace: &Workspace, done: usize) -> Result<Reports> {
        let path = workspace.path("blocks.jsonl");
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

    /// Adds a block.
    pub fn push(&mut self, report: BlockReport) -> Result<()> {
        self.reports.push(report);
        self.rewrite()
    }

    /// All of them; the file is of no further use.
    pub fn finish(self) -> Vec<BlockReport> {
        std::fs::remove_file(&self.path).unwrap_or_default(); // a file that is left behind is overwritten by the next run
        self.reports
    }

    fn rewrite(&self) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&self.path)?;
            for report in &self.reports {
                writeln!(file, "{}", serde_json::to_string(report)?)?;
            }
            file.sync_data()
        };
        write().map_err(|e| Error::io(&self.path, e))
    }
}

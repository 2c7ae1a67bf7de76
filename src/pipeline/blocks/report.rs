//! Reports of finished blocks, kept beside the journal line by line, so that a resumed run has the same reports as one that
//! was never interrupted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::side_file::file_digest;
use crate::pipeline::output::{REPORTS_NAME, Workspace};

/// The report of a finished block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockReport {
    /// Its number.
    pub block: usize,
    /// Its quantized linears.
    pub linears: Vec<LinearReport>,
    /// Its experts, if it has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<ExpertReport>,
    /// Scales of activations that outputs store, by their names there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scales: BTreeMap<String, f32>,
    /// Digests of its quantized tensors in the outputs, by format and name, and of its other results, by kind and name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, BTreeMap<String, String>>,
    /// Tensors with NaN or infinities, which became 0: (name, NaN, infinities).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nonfinite: Vec<(String, usize, usize)>,
}

/// The report of a quantized linear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinearReport {
    /// Its weight's name.
    pub name: String,
    /// Its scheme.
    pub scheme: String,
    /// ‖(W − Q)·X‖ / ‖W·X‖ over its inputs X on the calibration set, in the compressed model. If the method needs no more than
    /// the squares of X, an approximation by these.
    pub relative_error: Option<f64>,
    /// The same for W − Q − B·A, if there is a compensating stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensated_error: Option<f64>,
}

/// The coverage of an expert by the calibration set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertReport {
    /// Its number.
    pub expert: usize,
    /// Tokens that the router sent there.
    pub tokens: u64,
    /// True if these were too few, so that it was shown all tokens instead.
    pub shown_all: bool,
}

impl BlockReport {
    /// Returns true if its files are in the workspace, with the digests that it has.
    pub(crate) fn has_files(&self, workspace: &Workspace) -> bool {
        let is_there = |(name, digest): (&String, &String)| {
            file_digest(&workspace.path(name)).is_ok_and(|found| found == *digest)
        };
        self.digests.values().flatten().all(is_there)
    }

    /// An empty report.
    pub(crate) fn of(block: usize) -> BlockReport {
        BlockReport { block, ..BlockReport::default() }
    }
}

/// The reports of the finished blocks, in memory and in a file. The file is kept until the output is published, so that a
/// run that is stopped after its last block can resume.
pub(crate) struct Reports {
    path: PathBuf,
    /// The content of the file.
    text: String,
    reports: Vec<BlockReport>,
}

impl Reports {
    /// Reads the reports of the first `done` blocks of an interrupted run; empty if any is missing.
    pub(crate) fn open(workspace: &Workspace, done: usize) -> Result<Reports> {
        let path = workspace.path(REPORTS_NAME);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        let text: String = found.split_inclusive('\n').take(done).collect();
        let read: Vec<BlockReport> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let whole =
            read.len() == done && read.iter().enumerate().all(|(index, report)| report.block == index);
        let (text, reports) = if whole { (text, read) } else { Default::default() };
        let reports = Reports { path, text, reports };
        reports.rewrite()?;
        Ok(reports)
    }

    /// The number of finished blocks.
    pub(crate) fn len(&self) -> usize {
        self.reports.len()
    }

    /// The reports.
    pub(crate) fn all(&self) -> &[BlockReport] {
        &self.reports
    }

    /// The reports as the file has them.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Removes all reports.
    pub(crate) fn clear(&mut self) -> Result<()> {
        self.reports.clear();
        self.text.clear();
        self.rewrite()
    }

    /// Adds a block. If its line is cut short, the journal does not have the block yet.
    pub(crate) fn push(&mut self, report: BlockReport) -> Result<()> {
        let append = || -> std::io::Result<String> {
            let line = format!("{}\n", serde_json::to_string(&report)?);
            let mut file = File::options().append(true).open(&self.path)?;
            file.write_all(line.as_bytes())?;
            file.sync_data()?;
            Ok(line)
        };
        self.text += &append().map_err(|e| Error::io(&self.path, e))?;
        self.reports.push(report);
        Ok(())
    }

    /// All reports.
    pub(crate) fn into_all(self) -> Vec<BlockReport> {
        self.reports
    }

    /// Replaces the file by one with the reports that count.
    fn rewrite(&self) -> Result<()> {
        let new = self.path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(self.text.as_bytes())?;
            file.sync_data()?;
            std::fs::rename(&new, &self.path)
        };
        write().map_err(|e| Error::io(&self.path, e))
    }
}

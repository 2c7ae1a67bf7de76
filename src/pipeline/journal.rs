//! The journal: which steps of an interrupted run are finished, so that the same command goes on from there.
//!
//! A text file in the partial output. Its first line is the key: blake3 over the headers of the output files, which
//! contain version, recipe and the digest of the input. Then one line a finished step, and `synced` after each flush to
//! the disk. A killed process leaves all its writes to the system, so every line counts; a machine that went down may
//! not have written them, so only what stands before the last `synced` counts, which the boot id tells.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::output::{OutputFiles, Workspace};
use crate::error::{Error, Result};
use crate::export::OutputFile;

/// Bytes written between two flushes to the disk.
const SYNC_EVERY: u64 = 1 << 30;

/// An open journal; holds the lock on its partial output.
pub struct Journal {
    path: PathBuf,
    finished: HashSet<usize>,
    file: Mutex<File>,
    unsynced: AtomicU64,
}

impl Journal {
    /// Opens the workspace's journal, or begins one.
    ///
    /// # Errors
    /// Where the partial output belongs to another run (another input, recipe or version), or another process is at it.
    pub fn open(workspace: &Workspace, layout: &[OutputFile]) -> Result<Journal> {
        let path = workspace.path(JOURNAL_NAME);
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|e| Error::io(&path, e))?;
        file.try_lock().map_err(|_| {
            let what = format!("{} is being written by another process", workspace.partial().display());
            Error::Busy { what, hint: "wait for it to end, or choose another output with -o".into() }
        })?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|e| Error::io(&path, e))?;
        let key = key(layout);
        let finished = match text.lines().next() {
            None => {
                writeln!(file, "{key} {}", boot_id()).map_err(|e| Error::io(&path, e))?;
                HashSet::new()
            }
            Some(first) => resume(workspace, first, &key, &text)?,
        };
        Ok(Journal { path, finished, file: Mutex::new(file), unsynced: AtomicU64::new(0) })
    }

    /// Whether a step was finished by an earlier run.
    pub fn has(&self, step: usize) -> bool {
        self.finished.contains(&step)
    }

    /// How many steps an earlier run finished.
    pub fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Records a finished step of so many bytes; waits for the files to be on the disk from time to time.
    pub fn done(&self, step: usize, bytes: u64, files: &OutputFiles) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{step}").map_err(|e| Error::io(&self.path, e))?;
        if self.unsynced.fetch_add(bytes, Ordering::Relaxed) >= SYNC_EVERY {
            self.unsynced.store(0, Ordering::Relaxed);
            files.sync()?;
            writeln!(file, "synced").map_err(|e| Error::io(&self.path, e))?;
        }
        Ok(())
    }
}

/// The journal's name in the partial output.
pub const JOURNAL_NAME: &str = "llmc.journal";

fn key(layout: &[OutputFile]) -> String {
    let mut hasher = blake3::Hasher::new();
    layout.iter().for_each(|file| {
        hasher.update(file.name.as_bytes());
        hasher.update(&file.header);
    });
    hasher.finalize().to_hex().to_string()
}

/// The finished steps of a journal. A line that was cut short ends it.
fn resume(workspace: &Workspace, first: &str, key: &str, text: &str) -> Result<HashSet<usize>> {
    let (found, boot) = first.split_once(' ').unwrap_or((first, ""));
    if found != key {
        return Err(Error::unsupported(
            format!(
                "{} was left by a run with another input, recipe or version",
                workspace.partial().display()
            ),
            "--no-resume throws it away and starts afresh; -o writes elsewhere",
        ));
    }
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let counted = match whole.rfind("synced") {
        _ if !boot.is_empty() && boot == boot_id() => whole,
        Some(end) => &whole[..end],
        None => "",
    };
    Ok(counted.lines().skip(1).filter_map(|line| line.parse().ok()).collect())
}

/// Identifies this boot of the machine; empty where the system does not tell, and then only what was synced counts.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

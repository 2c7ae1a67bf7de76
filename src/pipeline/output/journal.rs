//! The journal: the list of finished tensors and blocks, from which an interrupted run resumes.
//!
//! A text file in the partial output. Its first line is the key, blake3 over the headers of the output files (which
//! contain version, recipe and the digest of the input's weights) and everything else that is read, and the boot id of the
//! machine. Then comes one line for each finished
//! tensor, and `synced` after each flush to the disk. A killed process leaves its writes to the system, so every whole line
//! counts. A machine that went down may have lost writes, so after another boot only the lines before the last `synced`
//! count. Opening rewrites the journal with the lines that count, so that a doubtful line never counts later.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::files::OutputFiles;
use super::workspace::{JOURNAL_NAME, Workspace};
use crate::error::{Error, Result};
use crate::pipeline::fault;
use crate::plan::OutputFile;

/// Bytes of finished tensors between two flushes that the run waits for.
const SYNC_EVERY: u64 = 1 << 30;

/// An open journal; holds the lock on its partial output.
pub(crate) struct Journal {
    path: PathBuf,
    finished: BTreeSet<usize>,
    blocks: usize,
    file: Mutex<File>,
    unsynced: AtomicU64,
}

impl Journal {
    /// Opens the workspace's journal. `inputs` identifies everything that is read besides the weights. Without `resume`, or
    /// without a journal, the workspace is emptied.
    ///
    /// # Errors
    /// Another process that writes the partial output; with `resume`, a partial output of another run (another input, recipe
    /// or version).
    pub(crate) fn open(
        workspace: &Workspace,
        layout: &[OutputFile],
        inputs: &str,
        resume: bool,
    ) -> Result<Journal> {
        Journal::keyed(workspace, &key(layout, inputs), || workspace.holds(layout), resume)
    }

    /// Opens the journal of work identified by a key. `whole` returns true if everything that the journal lists is still
    /// there.
    pub(crate) fn keyed(
        workspace: &Workspace,
        key: &str,
        whole: impl Fn() -> bool,
        resume: bool,
    ) -> Result<Journal> {
        let path = workspace.path(JOURNAL_NAME);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(|e| Error::io(&path, e))?;
        file.try_lock().map_err(|_| busy(workspace))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|e| Error::io(&path, e))?;
        let mut counted = if resume { counted(workspace, key, &text)? } else { Counted::default() };
        if !whole() {
            counted = Counted::default();
        }
        let Counted { finished, blocks } = counted;
        if finished.is_empty() && blocks == 0 {
            workspace.clear()?;
        }
        begin(&mut file, key, &finished, blocks).map_err(|e| Error::io(&path, e))?;
        Ok(Journal { path, finished, blocks, file: Mutex::new(file), unsynced: AtomicU64::new(0) })
    }

    /// Returns true if an earlier run finished a tensor.
    pub(crate) fn has(&self, tensor: usize) -> bool {
        self.finished.contains(&tensor)
    }

    /// The number of blocks, from the first, that an earlier run finished.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Records a finished block. Its outputs must be on the disk: its inputs are removed next.
    pub(crate) fn block_done(&self, index: usize) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{BLOCK}{index}\n{SYNCED}\n");
        let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_data());
        written.map_err(|e| Error::io(&self.path, e))?;
        fault::point(&format!("block {index} done"));
        Ok(())
    }

    /// The number of tensors that an earlier run finished.
    pub(crate) fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Records a finished tensor of so many bytes. From time to time it waits until the files are on the disk.
    pub(crate) fn done(&self, tensor: usize, bytes: u64, files: &OutputFiles) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut append = |line: String| file.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, e));
        append(format!("{tensor}\n"))?;
        fault::point("tensor done");
        if self.unsynced.fetch_add(bytes, Ordering::Relaxed) >= SYNC_EVERY {
            self.unsynced.store(0, Ordering::Relaxed);
            files.sync()?;
            append(format!("{SYNCED}\n"))?;
        }
        Ok(())
    }
}

const SYNCED: &str = "synced";
const BLOCK: &str = "block ";

/// The finished work that counts.
#[derive(Debug, Default)]
struct Counted {
    finished: BTreeSet<usize>,
    blocks: usize,
}

fn key(layout: &[OutputFile], inputs: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(inputs.as_bytes());
    layout.iter().for_each(|file| {
        hasher.update(file.name.as_bytes());
        hasher.update(&file.header);
    });
    hasher.finalize().to_hex().to_string()
}

/// Reads the finished tensors and blocks that count from a journal's text.
fn counted(workspace: &Workspace, key: &str, text: &str) -> Result<Counted> {
    // A line that was cut short does not count.
    let mut lines: Vec<&str> =
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).collect();
    if lines.is_empty() {
        return Ok(Counted::default());
    }
    let (found, boot) = lines[0].split_once(' ').unwrap_or((lines[0], ""));
    if found != key {
        return Err(Error::Busy {
            what: format!(
                "{} was left by a run with another input, recipe, device or version",
                workspace.partial().display()
            ),
            hint: "--no-resume throws it away and starts afresh; -o writes elsewhere".into(),
        });
    }
    if boot.is_empty() || boot != boot_id() {
        lines.truncate(lines.iter().rposition(|&line| line == SYNCED).unwrap_or(0));
    }
    let block = |line: &&str| line.strip_prefix(BLOCK)?.parse::<usize>().ok();
    Ok(Counted {
        finished: lines.iter().skip(1).filter_map(|line| line.parse().ok()).collect(),
        blocks: lines.iter().filter_map(block).max().map_or(0, |last| last + 1),
    })
}

/// Rewrites the journal. Tensors are not marked as synced, which the next flush does; blocks always are.
fn begin(file: &mut File, key: &str, finished: &BTreeSet<usize>, blocks: usize) -> std::io::Result<()> {
    let last = blocks.checked_sub(1).map(|last| format!("{BLOCK}{last}\n{SYNCED}\n"));
    let tensors: String =
        last.into_iter().chain(finished.iter().map(|tensor| format!("{tensor}\n"))).collect();
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{key} {}\n{tensors}", boot_id()).as_bytes())
}

/// The id of this boot of the machine; empty if the system has none, and then only synced lines count.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn busy(workspace: &Workspace) -> Error {
    Error::Busy {
        what: format!("{} is being written by another process", workspace.partial().display()),
        hint: "wait for it to end, or choose another output with -o".into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[usize]) {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(&folder.path().join("out"), false).unwrap();
        let text = text.replace("KEY", &key(&[], "")).replace("BOOT", &boot_id());
        std::fs::write(workspace.path(JOURNAL_NAME), &text).unwrap();
        let journal = Journal::open(&workspace, &[], "", true).unwrap();
        assert_eq!(journal.finished.iter().copied().collect::<Vec<_>>(), expected, "{text:?}");
        let rewritten = std::fs::read_to_string(workspace.path(JOURNAL_NAME)).unwrap();
        assert!(rewritten.ends_with('\n') && !rewritten.contains(SYNCED), "{rewritten:?}");
    }

    #[test]
    fn only_whole_lines_count_and_after_another_boot_only_synced_ones() {
        check("", &[]);
        check("KEY BOOT\n", &[]);
        check("KEY BOOT\n3\n1\n", &[1, 3]);
        check("KEY BOOT\n3\n1", &[3]);
        check("KEY BOOT\n3\nsynced\n4\n", &[3, 4]);
        check("KEY elsewhere\n3\n1\n", &[]);
        check("KEY elsewhere\n3\nsynced\n4\nsynced\n5\n", &[3, 4]);
        check("KEY", &[]);
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(&folder.path().join("out"), false).unwrap();
        let _first = Journal::open(&workspace, &[], "", true).unwrap();
        for resume in [true, false] {
            let error = Journal::open(&workspace, &[], "", resume).err().unwrap();
            assert!(error.to_string().contains("another process"), "{error}");
        }
    }
}

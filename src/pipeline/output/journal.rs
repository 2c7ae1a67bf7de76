//! The journal: the list of finished tensors and blocks, from which an interrupted run resumes.
//!
//! A text file in the partial output. Its first line is the key, blake3 over the headers of the output files (which
//! contain version, recipe and the digest of the input's weights) and everything else that is read, and the boot id of the
//! machine. Then comes one line for each finished tensor, with the checksum of its bytes, and for each finished block, with the
//! digest of what the next block starts from; `synced` follows each flush to the disk. A killed process leaves its writes to
//! the system, so every whole line counts. A machine that went down may have lost writes, so after another boot only the lines
//! before the last `synced` count. Opening rewrites the journal with the lines that count, so that a doubtful line never
//! counts later. Who resumes compares checksums and digests with the files: a line counts only as long as they agree.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

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
    /// The checksum of each tensor that an earlier run finished.
    finished: BTreeMap<usize, u64>,
    /// The last block that an earlier run finished, and its seal.
    block: Option<(usize, String)>,
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
        if counted.finished.is_empty() && counted.block.is_none() {
            workspace.clear()?;
        }
        begin(&mut file, key, &counted).map_err(|e| Error::io(&path, e))?;
        let Counted { finished, block } = counted;
        Ok(Journal { path, finished, block, file: Mutex::new(file), unsynced: AtomicU64::new(0) })
    }

    /// Keeps the finished tensors whose bytes still have the recorded checksum, and flushes these: all that counts is then on
    /// the disk. Returns the number of the others.
    pub(crate) fn keep_intact(
        &mut self,
        files: &OutputFiles,
        checksum: impl Fn(usize) -> Result<u64> + Sync,
    ) -> Result<usize> {
        if self.finished.is_empty() {
            return Ok(0);
        }
        let holds = |(tensor, recorded): (&usize, &u64)| Ok((*tensor, checksum(*tensor)? == *recorded));
        let held = self.finished.par_iter().map(holds).collect::<Result<BTreeMap<_, _>>>()?;
        self.finished.retain(|tensor, _| held[tensor]);
        files.sync()?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{SYNCED}").map_err(|e| Error::io(&self.path, e))?;
        Ok(held.len() - self.finished.len())
    }

    /// Returns true if an earlier run finished a tensor.
    pub(crate) fn has(&self, tensor: usize) -> bool {
        self.finished.contains_key(&tensor)
    }

    /// The number of blocks, from the first, that an earlier run finished, and the seal of the last.
    pub(crate) fn blocks(&self) -> (usize, &str) {
        self.block.as_ref().map_or((0, ""), |(last, seal)| (last + 1, seal.as_str()))
    }

    /// Records a finished block. Its outputs must be on the disk: its inputs are removed next. `seal` is the digest of what
    /// the next block starts from.
    pub(crate) fn block_done(&self, index: usize, seal: &str) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{BLOCK}{index} {seal}\n{SYNCED}\n");
        let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_data());
        written.map_err(|e| Error::io(&self.path, e))?;
        fault::point(&format!("block {index} done"));
        Ok(())
    }

    /// The number of tensors that an earlier run finished.
    pub(crate) fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Records a finished tensor of so many bytes, with their checksum. From time to time it waits until the files are on the
    /// disk.
    pub(crate) fn done(&self, tensor: usize, bytes: u64, files: &OutputFiles) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut append = |line: String| file.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, e));
        append(tensor_line(tensor, files.written_checksum(tensor)))?;
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
    finished: BTreeMap<usize, u64>,
    block: Option<(usize, String)>,
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
    let lines = lines.get(1..).unwrap_or_default();
    Ok(Counted {
        finished: lines.iter().filter_map(|line| finished_tensor(line)).collect(),
        block: lines.iter().filter_map(|line| numbered(line.strip_prefix(BLOCK)?)).next_back(),
    })
}

/// The line of a finished tensor: its number, and its checksum in hexadecimal.
fn tensor_line(tensor: usize, checksum: u64) -> String {
    format!("{tensor} {checksum:016x}\n")
}

fn finished_tensor(line: &str) -> Option<(usize, u64)> {
    let (tensor, checksum) = numbered(line)?;
    Some((tensor, u64::from_str_radix(&checksum, 16).ok()?))
}

/// Parses a number and a digest.
fn numbered(text: &str) -> Option<(usize, String)> {
    let (number, digest) = text.split_once(' ')?;
    Some((number.parse().ok()?, digest.to_owned()))
}

/// Rewrites the journal. Blocks are marked as synced, and the tensors before them with them: who resumes compares their checksums.
fn begin(file: &mut File, key: &str, Counted { finished, block }: &Counted) -> std::io::Result<()> {
    let last = block.iter().map(|(last, seal)| format!("{BLOCK}{last} {seal}\n{SYNCED}\n"));
    let tensors = finished.iter().map(|(tensor, checksum)| tensor_line(*tensor, *checksum));
    let lines: String = tensors.chain(last).collect();
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{key} {}\n{lines}", boot_id()).as_bytes())
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
        assert_eq!(journal.finished.keys().copied().collect::<Vec<_>>(), expected, "{text:?}");
        assert!(journal.finished.values().all(|checksum| *checksum == 0xab), "{text:?}");
        let rewritten = std::fs::read_to_string(workspace.path(JOURNAL_NAME)).unwrap();
        assert!(rewritten.ends_with('\n') && !rewritten.contains(SYNCED), "{rewritten:?}");
    }

    #[test]
    fn only_whole_lines_count_and_after_another_boot_only_synced_ones() {
        check("", &[]);
        check("KEY BOOT\n", &[]);
        check("KEY BOOT\n3 ab\n1 ab\n", &[1, 3]);
        check("KEY BOOT\n3 ab\n1 ab", &[3]);
        check("KEY BOOT\n3 ab\nsynced\n4 ab\n", &[3, 4]);
        check("KEY elsewhere\n3 ab\n1 ab\n", &[]);
        check("KEY elsewhere\n3 ab\nsynced\n4 ab\nsynced\n5 ab\n", &[3, 4]);
        check("KEY", &[]);
        check("KEY BOOT\n3\n4 ab\n-1 ab\n", &[4]);
        check("KEY BOOT\n3 cd\n3 ab\n", &[3]);
    }

    #[test]
    fn of_blocks_the_last_line_counts() {
        let text = "KEY BOOT\nblock 7 old\nsynced\n2 ab\nblock 0 new\nsynced\nblock 1\n";
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(&folder.path().join("out"), false).unwrap();
        let text = text.replace("KEY", "k").replace("BOOT", &boot_id());
        std::fs::write(workspace.path(JOURNAL_NAME), text).unwrap();
        let journal = Journal::keyed(&workspace, "k", || true, true).unwrap();
        assert_eq!(journal.blocks(), (1, "new"));
        assert!(journal.has(2));
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

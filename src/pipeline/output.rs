//! The output while it is being made: a folder beside the target, published by renaming.
//!
//! `OUT.partial/` holds the files and the journal; `OUT` appears only when everything in it is on the disk. A target that
//! is one file is made in the same way and then moved out of the folder.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rayon::prelude::*;

use super::blocks::REPORTS_NAME;
use super::fault;
use super::journal::JOURNAL_NAME;
use super::recorded::{RECORD, record_beside};
use crate::error::{Error, Result};
use crate::export::{Format, OutputFile, SINGLE_FILE_NAME};
use crate::io::Checkpoint;
use crate::plan::Plan;

/// The partial output and where it will go.
pub struct Workspace {
    target: PathBuf,
    partial: PathBuf,
    single: bool,
}

impl Workspace {
    /// Makes or finds the partial output.
    pub fn open(target: &Path, single: bool) -> Result<Workspace> {
        let target: PathBuf = target.components().collect(); // without a trailing slash
        let workspace = Workspace { partial: sibling(&target, ".partial"), target, single };
        if workspace.partial.exists() {
            workspace.refuse_foreign()?;
        }
        fs::create_dir_all(&workspace.partial).map_err(|e| Error::io(&workspace.partial, e))?;
        Ok(workspace)
    }

    /// A folder that merely has the partial output's name is not llmc's to write into, or to remove.
    fn refuse_foreign(&self) -> Result<()> {
        if self.path(JOURNAL_NAME).exists() || self.entries()?.is_empty() {
            return Ok(());
        }
        Err(Error::Busy {
            what: format!("{} is in the way, and was not left by an interrupted run", self.partial.display()),
            hint: "move it elsewhere, or choose another output with -o".into(),
        })
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.partial)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>());
        entries.map_err(|e| Error::io(&self.partial, e))
    }

    /// Whether the weight files of a layout are all there, at their full length.
    pub fn holds(&self, layout: &[OutputFile]) -> bool {
        let length = |file: &OutputFile| fs::metadata(self.path(&file.name)).map(|found| found.len()).ok();
        layout.iter().all(|file| length(file) == Some(file.len))
    }

    /// Removes everything but the journal.
    pub fn clear(&self) -> Result<()> {
        let journal = self.path(JOURNAL_NAME);
        self.entries()?.iter().filter(|path| **path != journal).try_for_each(|path| remove(path))
    }

    /// The folder.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.partial.join(name)
    }

    /// Writes what stands beside the weights, and flushes it to the disk: what the format and the command have to say, and
    /// the input's own files (tokenizer, generation settings) of which they have no version.
    pub fn write_beside(
        &self,
        checkpoint: &Checkpoint,
        format: &dyn Format,
        own: &[(String, Vec<u8>)],
    ) -> Result<()> {
        own.par_iter().try_for_each(|(name, content)| self.write(name, content))?;
        if format.single_file() {
            return Ok(());
        }
        let side_files = checkpoint.side_files()?;
        let theirs = side_files.par_iter().filter(|side| own.iter().all(|(name, _)| *name != side.name));
        theirs.try_for_each(|side| match &side.bytes {
            Some(bytes) => self.write(&side.name, bytes),
            None => {
                let content = fs::read(&side.path).map_err(|e| Error::io(&side.path, e))?;
                self.write(&side.name, &content)
            }
        })
    }

    /// Writes a file, and flushes it to the disk.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        self.write_with(name, |file| file.write_all(content))
    }

    /// The same, of a file whose content comes in pieces.
    pub fn write_with(&self, name: &str, fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
        let path = self.path(name);
        self.make_parent(&path)?;
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            fill(&mut file)?;
            file.sync_all()
        };
        write().map_err(|e| Error::io(&path, e))
    }

    fn make_parent(&self, path: &Path) -> Result<()> {
        match path.parent() {
            Some(parent) if parent != self.partial => {
                fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))
            }
            _ => Ok(()),
        }
    }

    /// Removes the partial output: nothing in it is worth going on from.
    pub fn discard(&self) -> Result<()> {
        remove(&self.partial)
    }

    /// Moves the finished output to its place. An output that is replaced is moved aside first, and removed last.
    pub fn publish(&self) -> Result<()> {
        let replaced = self.move_aside()?;
        fault::point("publish");
        if self.single {
            self.publish_single()?;
        } else {
            sync_folder(&self.partial)?;
            rename(&self.partial, &self.target)?;
            let own = [JOURNAL_NAME, REPORTS_NAME].map(|name| self.target.join(name));
            own.iter().filter(|path| path.exists()).try_for_each(|path| remove(path))?;
        }
        sync_folder(self.target.parent().unwrap_or(Path::new(".")))?;
        fault::point("published");
        replaced.iter().try_for_each(|path| remove(path))
    }

    /// Moves what is in the output's place to other names: the output, and the record beside a single file.
    fn move_aside(&self) -> Result<Vec<PathBuf>> {
        let aside = sibling(&self.target, &format!(".replaced-{}", std::process::id()));
        let mut moved = Vec::new();
        if self.target.exists() {
            moved.push((self.target.clone(), aside.clone()));
        }
        if self.single && record_beside(&self.target).is_file() {
            moved.push((record_beside(&self.target), record_beside(&aside)));
        }
        moved.iter().try_for_each(|(from, to)| rename(from, to))?;
        Ok(moved.into_iter().map(|(_, to)| to).collect())
    }

    /// Moves a single file to its place, its record first: a file in its place is then never without its record.
    fn publish_single(&self) -> Result<()> {
        let record = self.path(RECORD);
        if record.exists() {
            rename(&record, &record_beside(&self.target))?;
        }
        fault::point("record published");
        rename(&self.path(SINGLE_FILE_NAME), &self.target)?;
        remove(&self.partial)
    }
}

/// Refuses, before any work, a target that cannot be written or must not be replaced.
///
/// # Errors
/// The input itself, or a folder that holds it; what exists, without `overwrite`; with it, what does not look like a
/// model; a name that does not go with the format.
pub fn check_target(checkpoint: &Checkpoint, target: &Path, single: bool, overwrite: bool) -> Result<()> {
    let refuse = |what: &str, hint: &str| Err(Error::usage(format!("{} {what}", target.display()), hint));
    let named_gguf = target.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if target.file_name().is_none() {
        return refuse("names no file or folder", "give the output a name of its own: -o out");
    }
    if named_gguf && !single {
        return refuse("is to be a folder, and is named like a GGUF file", "--format gguf writes one file");
    }
    let Ok(found) = target.symlink_metadata() else { return Ok(()) };
    if holds_input(checkpoint, target) {
        return refuse(
            "is the input, or holds it",
            "choose another output: llmc never writes over what it reads",
        );
    }
    if !overwrite {
        return refuse(
            "exists already",
            "--overwrite replaces it once the new output is complete; -o writes elsewhere",
        );
    }
    let replaceable = if single { found.is_file() } else { found.is_dir() && looks_like_a_model(target) };
    if replaceable {
        Ok(())
    } else {
        refuse("is not what llmc writes there", "remove it yourself, or choose another output with -o")
    }
}

fn holds_input(checkpoint: &Checkpoint, target: &Path) -> bool {
    let Ok(target) = target.canonicalize() else { return false };
    let inputs = checkpoint.files.iter().map(|file| file.path()).chain([checkpoint.path.as_path()]);
    inputs.filter_map(|path| path.canonicalize().ok()).any(|path| path.starts_with(&target))
}

/// A folder with weights in it, or an empty one.
fn looks_like_a_model(folder: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(folder) else { return false };
    let weights = |path: PathBuf| path.extension().is_some_and(|extension| extension == "safetensors");
    let empty = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    empty || entries.any(|entry| entry.is_ok_and(|entry| weights(entry.path())))
}

/// The path beside `target` whose name is longer by a suffix.
pub fn sibling(target: &Path, suffix: &str) -> PathBuf {
    let mut name = target.file_name().map_or_else(OsString::new, OsString::from);
    name.push(suffix);
    target.with_file_name(name)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io(to, e))
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|e| Error::io(path, e))
}

fn sync_folder(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|file| file.sync_all()).map_err(|e| Error::io(folder, e))
}

/// Bytes written before the system is told to begin moving them to the disk, beside the work.
const FLUSH_EVERY: u64 = 8 << 20;

/// The most files of one output.
const MOST_FILES: usize = 900;

/// The weight files, open for writing anywhere.
pub struct OutputFiles {
    files: Arc<Vec<(PathBuf, File)>>,
    places: Vec<Vec<(usize, u64)>>,
    unflushed: AtomicU64,
    flusher: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl OutputFiles {
    /// Creates the files at their full length and writes their headers.
    pub fn create(workspace: &Workspace, layout: &[OutputFile], plan: &Plan) -> Result<OutputFiles> {
        let mut places: Vec<Vec<(usize, u64)>> =
            plan.steps.iter().map(|step| vec![(usize::MAX, 0); step.parts.len()]).collect();
        if layout.len() > MOST_FILES {
            return Err(Error::usage(
                format!("the output would be {} files", layout.len()),
                format!("all are open at once, {MOST_FILES} at most: give a larger --max-shard-size"),
            ));
        }
        let mut files = Vec::new();
        for (index, planned) in layout.iter().enumerate() {
            let path = workspace.path(&planned.name);
            workspace.make_parent(&path)?;
            let file = create(&path, planned).map_err(|e| Error::io(&path, e))?;
            files.push((path, file));
            for place in &planned.parts {
                places[place.step][place.part] = (index, place.offset);
            }
        }
        let (unflushed, flusher) = (AtomicU64::new(0), Mutex::new(None));
        Ok(OutputFiles { files: Arc::new(files), places, unflushed, flusher })
    }

    /// Writes bytes of a part. From time to time it begins a flush to the disk beside the work, so that little is left to
    /// wait for at the end.
    pub fn write(&self, step: usize, part: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (file, start) = self.places[step][part];
        self.write_in(file, start + offset, bytes)
    }

    /// The same at an offset of a file, which is known by its place in the layout.
    pub fn write_in(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (path, file) = &self.files[file];
        write_at(file, bytes, offset).map_err(|e| Error::io(path, e))?;
        fault::point("write");
        let written = self.unflushed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if written >= FLUSH_EVERY { self.flush_beside() } else { Ok(()) }
    }

    fn flush_beside(&self) -> Result<()> {
        let Ok(mut flusher) = self.flusher.try_lock() else { return Ok(()) };
        match flusher.take() {
            Some(running) if !running.is_finished() => *flusher = Some(running),
            finished => {
                finished.map_or(Ok(()), join)?;
                self.unflushed.store(0, Ordering::Relaxed);
                let files = Arc::clone(&self.files);
                *flusher = Some(std::thread::spawn(move || sync_all(&files)));
            }
        }
        Ok(())
    }

    /// Flushes everything that was written so far, and waits for it.
    pub fn sync(&self) -> Result<()> {
        let running = self.flusher.lock().unwrap_or_else(PoisonError::into_inner).take();
        running.map_or(Ok(()), join)?;
        sync_all(&self.files)
    }
}

fn join(flush: JoinHandle<Result<()>>) -> Result<()> {
    flush.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn sync_all(files: &[(PathBuf, File)]) -> Result<()> {
    files.iter().try_for_each(|(path, file)| file.sync_data().map_err(|e| Error::io(path, e)))
}

fn create(path: &Path, planned: &OutputFile) -> std::io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    reserve(&file, planned.len)?;
    write_at(&file, &planned.header, 0)?;
    Ok(file)
}

/// Gives a file its length, and where the system can, the space on the disk: a disk that is too small is then found out
/// before any work.
pub fn reserve(file: &File, len: u64) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {}
        result => return result.map_err(Into::into),
    }
    file.set_len(len)
}

#[cfg(unix)]
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
pub fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

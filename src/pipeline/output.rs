//! The output while it is being made: a folder beside the target, published by renaming.
//!
//! `OUT.partial/` holds the files and the journal; `OUT` appears only when everything in it is on the disk. A target that
//! is one file is made in the same way and then moved out of the folder.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rayon::prelude::*;

use super::Options;
use super::journal::JOURNAL_NAME;
use crate::error::{Error, Result};
use crate::export::{Format, OutputFile};
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
    ///
    /// # Errors
    /// Where the target exists and may not be overwritten.
    pub fn open(target: &Path, single: bool, options: &Options) -> Result<Workspace> {
        if target.exists() && !options.overwrite {
            return Err(Error::usage(
                format!("{} exists already", target.display()),
                "--overwrite replaces it once the new output is complete; -o writes elsewhere",
            ));
        }
        let partial = sibling(target, ".partial");
        let workspace = Workspace { target: target.to_owned(), partial, single };
        if workspace.partial.exists() {
            workspace.refuse_foreign()?;
            if !options.resume {
                remove(&workspace.partial)?;
            }
        }
        fs::create_dir_all(&workspace.partial).map_err(|e| Error::io(&workspace.partial, e))?;
        Ok(workspace)
    }

    /// A folder that merely has the partial output's name is not llmc's to write into, or to remove.
    fn refuse_foreign(&self) -> Result<()> {
        let mut entries = fs::read_dir(&self.partial).map_err(|e| Error::io(&self.partial, e))?;
        if self.path(JOURNAL_NAME).exists() || entries.next().is_none() {
            return Ok(());
        }
        Err(Error::Busy {
            what: format!("{} is in the way, and was not left by an interrupted run", self.partial.display()),
            hint: "move it elsewhere, or choose another output with -o".into(),
        })
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

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path(name);
        self.make_parent(&path)?;
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            std::io::Write::write_all(&mut file, content)?;
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
        let aside = sibling(&self.target, ".replaced");
        let replaces = self.target.exists();
        if replaces {
            rename(&self.target, &aside)?;
        }
        if self.single {
            rename(&self.path(SINGLE_FILE_NAME), &self.target)?;
            remove(&self.partial)?;
        } else {
            sync_folder(&self.partial)?;
            rename(&self.partial, &self.target)?;
            remove(&self.target.join(JOURNAL_NAME))?;
        }
        sync_folder(self.target.parent().unwrap_or(Path::new(".")))?;
        if replaces {
            remove(&aside)?;
        }
        Ok(())
    }
}

/// Refuses a target that is the input, holds it, or lies in it.
pub fn refuse_input_as_output(checkpoint: &Checkpoint, target: &Path) -> Result<()> {
    let Ok(target) = target.canonicalize() else { return Ok(()) };
    let input = checkpoint.path.canonicalize().map_err(|e| Error::io(&checkpoint.path, e))?;
    let files = checkpoint.files.iter().filter_map(|file| file.path().canonicalize().ok());
    if std::iter::once(input).chain(files).any(|path| path.starts_with(&target)) {
        return Err(Error::usage(
            format!("{} is the input, or holds it", target.display()),
            "choose another output with -o: llmc never writes over what it reads",
        ));
    }
    Ok(())
}

/// The name, in the partial output, of a target that is one file.
pub const SINGLE_FILE_NAME: &str = "model.gguf";

fn sibling(target: &Path, suffix: &str) -> PathBuf {
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
        let mut files = Vec::new();
        for (index, planned) in layout.iter().enumerate() {
            let path = workspace.path(&planned.name);
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
        let (path, file) = &self.files[file];
        write_at(file, bytes, start + offset).map_err(|e| Error::io(path, e))?;
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
fn reserve(file: &File, len: u64) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {}
        result => return result.map_err(Into::into),
    }
    file.set_len(len)
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

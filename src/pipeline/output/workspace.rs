//! The partial output: a folder beside the target, published by renaming.
//!
//! `OUT.partial/` holds the files and the journal; `OUT` appears only when everything in it is on the disk. A target that
//! is one file is written in the same way and then moved out of the folder.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::io::{Checkpoint, has_extension};
use crate::pipeline::fault;
use crate::plan::{OutputFile, SINGLE_FILE_NAME};

/// Name of the journal in the partial output.
pub(crate) const JOURNAL_NAME: &str = "llmc.journal";
/// Name of the reports of finished blocks, beside the journal: one line for each block.
pub(crate) const REPORTS_NAME: &str = "blocks.jsonl";

/// The record of a calibrated run, in the output's folder. For an output of one file it is the end of the record's name.
pub(crate) const RECORD: &str = "calibration.json";

/// Returns the path of an output's record: in its folder, or beside its file.
pub(crate) fn record_path(output: &Path) -> PathBuf {
    if output.is_dir() { output.join(RECORD) } else { record_beside(output) }
}

fn record_beside(file: &Path) -> PathBuf {
    sibling(file, &format!(".{RECORD}"))
}

/// The partial output and its target.
pub(crate) struct Workspace {
    target: PathBuf,
    partial: PathBuf,
    single: bool,
}

impl Workspace {
    /// Creates or finds the partial output.
    pub(crate) fn open(target: &Path, single: bool) -> Result<Workspace> {
        let target: PathBuf = target.components().collect(); // without a trailing slash
        let workspace = Workspace { partial: sibling(&target, ".partial"), target, single };
        if workspace.partial.exists() {
            workspace.refuse_foreign()?;
        }
        fs::create_dir_all(&workspace.partial).map_err(|e| Error::io(&workspace.partial, e))?;
        Ok(workspace)
    }

    /// Refuses a folder that has the partial output's name but is not from llmc.
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

    /// Returns true if the weight files of a layout are all there, at their full length.
    pub(crate) fn holds(&self, layout: &[OutputFile]) -> bool {
        let length = |file: &OutputFile| fs::metadata(self.path(&file.name)).map(|found| found.len()).ok();
        layout.iter().all(|file| length(file) == Some(file.len))
    }

    /// Removes everything but the journal.
    pub(crate) fn clear(&self) -> Result<()> {
        let journal = self.path(JOURNAL_NAME);
        self.entries()?.iter().filter(|path| **path != journal).try_for_each(|path| remove(path))
    }

    /// The folder of the partial output.
    pub(crate) fn partial(&self) -> &Path {
        &self.partial
    }

    /// The path of a file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.partial.join(name)
    }

    /// Writes the files beside the weights, and flushes them to the disk: `own`, and the input's files (tokenizer, generation
    /// settings) that `own` does not replace.
    pub(crate) fn write_beside(&self, checkpoint: &Checkpoint, own: &[(String, Vec<u8>)]) -> Result<()> {
        own.par_iter().try_for_each(|(name, content)| self.write(name, content))?;
        if self.single {
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
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        self.write_with(name, |file| file.write_all(content))
    }

    /// Writes a file whose content comes in pieces, and flushes it to the disk.
    pub(crate) fn write_with(
        &self,
        name: &str,
        fill: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<()> {
        let path = self.path(name);
        self.make_parent(&path)?;
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            fill(&mut file)?;
            file.sync_all()
        };
        write().map_err(|e| Error::io(&path, e))
    }

    /// Creates the folder of a file of the partial output.
    pub(crate) fn make_parent(&self, path: &Path) -> Result<()> {
        match path.parent() {
            Some(parent) if parent != self.partial => {
                fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))
            }
            _ => Ok(()),
        }
    }

    /// Removes the partial output.
    pub(crate) fn discard(&self) -> Result<()> {
        remove(&self.partial)
    }

    /// Moves the finished output to its place. An output that is replaced is moved aside first, and removed last.
    pub(crate) fn publish(&self) -> Result<()> {
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

    /// Moves an earlier output aside, with the record beside a single file. Returns the new paths.
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

    /// Moves a single file to its place. Its record goes first, so that the file never stands there without it.
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
/// A target that is or contains the input; that exists, without `overwrite`; that does not look like a model, with it; whose
/// name does not fit the format.
pub(crate) fn check_target(
    checkpoint: &Checkpoint,
    target: &Path,
    single: bool,
    overwrite: bool,
) -> Result<()> {
    let refuse = |what: &str, hint: &str| Err(Error::usage(format!("{} {what}", target.display()), hint));
    let named_gguf = has_extension(target, "gguf");
    if target.file_name().is_none() {
        return refuse("names no file or folder", "give the output a name of its own: -o out");
    }
    if named_gguf && !single {
        return refuse("is to be a folder, and is named like a GGUF file", "--format gguf writes one file");
    }
    let record = record_beside(target);
    let interrupted = sibling(target, ".partial").exists(); // perhaps between the record and its file
    if single && !overwrite && !interrupted && record.exists() && !target.exists() {
        let what = format!("{} is there, the record of a model that is not", record.display());
        return Err(Error::usage(what, "move it to its model, or remove it; --overwrite replaces it"));
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

/// Returns true for a folder with weights in it, and for an empty one.
fn looks_like_a_model(folder: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(folder) else { return false };
    let weights = |path: PathBuf| path.extension().is_some_and(|extension| extension == "safetensors");
    let empty = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    empty || entries.any(|entry| entry.is_ok_and(|entry| weights(entry.path())))
}

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

//! The partial output: a folder beside the target, published by renaming.
//!
//! `OUT.partial/` holds the files and the journal; `OUT` appears only when everything in it is on the disk. A target that
//! is one file is written in the same way and then moved out of the folder.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::calib::store;
use crate::error::{Error, Result};
use crate::io::index::INDEX_FILE;
use crate::io::map::MappedFile;
use crate::io::side_files::{self, travels};
use crate::io::{Checkpoint, gguf, has_extension};
use crate::pipeline::fault;
use crate::plan::{OutputFile, SINGLE_FILE_NAME};

/// Name of the journal in the partial output.
pub(crate) const JOURNAL_NAME: &str = "llmc.journal";
/// Name of the reports of finished blocks, beside the journal: one line for each block.
pub(crate) const REPORTS_NAME: &str = "blocks.jsonl";
/// Name of the text that the model has written itself, beside the journal.
const OWN_TEXT_NAME: &str = "own-text.json";
/// The beginning of that name, and of the names of its temporary files, which a killed run leaves.
const OWN_TEXT_PREFIX: &str = "own-text";

/// Returns true for the text that the model has written itself, and for its temporary files.
fn is_own_text(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(OWN_TEXT_PREFIX))
}

/// The record of a calibrated run, in the output's folder. For an output of one file it is the end of the record's name.
pub(crate) const RECORD: &str = "calibration.json";

/// Returns the path of an output's record: in its folder, or beside its file.
pub(crate) fn record_path(output: &Path) -> PathBuf {
    if output.is_dir() { output.join(RECORD) } else { record_beside(output) }
}

fn record_beside(file: &Path) -> PathBuf {
    sibling(file, &format!(".{RECORD}"))
}

/// The mark of llmc's outputs: a key of their metadata, which opens the header.
const MARK: &[u8] = b"\"llmc.version\"";
/// Bytes from the beginning of a file within which the mark stands.
const MARK_WITHIN: u64 = 1 << 20;

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
        if workspace.partial.symlink_metadata().is_ok() {
            workspace.refuse_foreign()?;
        }
        fs::create_dir_all(&workspace.partial).map_err(|e| Error::io(&workspace.partial, e))?;
        Ok(workspace)
    }

    /// Refuses a folder that has the partial output's name but is not from llmc: one without a journal, or with links in it,
    /// behind which other files would be written.
    fn refuse_foreign(&self) -> Result<()> {
        let linked = has_link(&self.partial).map_err(|e| Error::io(&self.partial, e))?;
        let is_begun = || Ok::<_, Error>(self.entries()?.iter().all(|path| is_own_text(path)));
        if !linked && (self.path(JOURNAL_NAME).exists() || is_begun()?) {
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

    /// Removes everything but the journal and the text that the model has written, which has a key of its own.
    pub(crate) fn clear(&self) -> Result<()> {
        let kept = [JOURNAL_NAME, OWN_TEXT_NAME].map(|name| self.path(name));
        self.entries()?.iter().filter(|path| !kept.contains(path)).try_for_each(|path| remove(path))
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
        own.par_iter().try_for_each(|(name, content)| self.write(name, content).map(drop))?;
        if self.single {
            return Ok(());
        }
        let side_files = checkpoint.side_files()?;
        let theirs = side_files.par_iter().filter(|side| own.iter().all(|(name, _)| *name != side.name));
        theirs.filter(|side| checkpoint.may_copy(side)).try_for_each(|side| match &side.bytes {
            Some(bytes) => self.write(&side.name, bytes).map(drop),
            None => {
                let content = fs::read(&side.path).map_err(|e| Error::io(&side.path, e))?;
                self.write(&side.name, &content).map(drop)
            }
        })
    }

    /// Writes a file, and flushes it to the disk. Returns blake3 of its content.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<String> {
        self.write_with(name, |sink| sink(content))
    }

    /// Writes a file whose content comes in pieces, and flushes it to the disk. Returns blake3 of its content.
    pub(crate) fn write_with(
        &self,
        name: &str,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()>,
    ) -> Result<String> {
        let path = self.path(name);
        self.make_parent(&path)?;
        let mut hasher = blake3::Hasher::new();
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            fill(&mut |bytes: &[u8]| {
                hasher.update(bytes);
                file.write_all(bytes)
            })?;
            file.sync_all()
        };
        write().map_err(|e| Error::io(&path, e))?;
        Ok(hasher.finalize().to_hex().to_string())
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
            let own = [JOURNAL_NAME, REPORTS_NAME, OWN_TEXT_NAME].map(|name| self.target.join(name));
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

/// Returns the path of the text that a model writes itself, in the partial output of a target, which is made. Removes the
/// temporary files of a killed run and, without `resume`, its text.
///
/// # Errors
/// A partial output that is not llmc's, or cannot be made.
pub(crate) fn own_text(target: &Path, resume: bool) -> Result<PathBuf> {
    let workspace = Workspace::open(target, false)?;
    let path = workspace.path(OWN_TEXT_NAME);
    let is_old = |found: &&PathBuf| is_own_text(found) && (!resume || **found != path);
    workspace.entries()?.iter().filter(is_old).try_for_each(|found| remove(found))?;
    Ok(path)
}

/// The bytes on the disk of an interrupted run's partial output; 0 if there is none.
pub(crate) fn partial_bytes(target: &Path) -> u64 {
    let target: PathBuf = target.components().collect();
    folder_bytes(&sibling(&target, ".partial"))
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
        Ok(found) => on_disk(&found),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// The bytes that a file takes: less than its length if it has holes.
fn on_disk(found: &fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::blocks(found) * 512;
    #[cfg(not(unix))]
    return found.len();
}

/// Refuses, before any work, a target that cannot be written or must not be replaced.
///
/// # Errors
/// A target that is, contains or lies in the input; that exists, without `overwrite`; that llmc did not write, with it; whose
/// name does not fit the format.
pub(crate) fn check_target(
    checkpoint: &Checkpoint,
    target: &Path,
    single: bool,
    overwrite: bool,
) -> Result<()> {
    check_name(target, single)?;
    check_record(target, single, overwrite)?;
    if is_inside_input(checkpoint, target) {
        let hint = "choose a place beside it, such as -o ../out: llmc leaves what it reads as it is";
        return refuse(target, "lies inside the input", hint);
    }
    let Ok(found) = target.symlink_metadata() else { return Ok(()) };
    if holds_input(checkpoint, target) {
        let hint = "choose another output: llmc never writes over what it reads";
        return refuse(target, "is the input, or holds it", hint);
    }
    if !overwrite {
        let hint = "--overwrite replaces it once the new output is complete; -o writes elsewhere";
        return refuse(target, "exists already", hint);
    }
    let is_replaceable = match single {
        true => found.is_file() && is_our_gguf(target),
        false => found.is_dir() && is_ours(target, checkpoint),
    };
    match is_replaceable {
        true => Ok(()),
        false => refuse(
            target,
            "was not written by llmc, or holds other files too",
            "remove it yourself, or choose another output with -o",
        ),
    }
}

fn refuse(target: &Path, what: &str, hint: &str) -> Result<()> {
    Err(Error::usage(format!("{} {what}", target.display()), hint))
}

fn check_name(target: &Path, single: bool) -> Result<()> {
    if target.file_name().is_none() {
        return refuse(target, "names no file or folder", "give the output a name of its own: -o out");
    }
    if has_extension(target, "gguf") && !single {
        let hint = "--format gguf writes one file";
        return refuse(target, "is to be a folder, and is named like a GGUF file", hint);
    }
    Ok(())
}

/// Refuses a single file whose place is free but for the record of another.
fn check_record(target: &Path, single: bool, overwrite: bool) -> Result<()> {
    let record = record_beside(target);
    let interrupted = sibling(target, ".partial").exists(); // perhaps between the record and its file
    if single && !overwrite && !interrupted && record.exists() && !target.exists() {
        let what = "is there, the record of a model that is not";
        return refuse(&record, what, "move it to its model, or remove it; --overwrite replaces it");
    }
    Ok(())
}

fn is_inside_input(checkpoint: &Checkpoint, target: &Path) -> bool {
    let folder = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (checkpoint.path.canonicalize(), folder.canonicalize()) {
        (Ok(input), Ok(folder)) => input.is_dir() && folder.starts_with(input),
        _ => false,
    }
}

fn holds_input(checkpoint: &Checkpoint, target: &Path) -> bool {
    let Ok(target) = target.canonicalize() else { return false };
    let inputs = checkpoint.files.iter().map(|file| file.path()).chain([checkpoint.path.as_path()]);
    inputs.filter_map(|path| path.canonicalize().ok()).any(|path| path.starts_with(&target))
}

/// Returns true for a folder whose weights llmc wrote and that holds nothing else, and for an empty one.
fn is_ours(folder: &Path, checkpoint: &Checkpoint) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let modules = side_files::module_folders(folder).unwrap_or_default();
    let is_weights = |path: &PathBuf| has_extension(path, "safetensors");
    let is_known = |path: &PathBuf| match is_weights(path) && path.is_file() {
        true => has_our_mark(path),
        false => is_written(path, &modules, checkpoint),
    };
    paths.is_empty() || paths.iter().any(is_weights) && paths.iter().all(is_known)
}

/// Returns true for a name that outputs have, beside their weights. Code travels from the input alone.
fn is_written(path: &Path, modules: &[String], checkpoint: &Checkpoint) -> bool {
    const FILES: [&str; 7] = [
        "config.json",
        INDEX_FILE,
        "quantize_config.json",
        RECORD,
        "README.md",
        store::INDEX_FILE,
        store::CHECKSUMS,
    ];
    const FOLDERS: [&str; 2] = ["adapter", "additional_chat_templates"];
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let is_code = name.ends_with(".py");
    match path.is_dir() {
        true => FOLDERS.contains(&name) || modules.iter().any(|module| module == name),
        false if is_code => checkpoint.side_files.iter().any(|side| side.name == name),
        false => FILES.contains(&name) || travels(name),
    }
}

/// Returns true for a safetensors file with the metadata that llmc writes.
fn has_our_mark(file: &Path) -> bool {
    let mut start = Vec::new();
    let opened = File::open(file).and_then(|file| file.take(MARK_WITHIN).read_to_end(&mut start));
    opened.is_ok() && start.windows(MARK.len()).any(|bytes| bytes == MARK)
}

/// Returns true for a GGUF with the metadata that llmc writes, and for an importance matrix, which has the form of llama.cpp's
/// to the byte, without a mark.
fn is_our_gguf(file: &Path) -> bool {
    let Ok(mapped) = MappedFile::open(file) else { return false };
    let is_imatrix = |kind: &gguf::Value| kind.as_str() == Some("imatrix");
    gguf::parse(file, mapped.bytes()).is_ok_and(|found| {
        let metadata = found.metadata;
        metadata.contains_key("llmc.version") || metadata.get("general.type").is_some_and(is_imatrix)
    })
}

/// Returns true if a path is a link, or a folder with one somewhere inside.
fn has_link(path: &Path) -> std::io::Result<bool> {
    let found = path.symlink_metadata()?;
    if !found.is_dir() {
        return Ok(found.is_symlink());
    }
    for entry in fs::read_dir(path)? {
        if has_link(&entry?.path())? {
            return Ok(true);
        }
    }
    Ok(false)
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

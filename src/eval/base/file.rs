//! The file of log-probabilities: magic and version, a JSON header with its blake3, then a record per window.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `LLMCBASE` |
//! | 4 | version, 1 |
//! | 4 | length of the header |
//! | 32 | blake3 of the header |
//! | … | the header: [`Identity`] as JSON |
//! | 4, 8, 32 | per record: the number of rows, their bytes, blake3 of the rest of the record |
//! | 4·rows, … | the length of each row, the rows |
//!
//! Integers are little-endian. [`BaseReader::open`] checks every length and every digest before the first row is used, so
//! that a damaged file fails before hours of work, not after.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempPath};

use super::codec::{EncodedRows, Precision};
use crate::error::{Error, Result};
use crate::eval::temporary::persist;
use crate::eval::windows::Protocol;
use crate::io::free_bytes;
use crate::io::map::MappedFile;

const MAGIC: &[u8; 8] = b"LLMCBASE";
const VERSION: u32 = 1;
/// The bytes before the header.
const PREAMBLE: usize = 48;
/// The bytes of a record before its row lengths.
const RECORD: usize = 44;
/// The limit on the header's length; a header has a few hundred bytes.
const LONGEST_HEADER: usize = 1 << 16;
const HINT: &str = "delete it: llmc makes it again from the base model";

/// Everything that determines the log-probabilities in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The version of llmc: another version may sum in another order.
    pub llmc: String,
    /// blake3 of the base's weights.
    pub weights: String,
    /// blake3 of its config.json.
    pub config: String,
    /// blake3 of the text's tokens (u32, little-endian).
    pub tokens: String,
    /// The protocol that cuts the text.
    pub protocol: Protocol,
    /// The replacement of each window's first token.
    pub first: Option<u32>,
    /// The number of windows.
    pub windows: usize,
    /// The length of a row.
    pub vocabulary: usize,
    /// The rounding of activations.
    pub activations: String,
    /// The encoding of the rows.
    pub precision: Precision,
}

impl Identity {
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are JSON")
    }

    /// The file's name in the cache.
    pub(crate) fn file_name(&self) -> String {
        format!("{}.{EXTENSION}", &blake3::hash(&self.to_json()).to_hex()[..32])
    }
}

/// Writes a file, window by window. Leaves no file if it is dropped before [`BaseWriter::finish`].
#[derive(Debug)]
pub(crate) struct BaseWriter {
    target: PathBuf,
    temporary: TempPath,
    file: BufWriter<File>,
}

impl BaseWriter {
    /// Starts the file of an identity in `folder`, which is created if it does not exist. `bytes` is the file's estimated size.
    /// Files in the folder that were not used for longest are removed until all, with this one, take no more than `most` bytes.
    ///
    /// # Errors
    /// A file that is larger than `most` or than half of the free space, a folder that cannot be written.
    pub(crate) fn create(folder: &Path, identity: &Identity, bytes: u64, most: u64) -> Result<BaseWriter> {
        let target = folder.join(identity.file_name());
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        if bytes > most {
            let (bytes, most) = (HumanBytes(bytes), HumanBytes(most));
            let what = format!("{}: {bytes} are more than the {most} of this cache", folder.display());
            return Err(Error::unsupported(what, "--base-cache DIR keeps any size; --chunks takes fewer"));
        }
        evict(folder, most - bytes).map_err(|e| Error::io(folder, e))?;
        if let Some(free) = free_bytes(folder).filter(|free| bytes > free / 2) {
            let (bytes, free) = (HumanBytes(bytes), HumanBytes(free));
            let what = format!("{}: {bytes} would take more than half of the {free} free", folder.display());
            return Err(Error::unsupported(
                what,
                "use --base-cache DIR on another disk, or --base-precision 16bit",
            ));
        }
        let (file, temporary) = start(folder, &identity.to_json()).map_err(|e| Error::io(&target, e))?;
        Ok(BaseWriter { target, temporary, file })
    }

    /// Appends the next window: the rows `range` of `rows`.
    pub(crate) fn push(&mut self, rows: &EncodedRows, range: Range<usize>) -> Result<()> {
        self.write(rows, range).map_err(|e| Error::io(&self.target, e))
    }

    fn write(&mut self, rows: &EncodedRows, range: Range<usize>) -> std::io::Result<()> {
        let lengths: Vec<u8> = rows.lengths(range.clone()).flat_map(u32::to_le_bytes).collect();
        let count = range.len() as u32;
        let bytes = rows.bytes(range);
        let digest = blake3::Hasher::new().update(&lengths).update_rayon(bytes).finalize();
        self.file.write_all(&count.to_le_bytes())?;
        self.file.write_all(&(bytes.len() as u64).to_le_bytes())?;
        self.file.write_all(digest.as_bytes())?;
        self.file.write_all(&lengths)?;
        self.file.write_all(bytes)
    }

    /// Syncs the file and renames it to its final name.
    pub(crate) fn finish(self) -> Result<PathBuf> {
        let BaseWriter { target, temporary, file } = self;
        persist(file, temporary, &target).map_err(|e| Error::io(&target, e))?;
        Ok(target)
    }
}

/// The ending of the files' names.
const EXTENSION: &str = "llmc-base";

/// Removes files of a folder, those first that were not used for longest, until all take no more than `most` bytes.
fn evict(folder: &Path, most: u64) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Ok(found) = path.symlink_metadata() else { continue };
        if found.is_file() && path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push((found.modified()?, found.len(), path));
        }
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in files {
        if total <= most {
            break;
        }
        fs::remove_file(&path)?;
        tracing::info!(file = %path.display(), bytes, "removed from the cache");
        total -= bytes;
    }
    Ok(())
}

/// Notes that a file was used. Nothing is lost if that fails: it may be removed earlier.
fn touch(path: &Path) {
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

fn start(folder: &Path, header: &[u8]) -> std::io::Result<(BufWriter<File>, TempPath)> {
    let (file, temporary) = NamedTempFile::with_prefix_in(".partial-", folder)?.into_parts();
    let mut file = BufWriter::with_capacity(1 << 20, file);
    file.write_all(MAGIC)?;
    file.write_all(&VERSION.to_le_bytes())?;
    file.write_all(&(header.len() as u32).to_le_bytes())?;
    file.write_all(blake3::hash(header).as_bytes())?;
    file.write_all(header)?;
    Ok((file, temporary))
}

/// The ranges of a record's parts in the file.
#[derive(Debug, Clone)]
struct WindowRecord {
    lengths: Range<usize>,
    bytes: Range<usize>,
}

/// A complete and checked file.
#[derive(Debug)]
pub(crate) struct BaseReader {
    file: MappedFile,
    records: Vec<WindowRecord>,
}

impl BaseReader {
    /// Opens the file of an identity in `folder`, if it exists, and checks all of it. `rows` is the number of rows in each
    /// window.
    ///
    /// # Errors
    /// A file that is truncated or damaged, or that has another identity.
    pub(crate) fn open(folder: &Path, identity: &Identity, rows: &[usize]) -> Result<Option<BaseReader>> {
        let path = folder.join(identity.file_name());
        if !path.exists() {
            return Ok(None);
        }
        let file = MappedFile::open(&path)?;
        let refuse = |(expected, found): Mismatch| Error::malformed(&path, expected, found, HINT);
        let header = header(file.bytes()).map_err(refuse)?;
        if file.bytes()[header.clone()] != identity.to_json() {
            let found = String::from_utf8_lossy(&file.bytes()[header]).into_owned();
            return Err(refuse(("the log-probabilities of the identity in its name".into(), found)));
        }
        let records = records(&file, header.end, rows).map_err(refuse)?;
        touch(&path);
        Ok(Some(BaseReader { file, records }))
    }

    /// Appends the rows of a window to `rows`.
    pub(crate) fn window(&self, index: usize, rows: &mut EncodedRows) -> Result<()> {
        let record = &self.records[index];
        let bytes = self.file.bytes();
        let filled = rows.extend(&bytes[record.lengths.clone()], &bytes[record.bytes.clone()]);
        self.file.release(record.lengths.start..record.bytes.end);
        filled.ok_or_else(|| {
            let found = format!("wrong row lengths in window {index}");
            Error::malformed(self.file.path(), "rows of log-probabilities", found, HINT)
        })
    }
}

/// The expected and the found content.
type Mismatch = (String, String);

/// The range of the header.
fn header(bytes: &[u8]) -> Result<Range<usize>, Mismatch> {
    let preamble = bytes.get(..PREAMBLE).ok_or_else(|| truncated(PREAMBLE, bytes))?;
    if &preamble[..8] != MAGIC || word(&preamble[8..]) != VERSION {
        return Err((
            format!("a file of log-probabilities, version {VERSION}"),
            "another kind of file".into(),
        ));
    }
    let len = word(&preamble[12..]) as usize;
    if len > LONGEST_HEADER {
        return Err((format!("a header of at most {LONGEST_HEADER} bytes"), len.to_string()));
    }
    let range = PREAMBLE..PREAMBLE + len;
    let header = bytes.get(range.clone()).ok_or_else(|| truncated(range.end, bytes))?;
    if blake3::hash(header).as_bytes() != &preamble[16..] {
        return Err(("a header with its blake3".into(), "another digest".into()));
    }
    Ok(range)
}

/// The ranges of the records, each checked.
fn records(file: &MappedFile, mut at: usize, rows: &[usize]) -> Result<Vec<WindowRecord>, Mismatch> {
    let mut records = Vec::with_capacity(rows.len());
    for (window, rows) in rows.iter().enumerate() {
        let record = record(file.bytes(), at, *rows, window)?;
        at = record.bytes.end;
        file.release(record.lengths.start..at);
        records.push(record);
    }
    if at == file.bytes().len() {
        return Ok(records);
    }
    Err((format!("{at} bytes"), format!("{} more", file.bytes().len() - at)))
}

fn record(bytes: &[u8], at: usize, rows: usize, window: usize) -> Result<WindowRecord, Mismatch> {
    let head = at.checked_add(RECORD).and_then(|end| bytes.get(at..end));
    let head = head.ok_or_else(|| truncated(at.saturating_add(RECORD), bytes))?;
    let found = word(head) as usize;
    let len = u64::from(word(&head[4..])) | u64::from(word(&head[8..])) << 32;
    if found != rows {
        return Err((format!("{rows} rows in window {window}"), found.to_string()));
    }
    let start = at + RECORD;
    let middle = rows.checked_mul(4).and_then(|lengths| start.checked_add(lengths));
    let end = middle.and_then(|middle| middle.checked_add(usize::try_from(len).ok()?));
    let whole = end.and_then(|end| bytes.get(start..end));
    let (Some(whole), Some(middle), Some(end)) = (whole, middle, end) else {
        return Err(truncated(end.unwrap_or(usize::MAX), bytes));
    };
    if blake3::Hasher::new().update_rayon(whole).finalize().as_bytes() != &head[12..] {
        return Err((format!("window {window} with its blake3"), "another digest: damaged bytes".into()));
    }
    Ok(WindowRecord { lengths: start..middle, bytes: middle..end })
}

fn truncated(expected: usize, bytes: &[u8]) -> Mismatch {
    (format!("{expected} bytes or more"), format!("{}: it is truncated", bytes.len()))
}

/// The first four bytes as a little-endian number.
fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ROWS: [usize; 3] = [4, 4, 2];

    fn identity() -> Identity {
        Identity {
            llmc: "0".into(),
            weights: "w".into(),
            config: "c".into(),
            tokens: "t".into(),
            protocol: Protocol::Chunks { context: 8 },
            first: None,
            windows: ROWS.len(),
            vocabulary: 30,
            activations: "f32".into(),
            precision: Precision::F32,
        }
    }

    fn window(index: usize) -> EncodedRows {
        let logits: Vec<f32> = (0..ROWS[index] * 30).map(|i| ((i + index) % 17) as f32).collect();
        let mut rows = EncodedRows::default();
        rows.push(Precision::F32, &logits, 30).unwrap();
        rows
    }

    /// A complete file in a folder of its own.
    fn written() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = BaseWriter::create(&folder.path().join("new"), &identity(), 0, u64::MAX).unwrap();
        (0..3).for_each(|index| writer.push(&window(index), 0..ROWS[index]).unwrap());
        let path = writer.finish().unwrap();
        (folder, path)
    }

    fn open(path: &Path) -> Result<Option<BaseReader>> {
        BaseReader::open(path.parent().unwrap(), &identity(), &ROWS)
    }

    #[test]
    fn rows_survive_a_round_trip() {
        let (_folder, path) = written();
        let reader = open(&path).unwrap().unwrap();
        for index in 0..3 {
            let mut rows = EncodedRows::default();
            reader.window(index, &mut rows).unwrap();
            assert_eq!(rows, window(index));
        }
        let mut other = identity();
        other.tokens = "another text".into();
        assert!(BaseReader::open(path.parent().unwrap(), &other, &ROWS).unwrap().is_none());
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = BaseWriter::create(folder.path(), &identity(), 0, u64::MAX).unwrap();
        writer.push(&window(0), 0..ROWS[0]).unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_files_that_were_not_used_for_longest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for (name, age) in
            [("old.llmc-base", 300), ("used.llmc-base", 200), ("new.llmc-base", 100), ("x.txt", 400)]
        {
            fs::write(file(name), [0; 100]).unwrap();
            let time = SystemTime::now() - std::time::Duration::from_secs(age);
            File::options().write(true).open(file(name)).unwrap().set_modified(time).unwrap();
        }
        touch(&file("used.llmc-base"));
        let create = |bytes| BaseWriter::create(folder.path(), &identity(), bytes, 350).map(drop);
        let there =
            || ["old.llmc-base", "used.llmc-base", "new.llmc-base", "x.txt"].map(|name| file(name).exists());
        create(50).unwrap();
        assert_eq!(there(), [true; 4], "350 bytes fit");
        create(51).unwrap();
        assert_eq!(there(), [false, true, true, true]);
        create(250).unwrap();
        assert_eq!(there(), [false, true, false, true]);
        assert!(create(351).unwrap_err().to_string().contains("more than the 350"));
        assert_eq!(there(), [false, true, false, true]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_disk_is_not_filled() {
        let folder = tempfile::tempdir().unwrap();
        let error = BaseWriter::create(folder.path(), &identity(), u64::MAX, u64::MAX).unwrap_err();
        assert!(error.to_string().contains("more than half"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn truncation_and_changed_bytes_are_found() {
        let (_folder, path) = written();
        let whole = fs::read(&path).unwrap();
        for len in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(open(&path).unwrap_err().hint().unwrap().contains("delete"), "cut to {len}");
        }
        for place in (0..whole.len()).step_by(5) {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x41;
            fs::write(&path, damaged).unwrap();
            assert!(open(&path).unwrap_err().hint().unwrap().contains("delete"), "byte {place} changed");
        }
        fs::write(&path, [whole.as_slice(), b"more"].concat()).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("4 more"));
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let (_folder, path) = written();
        let mut whole = fs::read(&path).unwrap();
        let at = header(&whole).unwrap().end;
        whole[at + 4..at + 12].fill(0xff);
        fs::write(&path, &whole).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("it is truncated"));
        whole[12..16].fill(0xff);
        fs::write(&path, &whole).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("a header of at most"));
    }

    #[test]
    fn a_renamed_file_is_refused() {
        let (_folder, path) = written();
        let mut other = identity();
        other.weights = "another model".into();
        fs::rename(&path, path.with_file_name(other.file_name())).unwrap();
        let found = BaseReader::open(path.parent().unwrap(), &other, &ROWS).unwrap_err();
        assert!(found.to_string().contains("the identity in its name"), "{found}");
    }
}

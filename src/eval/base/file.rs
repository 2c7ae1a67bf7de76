//! The file: magic and version, a JSON header with its blake3, then a record per window.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `LLMCBASE` |
//! | 4 | version, 1 |
//! | 4 | length of the header |
//! | 32 | blake3 of the header |
//! | … | the header: [`Identity`] as JSON |
//! | 4, 8, 32 | of each record: rows, bytes of the rows, blake3 of what follows |
//! | 4·rows, … | the length of each row, the rows |
//!
//! Integers are little-endian. [`Reader::open`] believes nothing: it checks every length and every digest before the first
//! row is used, so that a damaged file is found before hours of work, and not after.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempPath};

use super::{Precision, Rows};
use crate::error::{Error, Result};
use crate::eval::windows::Protocol;
use crate::io::map::MappedFile;

const MAGIC: &[u8; 8] = b"LLMCBASE";
const VERSION: u32 = 1;
/// Bytes before the header.
const PREAMBLE: usize = 48;
/// Bytes of a record before its lengths.
const RECORD: usize = 44;
/// A header is a few hundred bytes.
const LONGEST_HEADER: usize = 1 << 16;
const HINT: &str = "delete it: it is made again from the base model";

/// What determines the log-probabilities in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of llmc: another one may sum in another order.
    pub llmc: String,
    /// blake3 of the base's weights.
    pub weights: String,
    /// blake3 of its config.json.
    pub config: String,
    /// blake3 of the tokens (u32, little-endian): the text, as tokenized.
    pub tokens: String,
    /// How the text was cut.
    pub protocol: Protocol,
    /// What took the place of the first token of each window.
    pub first: Option<u32>,
    /// How many windows were run.
    pub windows: usize,
    /// Values of a row.
    pub vocabulary: usize,
    /// How activations were kept.
    pub activations: String,
    /// How rows are stored.
    pub precision: Precision,
}

impl Identity {
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are JSON")
    }

    /// The file's name in the cache.
    pub fn file_name(&self) -> String {
        format!("{}.llmc-base", &blake3::hash(&self.to_json()).to_hex()[..32])
    }
}

/// Writes a file, window by window. Dropped before [`Writer::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    target: PathBuf,
    temporary: TempPath,
    file: BufWriter<File>,
}

impl Writer {
    /// Begins the file of this identity, about so many bytes long, in a folder, which is made where it is missing.
    ///
    /// # Errors
    /// The file would take more than half of what is free; the folder cannot be written to.
    pub fn create(folder: &Path, identity: &Identity, bytes: u64) -> Result<Writer> {
        let target = folder.join(identity.file_name());
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        if let Some(free) = free_bytes(folder).filter(|free| bytes > free / 2) {
            let (bytes, free) = (HumanBytes(bytes), HumanBytes(free));
            let what = format!("{}: {bytes} would take more than half of the {free} free", folder.display());
            return Err(Error::unsupported(
                what,
                "--base-cache DIR on another disk, or --base-precision 16bit",
            ));
        }
        let begin = || {
            let (file, temporary) = NamedTempFile::with_prefix_in(".partial-", folder)?.into_parts();
            let mut file = BufWriter::with_capacity(1 << 20, file);
            let header = identity.to_json();
            file.write_all(MAGIC)?;
            file.write_all(&VERSION.to_le_bytes())?;
            file.write_all(&(header.len() as u32).to_le_bytes())?;
            file.write_all(blake3::hash(&header).as_bytes())?;
            file.write_all(&header)?;
            Ok((file, temporary))
        };
        let (file, temporary) = begin().map_err(|e| Error::io(&target, e))?;
        Ok(Writer { target, temporary, file })
    }

    /// Adds the next window, whose rows are `range` of `rows`.
    pub fn push(&mut self, rows: &Rows, range: Range<usize>) -> Result<()> {
        self.write(rows, range).map_err(|e| Error::io(&self.target, e))
    }

    fn write(&mut self, rows: &Rows, range: Range<usize>) -> std::io::Result<()> {
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

    /// Makes it durable, and puts it in its place.
    pub fn finish(self) -> Result<PathBuf> {
        let Writer { target, temporary, file } = self;
        let end = || {
            file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
            temporary.persist(&target)?;
            match target.parent() {
                Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
                _ => Ok(()),
            }
        };
        end().map_err(|e: std::io::Error| Error::io(&target, e))?;
        Ok(target)
    }
}

/// What the disk of a folder has room for, where the system says.
fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(target_os = "linux")]
    return rustix::fs::statvfs(folder).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    #[cfg(not(target_os = "linux"))]
    return None;
}

/// Where a record's parts lie in the file.
#[derive(Debug, Clone)]
struct Record {
    lengths: Range<usize>,
    bytes: Range<usize>,
}

/// A file that was found whole.
#[derive(Debug)]
pub struct Reader {
    file: MappedFile,
    records: Vec<Record>,
}

impl Reader {
    /// Opens the file of this identity in a folder, if there is one, and checks all of it. `rows` are those of each window.
    ///
    /// # Errors
    /// A file that is truncated, damaged, or of something else.
    pub fn open(folder: &Path, identity: &Identity, rows: &[usize]) -> Result<Option<Reader>> {
        let path = folder.join(identity.file_name());
        if !path.exists() {
            return Ok(None);
        }
        let file = MappedFile::open(&path)?;
        let refuse = |(expected, found): Problem| Error::malformed(&path, expected, found, HINT);
        let header = header(file.bytes()).map_err(refuse)?;
        if file.bytes()[header.clone()] != identity.to_json() {
            let found = String::from_utf8_lossy(&file.bytes()[header]).into_owned();
            return Err(refuse(("the log-probabilities that its name stands for".into(), found)));
        }
        let records = records(&file, header.end, rows).map_err(refuse)?;
        Ok(Some(Reader { file, records }))
    }

    /// Puts the rows of a window behind those that `rows` holds.
    pub fn window(&self, index: usize, rows: &mut Rows) -> Result<()> {
        let record = &self.records[index];
        let bytes = self.file.bytes();
        let filled = rows.extend(&bytes[record.lengths.clone()], &bytes[record.bytes.clone()]);
        self.file.release(record.lengths.start..record.bytes.end);
        filled.ok_or_else(|| {
            let found = format!("lengths of window {index} that do not add up");
            Error::malformed(self.file.path(), "rows of log-probabilities", found, HINT)
        })
    }
}

/// Expected, found.
type Problem = (String, String);

/// Where the header lies.
fn header(bytes: &[u8]) -> Result<Range<usize>, Problem> {
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
    let holds = blake3::hash(header).as_bytes() == &preamble[16..];
    if holds { Ok(range) } else { Err(("a header with its blake3".into(), "another digest".into())) }
}

/// Where the records lie, each checked.
fn records(file: &MappedFile, mut at: usize, rows: &[usize]) -> Result<Vec<Record>, Problem> {
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

fn record(bytes: &[u8], at: usize, rows: usize, window: usize) -> Result<Record, Problem> {
    let head = at.checked_add(RECORD).and_then(|end| bytes.get(at..end));
    let head = head.ok_or_else(|| truncated(at.saturating_add(RECORD), bytes))?;
    let (found, len) = (word(head) as usize, u64::from(word(&head[4..])) | u64::from(word(&head[8..])) << 32);
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
    Ok(Record { lengths: start..middle, bytes: middle..end })
}

fn truncated(expected: usize, bytes: &[u8]) -> Problem {
    (format!("{expected} bytes or more"), format!("{}: it is truncated", bytes.len()))
}

/// The first four bytes as a number.
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

    fn window(index: usize) -> Rows {
        let logits: Vec<f32> = (0..ROWS[index] * 30).map(|i| ((i + index) % 17) as f32).collect();
        let mut rows = Rows::default();
        rows.push(Precision::F32, &logits, 30).unwrap();
        rows
    }

    /// A whole file in a folder of its own.
    fn written() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(&folder.path().join("new"), &identity(), 0).unwrap();
        (0..3).for_each(|index| writer.push(&window(index), 0..ROWS[index]).unwrap());
        let path = writer.finish().unwrap();
        (folder, path)
    }

    fn open(path: &Path) -> Result<Option<Reader>> {
        Reader::open(path.parent().unwrap(), &identity(), &ROWS)
    }

    #[test]
    fn what_was_written_is_read() {
        let (_folder, path) = written();
        let reader = open(&path).unwrap().unwrap();
        for index in 0..3 {
            let mut rows = Rows::default();
            reader.window(index, &mut rows).unwrap();
            assert_eq!(rows, window(index));
        }
        let mut other = identity();
        other.tokens = "another text".into();
        assert!(Reader::open(path.parent().unwrap(), &other, &ROWS).unwrap().is_none());
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::create(folder.path(), &identity(), 0).unwrap();
        writer.push(&window(0), 0..ROWS[0]).unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_disk_is_not_filled() {
        let folder = tempfile::tempdir().unwrap();
        let error = Writer::create(folder.path(), &identity(), u64::MAX).unwrap_err();
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
    fn another_files_content_is_refused() {
        let (_folder, path) = written();
        let mut other = identity();
        other.weights = "another model".into();
        fs::rename(&path, path.with_file_name(other.file_name())).unwrap();
        let found = Reader::open(path.parent().unwrap(), &other, &ROWS).unwrap_err();
        assert!(found.to_string().contains("that its name stands for"), "{found}");
    }
}

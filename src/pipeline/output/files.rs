//! The weight files of an output, written at any offset and in any order.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::checksum::checksum;
use super::workspace::Workspace;
use crate::error::{Error, Result};
use crate::pipeline::fault;
use crate::plan::{OutputFile, PartPlace, Plan, TensorPlan};

/// Bytes written between two flushes to the disk in the background.
const FLUSH_EVERY: u64 = 8 << 20;

/// Bytes read at a time for a digest or a checksum.
const READ: usize = 1 << 18;

/// The most files of one output.
const MOST_FILES: usize = 900;

/// The weight files, open for writing anywhere.
pub(crate) struct OutputFiles {
    files: Arc<Vec<(PathBuf, File)>>,
    places: Vec<Vec<(usize, u64)>>,
    /// [`checksum`] of the bytes written for each tensor.
    sums: Vec<AtomicU64>,
    unflushed: AtomicU64,
    flusher: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl OutputFiles {
    /// Creates the files at their full length and writes their headers.
    pub(crate) fn create(workspace: &Workspace, layout: &[OutputFile], plan: &Plan) -> Result<OutputFiles> {
        let mut places: Vec<Vec<(usize, u64)>> =
            plan.tensors.iter().map(|tensor| vec![(usize::MAX, 0); tensor.parts.len()]).collect();
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
            let file = create(&path, planned, plan).map_err(|e| Error::io(&path, e))?;
            files.push((path, file));
            for place in &planned.parts {
                places[place.tensor][place.part] = (index, place.offset);
            }
        }
        let (unflushed, flusher) = (AtomicU64::new(0), Mutex::new(None));
        let sums = plan.tensors.iter().map(|_| AtomicU64::new(0)).collect();
        Ok(OutputFiles { files: Arc::new(files), places, sums, unflushed, flusher })
    }

    /// Writes bytes of a part, each once. From time to time it starts a flush to the disk in the background, so that the final
    /// flush is short.
    pub(crate) fn write(&self, tensor: usize, part: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (file, start) = self.places[tensor][part];
        self.sums[tensor].fetch_add(checksum(start + offset, bytes), Ordering::Relaxed);
        self.write_in(file, start + offset, bytes)
    }

    /// Writes bytes at an offset of a file, given by its number in the layout.
    pub(crate) fn write_in(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (path, file) = &self.files[file];
        write_at(file, bytes, offset).map_err(|e| Error::io(path, e))?;
        fault::point("write");
        let written = self.unflushed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if written >= FLUSH_EVERY { self.flush_beside() } else { Ok(()) }
    }

    /// Returns the checksum of the bytes written for a tensor.
    pub(crate) fn written_checksum(&self, tensor: usize) -> u64 {
        self.sums[tensor].load(Ordering::Relaxed)
    }

    /// Returns the checksum of the bytes that the files hold for a tensor of the plan.
    pub(crate) fn stored_checksum(&self, index: usize, tensor: &TensorPlan) -> Result<u64> {
        let mut sum = 0_u64;
        for (&(file, start), part) in self.places[index].iter().zip(&tensor.parts) {
            self.read(file, start..start + part.byte_len() as u64, |offset, bytes| {
                sum = sum.wrapping_add(checksum(offset, bytes));
            })?;
        }
        Ok(sum)
    }

    /// Returns blake3 of bytes of a file, given by its number in the layout.
    pub(crate) fn digest(&self, file: usize, range: Range<u64>) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        self.read(file, range, |_, bytes| {
            hasher.update(bytes);
        })?;
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Reads bytes of a file piece by piece, each with its offset.
    fn read(&self, file: usize, range: Range<u64>, mut take: impl FnMut(u64, &[u8])) -> Result<()> {
        let (path, file) = &self.files[file];
        let mut buffer = vec![0; READ];
        for start in range.clone().step_by(READ) {
            let bytes = &mut buffer[..(range.end - start).min(READ as u64) as usize];
            read_at(file, bytes, start).map_err(|e| Error::io(path, e))?;
            take(start, bytes);
        }
        Ok(())
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

    /// Flushes everything written so far, and waits for it.
    pub(crate) fn sync(&self) -> Result<()> {
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

fn create(path: &Path, planned: &OutputFile, plan: &Plan) -> std::io::Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    reserve(&file, planned.len)?;
    write_at(&file, &planned.header, 0)?;
    for gap in gaps(planned, plan) {
        write_at(&file, &vec![0; (gap.end - gap.start) as usize], gap.start)?;
    }
    Ok(file)
}

/// The bytes behind the parts of a file, up to the next, which are zero: what an interrupted run left there is not trusted.
fn gaps(planned: &OutputFile, plan: &Plan) -> Vec<Range<u64>> {
    let len = |place: &PartPlace| plan.tensors[place.tensor].parts[place.part].byte_len() as u64;
    let ends = planned.parts.iter().map(|place| place.offset + len(place));
    let starts = planned.parts.iter().skip(1).map(|place| place.offset).chain([planned.len]);
    ends.zip(starts).map(|(end, start)| end..start).filter(|gap| gap.start < gap.end).collect()
}

/// Sets a file's length and, if the system can, reserves its space on the disk: a disk that is too small is then an error
/// before any work.
pub(crate) fn reserve(file: &File, len: u64) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {}
        result => return result.map_err(Into::into),
    }
    file.set_len(len)
}

#[cfg(unix)]
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
pub(crate) fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

#[cfg(unix)]
pub(crate) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
pub(crate) fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        offset += read as u64;
    }
    Ok(())
}

//! Read-only memory maps, and giving their pages back behind the stream.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{Mmap, UncheckedAdvice};

use super::side_file::regular_len;
use crate::error::{Error, Result};

/// The files that are mapped now, and their lengths, for the message of a fault: see [`cut_short`].
static MAPPED: Mutex<Vec<(PathBuf, usize)>> = Mutex::new(Vec::new());

/// Returns a mapped file that is shorter by now, or gone: to read it raises SIGBUS.
pub(crate) fn cut_short() -> Option<PathBuf> {
    let mapped = MAPPED.try_lock().ok()?;
    let is_whole = |path: &Path, len: usize| path.metadata().is_ok_and(|found| found.len() >= len as u64);
    mapped.iter().find(|(path, len)| !is_whole(path, *len)).map(|(path, _)| path.clone())
}

fn mapped() -> MutexGuard<'static, Vec<(PathBuf, usize)>> {
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes SIGBUS away from the standard library. It looks for overflows of stacks, which are SIGSEGV on Linux, and makes all else
/// fatal before other handlers can tell of it.
#[cfg(target_os = "linux")]
pub(crate) fn release_sigbus() {
    // SAFETY: the default action is no function, so none can be called in a wrong state.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

/// A file mapped for reading. Clones share the map.
#[derive(Debug, Clone)]
pub struct MappedFile(Arc<Mapping>);

#[derive(Debug)]
struct Mapping {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps a file; nothing is read yet. An empty file maps to an empty slice. Only regular files are
    /// taken.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        regular_len(path)?;
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        // SAFETY: the map is only read. Another process that truncates the file while it is mapped would raise SIGBUS;
        // every tool that maps checkpoints shares that assumption, and nothing unsound follows from changed bytes, since
        // they are only ever read as plain numbers.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        mapped().push((path.to_owned(), map.len()));
        Ok(MappedFile(Arc::new(Mapping { path: path.to_owned(), map })))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0.map
    }

    /// Tells the system that these pages will not be needed again soon. They stay valid, and in the page cache.
    pub(crate) fn release(&self, range: Range<usize>) {
        const PAGE: usize = 4096;
        let start = range.start.next_multiple_of(PAGE);
        let end = range.end.min(self.0.map.len()) / PAGE * PAGE;
        if start < end {
            // SAFETY: the mapping is read-only and backed by a file: pages that are dropped are read again on the next
            // access, with the same content. Failure only costs memory, so the result is not used.
            let _ =
                unsafe { self.0.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut mapped = mapped();
        let own = mapped.iter().position(|(path, len)| *path == self.path && *len == self.map.len());
        own.map(|at| mapped.swap_remove(at));
    }
}

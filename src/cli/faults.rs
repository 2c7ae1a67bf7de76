//! Signals of faults: files that fail under the work, and memory that is not to be had.

#[cfg(unix)]
use std::io::Read;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
#[cfg(unix)]
use std::sync::Arc;
#[cfg(unix)]
use std::sync::atomic::AtomicBool;

#[cfg(unix)]
use signal_hook::consts::{SIGABRT, SIGBUS, SIGXFSZ};

#[cfg(unix)]
use super::terminal;
#[cfg(unix)]
use crate::error::Error;
use crate::error::Result;
#[cfg(unix)]
use crate::io::map::cut_short;

/// Stack of the thread that waits for faults.
#[cfg(unix)]
const WATCHER_STACK: usize = 1 << 17;

/// Turns signals of faults into errors. A write beyond the system's limit of a file fails like any other. A file that is cut
/// short while it is mapped ends the process with a message: what was to be read is gone. Memory that is not to be had ends
/// it too, after the standard library's message.
///
/// # Errors
/// A system that has no handles or threads left.
#[cfg(unix)]
pub(super) fn catch() -> Result<()> {
    let failed = |e| Error::io("signal handler", e);
    // With any handler, the write returns an error.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(failed)?;
    signal_hook::flag::register_conditional_shutdown(SIGABRT, 1, Arc::new(AtomicBool::new(true)))
        .map_err(failed)?;
    #[cfg(target_os = "linux")]
    crate::io::map::release_sigbus();
    let (told, teller) = UnixStream::pair().map_err(failed)?;
    signal_hook::low_level::pipe::register(SIGBUS, teller).map_err(failed)?;
    let watcher = std::thread::Builder::new().stack_size(WATCHER_STACK);
    watcher.spawn(move || watch(told)).map(drop).map_err(failed)
}

#[cfg(not(unix))]
pub(super) fn catch() -> Result<()> {
    Ok(())
}

/// Ends the process with an error when the handler of SIGBUS tells of one. Meanwhile, the thread that raised it
/// tries again and again.
#[cfg(unix)]
fn watch(mut told: UnixStream) {
    if told.read_exact(&mut [0]).is_err() {
        return;
    }
    let file = cut_short().map_or("a file".to_owned(), |path| path.display().to_string());
    terminal::tell(&format!("error: {file} became shorter while it was read, or its disk failed"));
    terminal::tell(
        "hint: leave the files of a model alone while llmc reads them, and run the same command again",
    );
    #[allow(clippy::disallowed_methods)] // the work is in another thread, which cannot go on
    std::process::exit(1)
}

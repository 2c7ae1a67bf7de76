//! Signals of Unix: of faults, and of the wish to stop.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGABRT, SIGBUS, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::cli::terminal;
use crate::error::{Error, Result};
use crate::io::map::cut_short;

/// Stack of the thread that waits for faults.
const WATCHER_STACK: usize = 1 << 17;

/// Turns signals of faults into errors. A write beyond the system's limit of a file fails like any other. A file that is cut
/// short while it is mapped ends the process with a message: what was to be read is gone. Memory that is not to be had ends
/// it too, after the standard library's message.
///
/// # Errors
/// A system that has no handles or threads left.
pub(crate) fn catch() -> Result<()> {
    // With any handler, the write returns an error.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(no_handler)?;
    signal_hook::flag::register_conditional_shutdown(SIGABRT, 1, Arc::new(AtomicBool::new(true)))
        .map_err(no_handler)?;
    #[cfg(target_os = "linux")]
    crate::io::map::release_sigbus();
    let (told, teller) = UnixStream::pair().map_err(no_handler)?;
    signal_hook::low_level::pipe::register(SIGBUS, teller).map_err(no_handler)?;
    let watcher = std::thread::Builder::new().stack_size(WATCHER_STACK);
    watcher.spawn(move || watch(told)).map(drop).map_err(no_handler)
}

/// Calls `answer` at the first SIGINT or SIGTERM.
///
/// # Errors
/// A system that has no handles left.
pub(crate) fn on_stop(answer: fn()) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(no_handler)?;
    std::thread::spawn(move || signals.forever().take(1).for_each(|_| answer()));
    Ok(())
}

fn no_handler(error: std::io::Error) -> Error {
    Error::io("signal handler", error)
}

/// Ends the process with an error when the handler of SIGBUS tells of one. Meanwhile, the thread that raised it
/// tries again and again.
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

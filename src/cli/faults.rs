//! Signals of faults (files that fail under the work, memory that is not to be had) and of the wish to stop.

#[cfg(unix)]
mod unix;

#[cfg(unix)]
pub(super) use unix::{catch, on_stop};

/// Other systems end the process by themselves.
#[cfg(not(unix))]
pub(super) fn catch() -> crate::error::Result<()> {
    Ok(())
}

/// The flag of the wish to stop is all that other systems have.
#[cfg(not(unix))]
pub(super) fn on_stop(_answer: fn()) -> crate::error::Result<()> {
    Ok(())
}

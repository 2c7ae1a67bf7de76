//! Panics of libraries that read hostile files, as results.
//!
//! The default hook prints a panic before it can be caught, so a hook of ours stays silent in [`caught`]; elsewhere it calls the
//! one before it. Limit: a stack overflow or a failed allocation ends the process; callers bound depth and sizes first.

use std::any::Any;
use std::cell::Cell;
use std::fmt::Display;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// True while this thread runs work whose panics are caught.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic becomes an error with its message.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(silence);
    let outer = CATCHING.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(outer);
    result.map_err(|payload| message(payload.as_ref()))
}

/// Runs `work` that may fail; its error becomes a message, like a panic.
pub(crate) fn caught_or_failed<T, E: Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    caught(|| work().map_err(|error| error.to_string())).and_then(|result| result)
}

fn silence() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !CATCHING.get() {
            before(info);
        }
    }));
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_messages() {
        assert_eq!(caught(|| 3), Ok(3));
        assert_eq!(caught(|| panic!("the {} failed", "crate")), Err::<(), _>("the crate failed".to_owned()));
        let nested = caught(|| caught(|| panic!("inner")).map_err(|inner| panic!("outer after {inner}")));
        assert_eq!(nested, Err::<Result<(), ()>, _>("outer after inner".to_owned()));
        assert!(!CATCHING.get());
    }
}

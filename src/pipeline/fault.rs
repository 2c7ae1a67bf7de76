//! Fault points: named places of the pipeline where a test can stop a run. Debug builds only: a release build ignores them.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A requested fault: `LLMC_FAULT=point/count/signal` in the environment.
struct Fault {
    point: String,
    count: usize,
    signal: i32,
    calls: AtomicUsize,
}

impl Fault {
    fn parse(text: &str) -> Option<Fault> {
        let mut fields = text.split('/');
        let point = fields.next()?.to_owned();
        let (count, signal) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Fault { point, count, signal, calls: AtomicUsize::new(0) })
    }
}

/// Raises the signal at the `count`th call with the name of the point.
pub(crate) fn point(name: &str) {
    static FAULT: LazyLock<Option<Fault>> =
        LazyLock::new(|| std::env::var("LLMC_FAULT").ok().as_deref().and_then(Fault::parse));
    if !cfg!(debug_assertions) {
        return;
    }
    let Some(fault) = FAULT.as_ref().filter(|fault| fault.point == name) else { return };
    if fault.calls.fetch_add(1, Ordering::Relaxed) + 1 == fault.count {
        let _ = signal_hook::low_level::raise(fault.signal);
    }
}

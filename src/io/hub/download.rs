//! One file at a time, watched: a transfer that falls silent is given up, one that breaks is resumed.
//!
//! What `hf-hub` leaves to its caller is done here: time limits, checking what a server says before it becomes part of a
//! path, checking the length of what arrived, and clearing away what cannot be resumed.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiError, Metadata};
use hf_hub::{Cache, Repo};
use indicatif::{ProgressBar, ProgressStyle};

use super::client::Hub;
use super::failure::Failure;
use crate::io::index::is_plain_name;

/// Attempts at a transfer that breaks.
const ATTEMPTS: u32 = 3;
const BAR: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

enum Event<T> {
    Alive,
    Done(Result<T, ApiError>),
}

/// Runs `job` in a thread that is left to itself when it says nothing for `timeout`.
pub(super) fn watched<T: Send + 'static>(
    timeout: Duration,
    job: impl FnOnce(Pulse<T>) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, Failure> {
    let (sender, events) = channel();
    let pulse = Pulse(sender.clone());
    thread::spawn(move || sender.send(Event::Done(job(pulse))));
    loop {
        match events.recv_timeout(timeout) {
            Ok(Event::Alive) => {}
            Ok(Event::Done(result)) => return result.map_err(Failure::from),
            Err(RecvTimeoutError::Timeout) => return Err(Failure::Silent(timeout)),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::Nonsense("the hub's answer could not be understood".into()));
            }
        }
    }
}

/// Tells the watcher that the job is alive.
pub(super) struct Pulse<T>(Sender<Event<T>>);

/// A bar that is also a pulse.
struct Transfer<T> {
    bar: ProgressBar,
    pulse: Pulse<T>,
}

impl<T> Transfer<T> {
    /// Nobody listens any more once the watcher has given up, and that is fine.
    fn beat(&self) {
        let _ = self.pulse.0.send(Event::Alive);
    }
}

impl<T> Progress for Transfer<T> {
    fn init(&mut self, size: usize, filename: &str) {
        self.bar.set_style(ProgressStyle::with_template(BAR).expect("the template is a constant"));
        self.bar.set_length(size as u64);
        self.bar.set_message(filename.to_owned());
        self.beat();
    }

    fn update(&mut self, size: usize) {
        self.bar.inc(size as u64);
        self.beat();
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
        self.beat();
    }
}

/// Downloads one file of a commit into the cache, resuming what an earlier run has left.
pub(super) fn file(hub: &Hub, repo: &Repo, name: &str) -> Result<(), Failure> {
    let metadata = metadata(hub, repo, name)?;
    let blob = Cache::new(hub.cache.clone()).repo(repo.clone()).blob_path(metadata.etag());
    let part = blob.with_extension("part");
    for attempt in 1.. {
        clear_unless_resumable(&part, metadata.size());
        match transfer(hub, repo, name) {
            Err(failure) if failure.is_transient() && attempt < ATTEMPTS => {
                tracing::warn!("{name}: {failure}; resuming");
                thread::sleep(Duration::from_millis(200) * attempt);
            }
            Err(failure) => return Err(failure),
            Ok(()) => break,
        }
    }
    check_length(&blob, metadata.size())
}

/// Asks the server about a file, and checks the answer: its etag and commit become names in the cache.
fn metadata(hub: &Hub, repo: &Repo, name: &str) -> Result<Metadata, Failure> {
    let api = hub.api()?;
    let url = api.repo(repo.clone()).url(name);
    let metadata = watched(hub.timeout, move |_| api.metadata(&url))?;
    if !is_plain_name(metadata.etag()) || metadata.commit_hash() != repo.revision() {
        let (etag, commit) = (metadata.etag(), metadata.commit_hash());
        return Err(Failure::Nonsense(format!("the hub answered with etag {etag:?} and commit {commit:?}")));
    }
    Ok(metadata)
}

fn transfer(hub: &Hub, repo: &Repo, name: &str) -> Result<(), Failure> {
    let repo = hub.api()?.repo(repo.clone());
    let bar = if hub.progress { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let name = name.to_owned();
    watched(hub.timeout, move |pulse| repo.download_with_progress(&name, Transfer { bar, pulse }).map(drop))
}

/// A part as long as the file (a run that was killed before the last rename) leaves no range to ask for.
fn clear_unless_resumable(part: &Path, size: usize) {
    if part.metadata().is_ok_and(|part| part.len() >= size as u64) {
        let _ = std::fs::remove_file(part);
    }
}

/// A server that ignores ranges sends the whole file after its part.
fn check_length(blob: &Path, size: usize) -> Result<(), Failure> {
    let len = blob.metadata().map_err(ApiError::from)?.len();
    if len == size as u64 {
        return Ok(());
    }
    let _ = std::fs::remove_file(blob);
    Err(Failure::Nonsense(format!("expected {size} bytes, received {len}")))
}

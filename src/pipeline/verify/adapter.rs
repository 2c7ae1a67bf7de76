//! The adapter of an output with a compensating stage, held against the record of the run and the model beside it.

use super::check::TensorCheck;
use crate::engine;
use crate::export::adapter::{CONFIG, FOLDER, WEIGHTS};
use crate::io::Checkpoint;
use crate::io::side_file::file_digest;
use crate::pipeline::output::Record;

/// The problems of an output's adapter, by file. An adapter that nothing was recorded of is only held against the model.
pub(super) fn check_adapter(written: &Checkpoint, record: Option<&Record>) -> Vec<TensorCheck> {
    let recorded = |name: &str| record.and_then(|record| record.files.get(name)).map(String::as_str);
    let check = |name| Some(TensorCheck::failed(name, &problem(written, name, recorded(name))?));
    let mut problems: Vec<TensorCheck> = [CONFIG, WEIGHTS].into_iter().filter_map(check).collect();
    if problems.is_empty() {
        problems.extend(misfit(written));
    }
    if [CONFIG, WEIGHTS].into_iter().any(|name| recorded(name).is_none()) {
        problems.push(TensorCheck { name: FOLDER.to_owned(), unknown: true, ..TensorCheck::default() });
    }
    problems
}

/// Returns the reason why a file is not the one that the run has written.
fn problem(written: &Checkpoint, name: &str, recorded: Option<&str>) -> Option<String> {
    let path = written.path.join(name);
    if !path.is_file() {
        return Some("is missing".to_owned());
    }
    match (file_digest(&path), recorded) {
        (Err(error), _) => Some(error.to_string()),
        (Ok(found), Some(recorded)) if found != recorded => {
            Some("is not what was recorded when it was made".to_owned())
        }
        _ => None,
    }
}

/// Returns the problem of an adapter that cannot be read, or is of another model.
fn misfit(written: &Checkpoint) -> Option<TensorCheck> {
    let adapter = engine::Adapter::open(&written.path.join(FOLDER));
    let error = adapter.and_then(|adapter| adapter.check_fits(written)).err()?;
    Some(TensorCheck::failed(FOLDER, &error.to_string()))
}

//! The output of a run: the partial folder, its files and its journal, the record of a calibrated run, and the adapter.

mod adapter;
mod checksum;
mod digest;
mod files;
mod journal;
mod record;
mod workspace;

pub(crate) use adapter::AdapterFile;
pub(crate) use digest::{input_digest, model_digest, provenance};
pub(crate) use files::{OutputFiles, read_at, reserve, write_at};
pub(crate) use journal::Journal;
pub(crate) use record::{Digests, Record, mismatch, round_to, stored_values, wrong_scale};
pub(crate) use workspace::{
    RECORD, REPORTS_NAME, Workspace, check_target, own_text, partial_bytes, record_path,
};

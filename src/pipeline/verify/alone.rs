//! An output verified by itself, without the input that it was made from.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::adapter::check_adapter;
use super::check::{TensorCheck, Verification};
use super::compare::recorded_recipe;
use crate::error::Result;
use crate::io::{Checkpoint, Source, Stored};
use crate::numerics::Sparsity;
use crate::numerics::sparsity::Tally;
use crate::pipeline::options::interrupted;
use crate::pipeline::output::{Record, wrong_scale};
use crate::pipeline::stream::{CHUNK_ELEMENTS, NonFinite};
use crate::plan::Plan;

/// Checks an output by itself: every tensor can be read, every value is finite, and every scale of activations can be divided by.
/// `compensated`: its recipe has a compensating stage, so that there must be an adapter.
pub(crate) fn verify_alone(
    written: &Checkpoint,
    compensated: bool,
    stop: &AtomicBool,
) -> Result<Verification> {
    let zeros = zeros(written);
    let mut tensors = written
        .tensors
        .values()
        .par_bridge()
        .map(|source| {
            if stop.load(Ordering::Relaxed) {
                Err(interrupted())
            } else {
                Ok(check_alone(written, source, zeros.get(&source.name)))
            }
        })
        .collect::<Result<Vec<_>>>()?;
    tensors.sort_by_key(|check| written.tensors.get_index_of(&check.name));
    let scales = written.activation_scales.values().filter(|raw| raw.shape.iter().all(|&dim| dim == 1));
    let wrong = |name: &String| Some(TensorCheck::failed(name, &wrong_scale(written, name, None)?));
    tensors.extend(scales.filter_map(|raw| wrong(&raw.name)));
    let mut missing_record = false;
    if compensated {
        let record = Record::read(written)?;
        missing_record = record.is_none();
        tensors.extend(check_adapter(written, record.as_ref()));
    }
    Ok(Verification { tensors, missing_record })
}

/// The zeros that the recipe of an output without codes has made, by the names of the pruned tensors.
fn zeros(written: &Checkpoint) -> HashMap<String, Sparsity> {
    let recipe = recorded_recipe(written).ok().filter(|recipe| recipe.scheme.is_none());
    let plan = recipe.and_then(|recipe| recipe.plan(written).ok());
    let sparsities = plan.iter().flat_map(Plan::sparsities);
    sparsities.map(|(name, sparsity)| (name.to_owned(), sparsity)).collect()
}

fn check_alone(written: &Checkpoint, source: &Source, sparsity: Option<&Sparsity>) -> TensorCheck {
    let [rows, cols] = source.rows_cols();
    let float = cols > 0 && !matches!(&source.stored, Stored::Dense(raw) if !raw.dtype.is_float());
    let size = (CHUNK_ELEMENTS / cols.max(1)).max(1);
    let mut found = NonFinite::default();
    let (mut failure, mut tally) = (None, Tally::default());
    let mut values = Vec::new();
    for start in (0..if float { rows } else { 0 }).step_by(size) {
        let range = start..(start + size).min(rows);
        values.resize(range.len() * cols, 0.0);
        match written.read_rows(source, range.clone(), &mut values) {
            Ok(()) => {
                found.add(NonFinite::count(&values));
                tally.add(sparsity.map_or_else(Tally::default, |it| it.tally(&values, cols, range.start)));
            }
            Err(error) => failure = Some(error.to_string()),
        }
        written.release(source, range);
    }
    if !found.none() {
        failure = Some(format!("{} NaN and {} infinities", found.nan, found.inf));
    }
    let failure = failure.or_else(|| sparsity?.fault(&tally, [rows, cols]));
    TensorCheck { name: source.name.clone(), stored: source.stored_as(), failure, ..TensorCheck::default() }
}

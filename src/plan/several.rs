//! Several formats of one run: the stages of the primary plan compute codes once, and the companions store these codes.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::numerics::{Granularity, Number, Scheme};
use crate::recipe::PerFormat;

use super::resolved::Plan;
use super::tensors::{Action, TensorPlan};

/// Compares the companions with the primary plan, whose recipe is carried out block by block. Their linears must have the same
/// schemes, except for the type of scales. If the primary's stages edit no dense weights, a companion without stages rounds
/// by itself; its linears are marked as substituted.
///
/// # Errors
/// A linear with different schemes in two plans, if calibration computes only one of them.
pub(crate) fn agree(plans: &mut PerFormat<Plan>) -> Result<()> {
    let PerFormat { primary: first, companions: others } = plans;
    let changes = first.request.edits();
    if first.request.only_rows() {
        return Ok(()); // every format rounds its rows by itself, with the same method
    }
    for other in others {
        match other.request.recipe.stages == first.request.recipe.stages || changes {
            true => compare(first, other, changes)?,
            false => mark(first, other),
        }
    }
    Ok(())
}

/// The scheme of each linear, by the name of its source; `None` if it stays dense.
fn linears(plan: &Plan) -> BTreeMap<&str, Option<Scheme>> {
    let of_step = |tensor: &'_ TensorPlan| match tensor.action {
        Action::Quantize(scheme) => Some(scheme),
        Action::Store(_) => None,
    };
    let tensors = plan.tensors.iter().filter(|tensor| tensor.linear);
    let sources = |tensor| TensorPlan::sources(tensor).map(move |source| (source, of_step(tensor)));
    tensors.flat_map(sources).collect()
}

/// Compares the linears of two plans. A companion may store a linear dense if the primary's stages edit (`changes`) no dense
/// weights: it reads that linear from the input.
fn compare(first: &Plan, other: &Plan, changes: bool) -> Result<()> {
    let theirs = linears(other);
    for (name, made) in linears(first) {
        let stored = theirs.get(name).copied().flatten();
        let same = match (made, stored) {
            (Some(made), Some(stored)) => Scheme { scale: made.scale, ..stored } == made,
            (None, None) => true,
            (Some(_), None) => !changes,
            (None, Some(_)) => false,
        };
        if !same {
            return Err(differ(name, [(first, made), (other, stored)]));
        }
    }
    Ok(())
}

fn differ(name: &str, plans: [(&Plan, Option<Scheme>); 2]) -> Error {
    let [one, two] = plans.map(|(plan, scheme)| {
        let becomes = scheme.map_or("dense".to_owned(), |scheme| scheme.to_string());
        format!("{becomes} in {}", plan.request.format.name())
    });
    let methods = plans[0].0.request.recipe.method_names();
    let what = format!("one run of {methods} makes one of these: {name} becomes {one}, {two}");
    let common = common(plans.map(|(_, scheme)| scheme));
    let common = common.map_or(String::new(), |flags| format!(", or take {flags} for all"));
    Error::usage(what, format!("make each in a run of its own{common}"))
}

/// Flags with which both plans have the same scheme: the smaller groups, or those of GGUF's blocks of plain integers.
fn common([one, two]: [Option<Scheme>; 2]) -> Option<String> {
    let group = |scheme: Scheme| match (scheme.number, scheme.granularity) {
        (Number::Int { .. }, Granularity::Group(size)) => Some(size),
        _ => None,
    };
    let blocks = |scheme: Scheme| matches!(scheme.number, Number::Ggml(_));
    match (one.and_then(group), two.and_then(group)) {
        (Some(_), None) if two.is_some_and(blocks) => Some("--symmetric --group-size 32".to_owned()),
        (one, two) => one.into_iter().chain(two).min().map(|size| format!("--group-size {size}")),
    }
}

fn mark(first: &Plan, other: &mut Plan) {
    let (methods, format) = (first.request.recipe.method_names(), other.request.format.name());
    let asked = first.request.scheme.map_or(String::new(), |scheme| scheme.to_string());
    for tensor in other.tensors.iter_mut().filter(|tensor| tensor.linear) {
        let Action::Quantize(scheme) = tensor.action else { continue };
        let why = format!("{scheme} without {methods}: {format} does not hold {asked}");
        tensor.note = Some(tensor.note.take().map_or(why.clone(), |note| format!("{note}; {why}")));
        tensor.substituted = true;
    }
}

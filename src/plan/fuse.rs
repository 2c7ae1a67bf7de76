//! Linears that engines run as one: q, k and v, gate and up, the experts of a layer. Such tensors must be stored alike, and
//! those that become one matrix share everything that is stored once per tensor. Tensors that the user excludes stay
//! excluded.

use std::collections::HashMap;

use super::roles::Roles;
use super::tensors::{Action, TensorPlan};
use crate::numerics::{Granularity, Number, Scheme};

/// Numbers the quantized tensors that become one matrix, for [`TensorPlan::fused`].
pub(crate) fn link(tensors: &mut [TensorPlan], roles: &Roles) {
    let mut groups: HashMap<String, usize> = HashMap::new();
    for tensor in tensors.iter_mut().filter(|tensor| matches!(tensor.action, Action::Quantize(_))) {
        let Some(piece) = tensor.output.pieces.first() else { continue };
        if let Some(group) = roles.fused_group(&piece.source) {
            let next = groups.len();
            tensor.fused = Some(*groups.entry(group).or_insert(next));
        }
    }
}

/// The common form of a group's members: a scheme, or `None` for dense.
#[derive(Debug, Clone)]
pub(crate) struct CommonForm {
    /// The scheme.
    pub scheme: Option<Scheme>,
    /// The reason, for the plan's notes.
    pub why: String,
}

/// Finds the groups that the format has divided: the indices of their members, and the form that all must take.
pub(crate) fn divided(tensors: &[TensorPlan], roles: &Roles) -> Vec<(Vec<usize>, CommonForm)> {
    let groups = engine_groups(tensors, roles).into_values();
    groups.filter_map(|members| Some((members.clone(), common(tensors, &members)?))).collect()
}

/// Adds a note to excluded tensors whose group is quantized: engines may not load the result.
pub(crate) fn note_excluded(tensors: &mut [TensorPlan], roles: &Roles) {
    let quantized: HashMap<String, String> = engine_groups(tensors, roles)
        .into_iter()
        .filter_map(|(group, members)| {
            let mut members = members.into_iter().map(|index| &tensors[index]);
            let member = members.find(|tensor| matches!(tensor.action, Action::Quantize(_)))?;
            Some((group, member.output.name.clone()))
        })
        .collect();
    let excluded = |tensor: &&mut TensorPlan| {
        tensor.linear && !tensor.substituted && matches!(tensor.action, Action::Store(_))
    };
    for tensor in tensors.iter_mut().filter(excluded) {
        if let Some(name) = group_of(tensor, roles).and_then(|group| quantized.get(&group)) {
            tensor.note = Some(format!("excluded; engines that fuse it with {name} may not load it so"));
        }
    }
}

fn group_of(tensor: &TensorPlan, roles: &Roles) -> Option<String> {
    tensor.output.pieces.first().and_then(|piece| roles.engine_group(&piece.source))
}

/// Returns the tensors that a scheme was requested for, by the kernel that they share. llama.cpp, which reads block types,
/// fuses none.
fn engine_groups(tensors: &[TensorPlan], roles: &Roles) -> HashMap<String, Vec<usize>> {
    let mut groups: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let asked = match tensor.action {
            Action::Quantize(scheme) => !matches!(scheme.number, Number::Ggml(_)),
            Action::Store(_) => tensor.substituted,
        };
        if let (true, Some(group)) = (asked, group_of(tensor, roles)) {
            groups.entry(group).or_default().push(index);
        }
    }
    groups
}

/// Returns the form of the member that the format changed most: dense, then a scale per row, then the smallest group. `None`
/// where all are alike.
fn common(tensors: &[TensorPlan], members: &[usize]) -> Option<CommonForm> {
    let member = |&index: &usize| &tensors[index];
    let least = members.iter().map(member).min_by_key(|tensor| rank(&tensor.action))?;
    if members.iter().map(member).all(|tensor| rank(&tensor.action) == rank(&least.action)) {
        return None;
    }
    let why = format!("as {}, with which engines fuse it", least.output.name);
    let Action::Quantize(scheme) = least.action else { return Some(CommonForm { scheme: None, why }) };
    let divides = |size| members.iter().map(member).all(|tensor| tensor.rows_cols()[1].is_multiple_of(size));
    Some(match scheme.granularity {
        Granularity::Group(size) if !divides(size) => CommonForm {
            scheme: Some(Scheme { granularity: Granularity::Channel, ..scheme }),
            why: "no group divides the columns of all that engines fuse it with: one scale per row".into(),
        },
        _ => CommonForm { scheme: Some(scheme), why },
    })
}

fn rank(action: &Action) -> usize {
    match action {
        Action::Store(_) => 0,
        Action::Quantize(scheme) => match scheme.granularity {
            Granularity::Channel | Granularity::Tensor => 1,
            Granularity::Group(size) => size.saturating_add(1),
            Granularity::Block(..) => usize::MAX,
        },
    }
}

//! What engines run as one: q, k and v, gate and up, the experts of a layer. Such tensors must be stored alike, and those
//! that become one matrix share what is stored once a tensor. What the user excludes stays as the user says.

use std::collections::HashMap;

use super::roles::{engine_group, fused_group};
use super::{Action, Planner, Step};
use crate::error::Result;
use crate::numerics::{Granularity, Number, Scheme};

/// Numbers the quantized steps that become one matrix, for [`Step::fused`].
pub fn link(steps: &mut [Step]) {
    let mut groups: HashMap<String, usize> = HashMap::new();
    for step in steps.iter_mut().filter(|step| matches!(step.action, Action::Quantize(_))) {
        let Some(piece) = step.output.pieces.first() else { continue };
        if let Some(group) = fused_group(&piece.source) {
            let next = groups.len();
            step.fused = Some(*groups.entry(group).or_insert(next));
        }
    }
}

/// What all of a group become: `None` for dense.
struct Common {
    scheme: Option<Scheme>,
    why: String,
}

impl Planner<'_> {
    /// Where the format has set one member of an engine's group apart, the others follow it.
    pub(super) fn align_fused(&self, steps: &mut [Step]) -> Result<()> {
        for members in engine_groups(steps).into_values() {
            let Some(common) = common(steps, &members) else { continue };
            members.into_iter().try_for_each(|index| self.follow(&mut steps[index], &common))?;
        }
        note_excluded(steps);
        Ok(())
    }

    fn follow(&self, step: &mut Step, common: &Common) -> Result<()> {
        let action = match common.scheme {
            Some(scheme) => Action::Quantize(scheme),
            None => self.store(&step.output, self.source(&step.output)?),
        };
        if step.action != action {
            (step.parts, step.measured) = self.parts(&step.output, &action);
            step.action = action;
            step.note = Some(common.why.clone());
            step.substituted = true;
        }
        Ok(())
    }
}

/// The user's word stands where it divides a group, but engines may not take the result.
fn note_excluded(steps: &mut [Step]) {
    let quantized: HashMap<String, String> = engine_groups(steps)
        .into_iter()
        .filter_map(|(group, members)| {
            let mut members = members.into_iter().map(|index| &steps[index]);
            let member = members.find(|step| matches!(step.action, Action::Quantize(_)))?;
            Some((group, member.output.name.clone()))
        })
        .collect();
    let excluded =
        |step: &&mut Step| step.linear && !step.substituted && matches!(step.action, Action::Store(_));
    for step in steps.iter_mut().filter(excluded) {
        if let Some(name) = group_of(step).and_then(|group| quantized.get(&group)) {
            step.note = Some(format!("excluded; engines that fuse it with {name} may not load it so"));
        }
    }
}

fn group_of(step: &Step) -> Option<String> {
    step.output.pieces.first().and_then(|piece| engine_group(&piece.source))
}

/// The steps that a scheme was asked for, by the kernel that they share. llama.cpp, which reads block types, fuses none.
fn engine_groups(steps: &[Step]) -> HashMap<String, Vec<usize>> {
    let mut groups: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, step) in steps.iter().enumerate() {
        let asked = match step.action {
            Action::Quantize(scheme) => !matches!(scheme.number, Number::Ggml(_)),
            Action::Store(_) => step.substituted,
        };
        if let (true, Some(group)) = (asked, group_of(step)) {
            groups.entry(group).or_default().push(index);
        }
    }
    groups
}

/// The least that a member was brought down to: dense, then a scale per row, then the smallest group. `None` where they
/// are alike.
fn common(steps: &[Step], members: &[usize]) -> Option<Common> {
    let member = |&index: &usize| &steps[index];
    let least = members.iter().map(member).min_by_key(|step| rank(&step.action))?;
    if members.iter().map(member).all(|step| rank(&step.action) == rank(&least.action)) {
        return None;
    }
    let why = format!("as {}, with which engines fuse it", least.output.name);
    let Action::Quantize(scheme) = least.action else { return Some(Common { scheme: None, why }) };
    let divides = |size| members.iter().map(member).all(|step| step.rows_cols()[1].is_multiple_of(size));
    Some(match scheme.granularity {
        Granularity::Group(size) if !divides(size) => Common {
            scheme: Some(Scheme { granularity: Granularity::Channel, ..scheme }),
            why: "no group divides the columns of all that engines fuse it with: one scale per row".into(),
        },
        _ => Common { scheme: Some(scheme), why },
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

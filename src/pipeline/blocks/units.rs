//! The stages of a recipe in groups: all stages of a group work on one part of a block before any works on the next part.

use crate::stage::{Scope, Stage};
use crate::statistics::Needs;

/// A stage, and the compensating stages that follow it: these correct the error of each part of a block before any later
/// linear reads its outputs.
#[derive(Debug)]
pub(crate) struct Group {
    /// The part of the block that is worked on at a time.
    pub scope: Scope,
    /// The first stage.
    pub first: Stage,
    /// The compensating stages after it.
    pub rest: Vec<Stage>,
}

impl Group {
    /// Groups the stages of a recipe.
    pub(crate) fn all(stages: &[Stage]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for stage in stages {
            match (stage, groups.last_mut()) {
                (Stage::Compensate(_), Some(group)) => group.rest.push(stage.clone()),
                _ => groups.push(Group { scope: stage.scope(), first: stage.clone(), rest: Vec::new() }),
            }
        }
        // Rows are quantized as they are written only if no other stage follows.
        for group in &mut groups {
            if group.scope == Scope::Rows
                && !(group.rest.is_empty() && matches!(group.first, Stage::Quantize(_)))
            {
                group.scope = Scope::Input;
            }
        }
        groups
    }

    /// Returns true if its quantizing stage takes the importance of columns.
    pub(crate) fn weighs_columns(&self) -> bool {
        matches!(&self.first, Stage::Quantize(method) if method.scope() == Scope::Rows)
    }

    /// The statistics that its stages read.
    pub(crate) fn needs(&self) -> Needs {
        let own = if self.weighs_columns() { Needs::IMPORTANCE } else { Needs::default() };
        let stages = std::iter::once(&self.first).chain(&self.rest);
        stages.fold(own, |needs, stage| needs.union(stage.needs()))
    }
}

//! The stages of a recipe in groups: all stages of a group work on one part of a block before any works on the next part.

use crate::stage::{Scope, Stage};
use crate::statistics::Needs;

/// A stage, and those that follow it on each part of a block before any later linear reads its outputs: compensating stages, and
/// the quantizing stage after one that prunes, which takes the same statistics.
#[derive(Debug)]
pub(crate) struct Group {
    /// The part of the block that is worked on at a time.
    pub scope: Scope,
    /// The first stage.
    pub first: Stage,
    /// The stages after it.
    pub rest: Vec<Stage>,
}

impl Group {
    /// Groups the stages of a recipe.
    pub(crate) fn all(stages: &[Stage]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for stage in stages {
            match groups.last_mut() {
                Some(group) if group.takes(stage) => group.rest.push(stage.clone()),
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

    /// Returns true if a stage works on each part right behind those of this group.
    fn takes(&self, stage: &Stage) -> bool {
        match stage {
            Stage::Compensate(_) => true,
            Stage::Quantize(method) => {
                matches!(self.first, Stage::Prune(_)) && [self.scope, method.scope()] == [Scope::Input; 2]
            }
            _ => false,
        }
    }

    /// Returns true if its quantizing stage takes the importance of columns.
    pub(crate) fn weighs_columns(&self) -> bool {
        matches!(&self.first, Stage::Quantize(method) if method.scope() == Scope::Rows)
    }

    /// Its stages in order.
    pub(crate) fn stages(&self) -> impl Iterator<Item = &Stage> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Returns true if its linears have codes in the end.
    pub(crate) fn quantizes(&self) -> bool {
        self.stages().any(|stage| matches!(stage, Stage::Quantize(_)))
    }

    /// Returns true if it fits the last linear of each block to the original model's states.
    pub(crate) fn corrects(&self) -> bool {
        self.first.corrects()
    }

    /// The statistics that its stages read.
    pub(crate) fn needs(&self) -> Needs {
        let own = if self.weighs_columns() { Needs::IMPORTANCE } else { Needs::default() };
        self.stages().fold(own, |needs, stage| needs.union(stage.needs()))
    }
}

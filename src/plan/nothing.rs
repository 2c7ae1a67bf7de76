//! Plans that cannot be meant: nothing takes the scheme, or the group size. They are refused, with the reasons and with what
//! would do.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::format::{Admission, KERNEL_GROUPS};
use super::resolved::Plan;
use super::tensors::{Action, TensorPlan};
use crate::error::{Error, Result};
use crate::numerics::presets::{self, PRESETS};

/// Reasons that a message lists; the rest is counted.
const SHOWN: usize = 3;
/// The schemes to recommend where the format holds them, the most common first.
const COMMON: [&str; 4] = ["w4a16", "w8a16", "fp8", "w8a8"];

impl Plan {
    /// Refuses a group size that divides the columns of no tensor, unless it is one that kernels know: their next smaller one is
    /// near to what was asked.
    pub(super) fn refuse_unfit_group(&self) -> Result<()> {
        let asked = self.request.recipe.group_size.filter(|size| *size > 0 && !KERNEL_GROUPS.contains(size));
        let Some(asked) = asked.filter(|_| self.request.scheme.is_some()) else { return Ok(()) };
        let is_meant =
            |tensor: &&TensorPlan| matches!(tensor.action, Action::Quantize(_)) || tensor.substituted;
        let columns: BTreeSet<usize> =
            self.tensors.iter().filter(is_meant).map(|tensor| tensor.rows_cols()[1]).collect();
        if columns.is_empty() || columns.iter().any(|columns| columns.is_multiple_of(asked)) {
            return Ok(());
        }
        let fitting =
            KERNEL_GROUPS.iter().find(|size| columns.iter().all(|cols| cols.is_multiple_of(**size)));
        let listed: Vec<String> = columns.iter().map(usize::to_string).collect();
        let what = format!(
            "a group size of {asked} fits no tensor of this model: columns are {}",
            listed.join(", ")
        );
        let hint = fitting.map_or("--group-size 0 gives every row one scale".to_owned(), |size| {
            format!("--group-size {size} fits all of them")
        });
        Err(Error::usage(what, hint))
    }

    /// Refuses schemes without a code for zero where a stage prunes.
    pub(super) fn refuse_zeroless(&self) -> Result<()> {
        let is_zeroless = |tensor: &&TensorPlan| match tensor.action {
            Action::Quantize(scheme) => tensor.sparsity.is_some() && !scheme.has_zero(),
            Action::Store(_) => false,
        };
        let Some(tensor) = self.tensors.iter().find(is_zeroless) else { return Ok(()) };
        let what = format!(
            "{}: {} has no code for zero, so that what is pruned would not stay zero",
            tensor.output.name, tensor.action
        );
        Err(Error::usage(what, "integers and floats have one, and q4_0, q5_0, q8_0, q3_k and q6_k"))
    }

    /// Refuses the plan where a scheme is asked for and no tensor takes it.
    pub(super) fn refuse_nothing(&self) -> Result<()> {
        if self.request.sparsity().is_some() && self.tensors.iter().all(|tensor| tensor.sparsity.is_none()) {
            let what =
                format!("none of the {} tensors of this checkpoint is pruned by rule", self.tensors.len());
            return Err(Error::unsupported(what, "`llmc inspect` lists them"));
        }
        let any = self.tensors.iter().any(|tensor| matches!(tensor.action, Action::Quantize(_)));
        if self.request.scheme.is_none() || any {
            return Ok(());
        }
        let refused: Vec<&TensorPlan> = self.tensors.iter().filter(|tensor| tensor.substituted).collect();
        if refused.is_empty() {
            let what =
                format!("none of the {} tensors of this checkpoint is quantized by rule", self.tensors.len());
            let hint = "`llmc inspect` lists them; --include takes globs of those that you want";
            return Err(Error::unsupported(what, hint));
        }
        let what = format!(
            "{} holds none of the {} linears: {}",
            self.request.format.name(),
            refused.len(),
            reasons(&refused)
        );
        Err(Error::unsupported(what, self.what_would_do(&refused)))
    }

    fn what_would_do(&self, refused: &[&TensorPlan]) -> String {
        let holds = |name: &&str| {
            let preset = presets::find(name);
            preset.is_some_and(|preset| refused.iter().any(|tensor| self.would_hold(preset, tensor)))
        };
        let mut names: Vec<&str> = COMMON.into_iter().filter(holds).collect();
        if names.is_empty() {
            names = PRESETS.iter().map(|preset| preset.name).filter(holds).take(SHOWN).collect();
        }
        let format = self.request.format.name();
        if names.is_empty() {
            let others = "compressed-tensors takes integers and FP8 matrices of any shape";
            return format!("no scheme of {format} takes these shapes; another --format may ({others})");
        }
        format!("{format} takes these shapes with --scheme {}", names.join(", "))
    }

    fn would_hold(&self, preset: &presets::Preset, tensor: &TensorPlan) -> bool {
        let admitted = self.request.format.admit(&preset.scheme, &tensor.output.shape, self.dtype);
        matches!(admitted, Admission::As(_) | Admission::Instead(..))
    }
}

/// The reasons, each with the number of linears that it holds for.
fn reasons(refused: &[&TensorPlan]) -> String {
    let mut counts: IndexMap<&str, usize> = IndexMap::new();
    for note in refused.iter().filter_map(|tensor| tensor.note.as_deref()) {
        *counts.entry(note.strip_prefix("left dense: ").unwrap_or(note)).or_default() += 1;
    }
    let listed = counts.iter().take(SHOWN).map(|(why, count)| format!("{why} ({count})"));
    let mut listed: Vec<String> = listed.collect();
    if counts.len() > SHOWN {
        listed.push(format!("{} more reasons", counts.len() - SHOWN));
    }
    listed.join("; ")
}

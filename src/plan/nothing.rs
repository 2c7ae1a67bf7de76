//! A plan that quantizes nothing although a scheme is asked for: refused, with the reasons and with what would do.

use indexmap::IndexMap;

use super::format::Admission;
use super::resolved::Plan;
use super::tensors::{Action, TensorPlan};
use crate::error::{Error, Result};
use crate::numerics::presets::{self, PRESETS};

/// Reasons that a message lists; the rest is counted.
const SHOWN: usize = 3;
/// The schemes to recommend where the format holds them, the most common first.
const COMMON: [&str; 4] = ["w4a16", "w8a16", "fp8", "w8a8"];

impl Plan {
    /// Refuses the plan where a scheme is asked for and no tensor takes it.
    pub(super) fn refuse_nothing(&self) -> Result<()> {
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

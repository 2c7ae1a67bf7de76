//! The report of a plan: its tensors, and the memory, disk and time that it takes.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration};
use serde_json::{Value, json};

use crate::error::Result;
use crate::io::Checkpoint;
use crate::pipeline::{self, Estimate};
use crate::plan::Plan;

/// A plan and its estimated cost.
pub(crate) struct PlanReport<'a> {
    plan: &'a Plan,
    threads: usize,
    /// Calibration tokens, if the recipe has calibration.
    tokens: Option<usize>,
    estimate: Option<Estimate>,
}

impl PlanReport<'_> {
    /// Estimates the cost of a plan.
    pub(crate) fn new<'a>(plan: &'a Plan, checkpoint: &Arc<Checkpoint>) -> Result<PlanReport<'a>> {
        let threads = rayon::current_num_threads();
        let calibration = plan.request.recipe.calibration.as_ref();
        let tokens = calibration.map(|calibration| match calibration.statistics.is_empty() {
            true => calibration.samples.saturating_mul(calibration.seq_len),
            false => 0,
        });
        let estimate =
            tokens.map(|tokens| pipeline::estimate(plan, checkpoint, tokens, threads)).transpose()?;
        Ok(PlanReport { plan, threads, tokens, estimate })
    }

    fn memory(&self) -> u64 {
        self.estimate.map_or_else(|| pipeline::peak_memory(self.plan, self.threads), |cost| cost.memory)
    }

    fn calibration(&self) -> Option<String> {
        let Estimate { disk, seconds, .. } = self.estimate?;
        Some(format!(
            "calibration on {} tokens: about {} for hidden states beside the output, about {}{}\n",
            self.tokens.unwrap_or_default(),
            HumanBytes(disk),
            HumanDuration(Duration::from_secs_f64(seconds)),
            if self.plan.request.trains() { ", and what training takes" } else { "" },
        ))
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        format!(
            "{}{}peak memory about {} besides the mapped input, threads: {}\n",
            self.plan.table(),
            self.calibration().unwrap_or_default(),
            HumanBytes(self.memory()),
            self.threads,
        )
    }

    /// The report for machines.
    pub(crate) fn json(&self) -> Value {
        let mut value = self.plan.json();
        value["peak_memory"] = json!(self.memory());
        if let Some(Estimate { disk, seconds, .. }) = self.estimate {
            value["hidden_states"] = json!(disk);
            value["estimated_seconds"] = json!(seconds);
        }
        value
    }
}

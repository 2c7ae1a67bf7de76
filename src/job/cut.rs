//! One cut of a model: its measurement, and what it leaves in words.

use std::path::PathBuf;
use std::sync::Arc;

use super::budget::Run;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::Sizes;
use crate::pipeline::{self, ShapeSurvey};
use crate::recipe::Surgery;

/// Measures what stays of a model. Returns it with the files of corrected weights.
///
/// # Errors
/// Whatever measuring meets.
pub(crate) fn survey_on(
    survey: &ShapeSurvey,
    checkpoint: &Checkpoint,
    run: &Run,
) -> Result<(Surgery, Vec<PathBuf>)> {
    let checkpoint = Arc::new(checkpoint.clone());
    run.measure(|options| pipeline::survey_shape(survey, &checkpoint, options))
}

/// The parts of a cut model that stay, in words: `27 of 30 layers, 92.1 % of 134515008 weights`. `None` of a whole one.
pub(crate) fn stays(checkpoint: &Checkpoint) -> Option<String> {
    let whole = checkpoint.whole.as_ref()?;
    let sizes = checkpoint.sizes().ok()?;
    let first = |counts: &[Option<usize>]| counts.iter().copied().flatten().next().unwrap_or(0);
    let counts = |sizes: &Sizes| {
        let Sizes { layers, heads, hidden, vocabulary, channels, expert_channels, experts, .. } = sizes;
        let [channels, expert_channels, experts] = [channels, expert_channels, experts].map(|it| first(it));
        [*layers, *heads, channels, expert_channels, experts, *hidden, *vocabulary]
    };
    let stream = "columns of the residual stream";
    let names = ["layers", "heads", "channels", "channels of each expert", "experts", stream, "tokens"];
    let pairs = counts(&sizes).into_iter().zip(counts(&whole.sizes)).zip(names);
    let parts = pairs.filter(|((now, before), _)| now != before);
    let mut parts: Vec<String> =
        parts.map(|((now, before), name)| format!("{now} of {before} {name}")).collect();
    let share = 100.0 * checkpoint.weights() as f64 / whole.weights.max(1) as f64;
    parts.push(format!("{share:.1} % of {} weights", whole.weights));
    Some(parts.join(", "))
}

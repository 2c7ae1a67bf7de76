//! Calibration sequences, with progress while the model writes its own.

use std::path::Path;
use std::sync::Arc;

use indicatif::ProgressBar;

use super::host::{Host, Phase};
use crate::calib::Samples;
use crate::calib::data::{KeptText, Watch};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::pipeline;
use crate::recipe::Calibration;

/// The file in the partial output that keeps the text of a model that writes its own; `None` for another text. `weights` is the
/// digest of the model's weights.
///
/// # Errors
/// A partial output that cannot be made.
pub(crate) fn kept_text(
    calibration: &Calibration,
    output: &Path,
    resume: bool,
    checkpoint: &Checkpoint,
    weights: &str,
) -> Result<Option<KeptText>> {
    let kept = |path| KeptText { path, model: pipeline::model_digest(checkpoint, weights) };
    calibration.writes_own().then(|| pipeline::own_text(output, resume).map(kept)).transpose()
}

/// Makes the calibration sequences. `kept` is the file of the text that the model writes itself.
///
/// # Errors
/// Text that is missing or too short; whatever the model meets when it writes its own.
pub(crate) fn samples(
    calibration: &Calibration,
    checkpoint: &Arc<Checkpoint>,
    kept: Option<KeptText>,
    host: &dyn Host,
) -> Result<Samples> {
    let all = calibration.samples.saturating_mul(calibration.seq_len);
    let bar =
        if calibration.writes_own() { host.bar(Phase::OwnText, all as u64) } else { ProgressBar::hidden() };
    let progress = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        pipeline::fault::point("own text written");
    };
    let watch = Watch { interrupted: host.interrupted(), progress: &progress, kept };
    let samples = calibration.sequences(checkpoint, &watch)?;
    bar.finish_and_clear();
    tracing::info!(sequences = samples.sequences.len(), tokens = samples.tokens(), "calibration set");
    Ok(samples)
}

//! Calibration sequences, with progress while the model writes its own.

use std::sync::Arc;

use super::host::{Host, Phase};
use crate::calib::Samples;
use crate::calib::data::Watch;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::recipe::Calibration;

/// Makes the calibration sequences.
///
/// # Errors
/// Text that is missing or too short; whatever the model meets when it writes its own.
pub(crate) fn samples(
    calibration: &Calibration,
    checkpoint: &Arc<Checkpoint>,
    host: &dyn Host,
) -> Result<Samples> {
    let bar = host.bar(Phase::OwnText, 0);
    let progress = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let watch = Watch { interrupted: host.interrupted(), progress: &progress };
    let samples = calibration.sequences(checkpoint, &watch)?;
    bar.finish_and_clear();
    tracing::info!(sequences = samples.sequences.len(), tokens = samples.tokens(), "calibration set");
    Ok(samples)
}

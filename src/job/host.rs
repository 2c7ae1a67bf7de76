//! The program around a job: it opens models, shows progress, and may stop the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;

use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::pipeline::Event;
use crate::plan::Plan;

/// A kind of work that has a progress bar. Its unit is in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Outputs are written \[bytes of input\].
    Writing,
    /// Decoder blocks are calibrated and compressed \[blocks\].
    Blocks,
    /// The errors of schemes are measured, for a budget \[blocks\].
    Measuring,
    /// The model writes its own calibration text \[tokens\].
    OwnText,
    /// An output is verified \[bytes of input\].
    Verifying,
    /// Windows of a text are scored \[windows\].
    Scoring,
    /// Texts are embedded \[texts\].
    Embedding,
    /// Kernels are checked \[checks\].
    Checking,
    /// Questions of a benchmark are answered \[questions\].
    Answering,
}

/// A message of a job to the user, beside its result.
pub enum Notice<'a> {
    /// Something that the user should know, and may want to change.
    Warning(String),
    /// Something that the user may find useful.
    Note(String),
    /// Progress inside the block loop.
    Block(&'a Event<'a>),
    /// A plan with substitutions that `strict` refuses. The job's error follows.
    Refused(&'a Plan, &'a Arc<Checkpoint>),
}

/// The program that runs a job. The defaults open models as `llmc` does, show nothing, and never stop.
pub trait Host: Sync {
    /// A flag that stops the job when it is set.
    fn interrupted(&self) -> &AtomicBool {
        static NEVER: AtomicBool = AtomicBool::new(false);
        &NEVER
    }

    /// Opens a model: a path or a hub id.
    fn open(&self, model: &str) -> Result<Checkpoint> {
        Checkpoint::open(model)
    }

    /// Makes the progress bar of a phase of `total` units.
    fn bar(&self, _phase: Phase, _total: u64) -> ProgressBar {
        ProgressBar::hidden()
    }

    /// Takes a message.
    fn notify(&self, _notice: &Notice) {}

    /// Ends the job if the flag is set.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    fn check_interrupted(&self) -> Result<()> {
        if self.interrupted().load(Ordering::Relaxed) {
            Err(Error::Interrupted { hint: "nothing was written".into() })
        } else {
            Ok(())
        }
    }
}

/// A host that shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Host for Silent {}

/// The name of a linear within its block: `mlp.down_proj` of `model.layers.7.mlp.down_proj.weight`.
fn within_block(name: &str) -> &str {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let parts = name.split('.').scan(0, |end, part| {
        let start = *end;
        *end += part.len() + 1;
        Some((start, part))
    });
    let mut behind_number = parts.skip_while(|(_, part)| part.parse::<usize>().is_err()).skip(1);
    behind_number.next().map_or(name, |(start, _)| &name[start..])
}

/// Passes an event of the block loop on: to the bar, and to the host.
pub(crate) fn advance(event: &Event, bar: &ProgressBar, host: &dyn Host) {
    match event {
        Event::Start { done, of } => {
            bar.set_length(*of as u64);
            bar.set_position(*done as u64);
            bar.reset_elapsed();
        }
        Event::Linear { linear, .. } => {
            let error = linear.compensated_error.or(linear.relative_error);
            let error = error.map_or(String::new(), |error| format!("{:.2} %", 100.0 * error));
            tracing::info!(linear = linear.name, scheme = linear.scheme, error, "quantized");
            bar.set_message(format!("{}: error {error}", within_block(linear.name.as_str())));
        }
        Event::Block { index, .. } => bar.set_position(*index as u64 + 1),
    }
    host.notify(&Notice::Block(event));
}

#[cfg(test)]
mod tests {
    use super::within_block;

    #[test]
    fn a_linear_is_named_within_its_block() {
        assert_eq!(within_block("model.layers.7.mlp.down_proj.weight"), "mlp.down_proj");
        assert_eq!(within_block("h.0.mlp.experts.3.w1.weight"), "mlp.experts.3.w1");
        assert_eq!(within_block("lm_head.weight"), "lm_head");
    }
}

//! Progress and interruption of a model that writes its own text.

use std::sync::atomic::{AtomicBool, Ordering};

use super::kept::KeptText;
use crate::error::{Error, Result};

/// The watcher of a model that writes its own text.
pub struct Watch<'a> {
    /// A flag that stops the work when it is set.
    pub interrupted: &'a AtomicBool,
    /// Receives the number of tokens written so far, and of all tokens to write.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
    /// The file that keeps the text for a run that goes on.
    pub kept: Option<KeptText>,
}

impl Watch<'_> {
    /// Reports progress.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the flag is set.
    pub(super) fn written(&self, tokens: usize, of: usize) -> Result<()> {
        (self.progress)(tokens, of);
        match self.interrupted.load(Ordering::Relaxed) {
            true => {
                let hint = match self.kept {
                    Some(_) => "run the same command again: it goes on from the text so far",
                    None => "nothing was kept: run the same command again",
                };
                Err(Error::Interrupted { hint: hint.into() })
            }
            false => Ok(()),
        }
    }
}

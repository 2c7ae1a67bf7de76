//! Checks of the files that evaluations write.

use std::path::Path;

use crate::engine::LanguageModel;
use crate::error::{Error, Result};

/// Refuses to write over the weights of the model that is measured.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage).
pub(crate) fn refuse_weights(output: &Path, model: &LanguageModel) -> Result<()> {
    let place = |path: &Path| path.canonicalize().ok();
    let Some(output_place) = place(output) else { return Ok(()) };
    let mut files = model.checkpoint().files.iter();
    if files.any(|file| place(file.path()).is_some_and(|file| file == output_place)) {
        return Err(Error::usage(
            format!("{}: holds the weights of the model that is measured", output.display()),
            "write to another file",
        ));
    }
    Ok(())
}

//! Temporary files that replace their target when complete.

use std::fs::File;
use std::io::{BufWriter, IntoInnerError, Result};
use std::path::Path;

use tempfile::TempPath;

use crate::io::folder_of;

/// Syncs a temporary file, renames it to `target`, and syncs the folder.
pub(super) fn persist(file: BufWriter<File>, temporary: TempPath, target: &Path) -> Result<()> {
    file.into_inner().map_err(IntoInnerError::into_error)?.sync_all()?;
    temporary.persist(target)?;
    if cfg!(unix) {
        File::open(folder_of(target))?.sync_all()?;
    }
    Ok(())
}

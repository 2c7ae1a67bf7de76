//! Files of llmc's own that are no checkpoints: where what is kept for later runs lies, and how results begin.

use std::env;
use std::path::{Path, PathBuf};

use tempfile::Builder;

/// The folder for later runs: `$XDG_CACHE_HOME/llmc`, or `~/.cache/llmc`; `None` without a home.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let caches = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    Some(caches.or_else(|| Some(env::home_dir()?.join(".cache")))?.join("llmc"))
}

/// The folder that a file is in; that of a bare name is the current one.
pub(crate) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The free space in bytes on the disk of a path, which need not exist yet; `None` if the system does not report it.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let found = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    #[cfg(unix)]
    return rustix::fs::statvfs(found).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    #[cfg(not(unix))]
    return None;
}

/// Temporary files are their owner's alone where nothing else is said; results are as other files are.
pub(crate) fn readable_by_all() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(".partial-");
    builder
}

//! The crate's error type. A message names the file and the tensor, the expected value and the found one; a hint tells
//! the user how to fix it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::similar;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The name of a model's settings, as errors have it before they know its folder.
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
/// The name of a model's weights, likewise.
pub(crate) const CHECKPOINT: &str = "the checkpoint";
/// The hint for settings of a GGUF.
const GGUF_SETTINGS: &str = "the settings in the GGUF's metadata are damaged, or of another model: get the file again, or convert \
                             the model again";

/// An error, by cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a read, a write or a rename.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
        /// Advice for the user.
        hint: Option<String>,
    },
    /// An input breaks the rules of its format.
    #[error("{}: {}expected {expected}, found {found}", file.display(), tensor_prefix(tensor))]
    Malformed {
        /// The input file.
        file: PathBuf,
        /// The tensor, key or entry, if the error is about one.
        tensor: Option<String>,
        /// The content that the format requires.
        expected: String,
        /// The content of the file.
        found: String,
        /// Advice for the user.
        hint: String,
    },
    /// llmc or the target format cannot serve a well-formed request.
    #[error("{what}")]
    Unsupported {
        /// The request, and the reason.
        what: String,
        /// An alternative.
        hint: String,
    },
    /// Contradictory or unknown arguments, recipe keys or names (exit code 2).
    #[error("{what}")]
    Usage {
        /// The mistake in the request.
        what: String,
        /// The correct form.
        hint: String,
    },
    /// A check that the user asked for failed (exit code 3).
    #[error("{what}")]
    CheckFailed {
        /// The check, and by how much it failed.
        what: String,
        /// Advice on where to look next.
        hint: String,
    },
    /// The device, its driver or candle refused a computation.
    #[error("{what}")]
    Device {
        /// The library's message.
        what: String,
        /// Advice for the user.
        hint: String,
    },
    /// Another run uses the output path.
    #[error("{what}")]
    Busy {
        /// The other run, and the path.
        what: String,
        /// Ways to proceed.
        hint: String,
    },
    /// The user interrupted the run; finished work is kept for a resume.
    #[error("interrupted")]
    Interrupted {
        /// The way to resume.
        hint: String,
    },
}

/// The hint about a missing file.
const CHECK_PATH: &str = "check the path: it is taken from the folder that llmc is started in";

/// The hint about a path that does not exist, if one exists that is nearly the same.
fn did_you_mean(path: &Path) -> Option<String> {
    similar::existing(path).map(|near| format!("did you mean {}?", near.display()))
}

fn tensor_prefix(tensor: &Option<String>) -> String {
    tensor.as_ref().map(|name| format!("{name}: ")).unwrap_or_default()
}

impl Error {
    /// An [`Error::Io`] at `path`, with a hint for a full disk, a missing file or missing permissions.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let hint = match source.kind() {
            StorageFull | QuotaExceeded => {
                Some("free some space and run the same command again: it resumes where it stopped")
            }
            NotFound => Some(CHECK_PATH),
            FileTooLarge => Some(
                "the system limits the size of a file (`ulimit -f`): raise the limit, or write smaller shards",
            ),
            PermissionDenied => Some("check the permissions of the file and of its folder"),
            _ => None,
        };
        let near = if source.kind() == NotFound { did_you_mean(path.as_ref()) } else { None };
        let hint = near.or_else(|| hint.map(str::to_owned));
        Error::Io { path: path.as_ref().to_owned(), source, hint }
    }

    /// The same error; if it is about a missing file that nothing has nearly the name of, with this advice.
    pub(crate) fn where_missing(mut self, advice: &str) -> Self {
        if let Error::Io { hint: Some(hint), .. } = &mut self
            && hint == CHECK_PATH
        {
            *hint = advice.to_owned();
        }
        self
    }

    /// An [`Error::Malformed`] about a whole file.
    pub fn malformed(
        file: impl AsRef<Path>,
        expected: impl Display,
        found: impl Display,
        hint: impl Display,
    ) -> Self {
        Error::Malformed {
            file: file.as_ref().to_owned(),
            tensor: None,
            expected: expected.to_string(),
            found: found.to_string(),
            hint: hint.to_string(),
        }
    }

    /// An [`Error::Malformed`] about one tensor (or key) of a file.
    pub fn malformed_tensor(
        file: impl AsRef<Path>,
        tensor: impl Display,
        expected: impl Display,
        found: impl Display,
        hint: impl Display,
    ) -> Self {
        Error::Malformed {
            file: file.as_ref().to_owned(),
            tensor: Some(tensor.to_string()),
            expected: expected.to_string(),
            found: found.to_string(),
            hint: hint.to_string(),
        }
    }

    /// The same error about a model or a file beside it, with the path of the checkpoint that it was read from. A GGUF has
    /// no files beside it.
    pub(crate) fn in_checkpoint(self, path: &Path) -> Self {
        let place = |name: &Path| if path.is_dir() { path.join(name) } else { path.to_owned() };
        let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
        let hint_of = |hint: String| if is_gguf { GGUF_SETTINGS.to_owned() } else { hint };
        match self {
            Error::Malformed { file, tensor, expected, found, hint } => {
                let hint = if file.to_str() == Some(CONFIG) { hint_of(hint) } else { hint };
                let file = match file.to_str() {
                    Some(CHECKPOINT) => path.to_owned(),
                    Some(CONFIG | TOKENIZER) => place(&file),
                    _ => file,
                };
                Error::Malformed { file, tensor, expected, found, hint }
            }
            Error::Unsupported { what, hint } if what.starts_with(CONFIG) => {
                let config = place(Path::new(CONFIG)).display().to_string();
                let hint = if hint.contains(CONFIG) { hint_of(hint) } else { hint };
                Error::Unsupported { what: what.replacen(CONFIG, &config, 1), hint }
            }
            other => other,
        }
    }

    /// The same error about a setting of a part of config.json.
    pub(crate) fn in_section(self, section: &str) -> Self {
        match self {
            Error::Malformed { file, tensor: Some(key), expected, found, hint } => {
                Error::Malformed { file, tensor: Some(format!("{section}.{key}")), expected, found, hint }
            }
            other => other,
        }
    }

    /// The same error about a path that does not exist; the hint is a path that is nearly the same, if there is one.
    pub(crate) fn or_existing(mut self, path: &Path) -> Self {
        if let Error::Unsupported { hint, .. } = &mut self
            && let Some(near) = did_you_mean(path)
        {
            *hint = near;
        }
        self
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(what: impl Display, hint: impl Display) -> Self {
        Error::Unsupported { what: what.to_string(), hint: hint.to_string() }
    }

    /// An [`Error::Usage`].
    pub fn usage(what: impl Display, hint: impl Display) -> Self {
        Error::Usage { what: what.to_string(), hint: hint.to_string() }
    }

    /// An [`Error::Device`], with a hint for full memory and for a build without CUDA. This is not a `From` impl: a second
    /// one would make the error type of `?` in closures ambiguous.
    pub fn device(error: candle_core::Error) -> Self {
        use candle_core::Error::*;
        let error = without_backtrace(error);
        if matches!(error, NotCompiledWithCudaSupport) {
            let what =
                "this llmc runs models on the CPU only: it was built without feature `candle-cuda`".into();
            let hint = "`kernels/build_candle --release` in llmc's repository builds llmc with GPU support";
            return Error::Device { what, hint: hint.to_owned() };
        }
        let hint = match &error {
            Cuda(cause) if is_out_of_memory(&cause.to_string()) => {
                "the GPU's memory is full: use shorter or fewer sequences at a time, a smaller type, or the CPU"
            }
            Cuda(_) => "`nvidia-smi` shows the GPUs and their driver; llmc can also run on the CPU",
            _ => "this is a bug in llmc: please report it, with the command that you ran",
        };
        Error::Device { what: format!("candle: {error}"), hint: hint.to_owned() }
    }

    /// Advice for the user, if there is any.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Io { hint, .. } => hint.as_deref(),
            Error::Malformed { hint, .. }
            | Error::Unsupported { hint, .. }
            | Error::Usage { hint, .. }
            | Error::CheckFailed { hint, .. }
            | Error::Device { hint, .. }
            | Error::Busy { hint, .. }
            | Error::Interrupted { hint } => Some(hint),
        }
    }

    /// The process exit code: 1 for a failure, 2 for usage, 3 for a failed check, 130 for an interruption.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Io { .. }
            | Error::Malformed { .. }
            | Error::Unsupported { .. }
            | Error::Device { .. }
            | Error::Busy { .. } => 1,
            Error::Usage { .. } => 2,
            Error::CheckFailed { .. } => 3,
            Error::Interrupted { .. } => 130,
        }
    }
}

/// Checks a number that the user gives against its range; NaN is in none.
///
/// # Errors
/// [`Error::Usage`], with the range as its hint.
pub(crate) fn within<T: PartialOrd + Display>(what: &str, value: T, range: RangeInclusive<T>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let (start, end) = range.into_inner();
    Err(Error::usage(format!("{what} is {value}"), format!("give a number from {start} to {end}")))
}

/// Unwraps the error: candle wraps it if RUST_BACKTRACE is set.
fn without_backtrace(error: candle_core::Error) -> candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(*inner),
        other => other,
    }
}

/// Recognizes full memory in the messages of the driver and of cuBLAS.
fn is_out_of_memory(message: &str) -> bool {
    ["OUT_OF_MEMORY", "out of memory", "ALLOC_FAILED"].iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gguf_has_settings_but_no_config_json() {
        let error = || Error::malformed_tensor(CONFIG, "rope_theta", "a number", "text", "copy config.json");
        let told = |path: &str| {
            let error = error().in_checkpoint(Path::new(path));
            (error.to_string(), error.hint().map(str::to_owned))
        };
        let message = "rope_theta: expected a number, found text";
        assert_eq!(told("a/m.gguf"), (format!("a/m.gguf: {message}"), Some(GGUF_SETTINGS.to_owned())));
        assert_eq!(told("a/m.safetensors").1.as_deref(), Some("copy config.json"));
    }
}

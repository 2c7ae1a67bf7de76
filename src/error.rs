//! The one error type. Every variant carries what was expected and what was found, names the file and the tensor
//! where there is one, and most end with a hint: what the user can do about it.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whatever can go wrong, by what the user can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a read, a write, a rename.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
        /// What to do about it.
        hint: Option<String>,
    },
    /// An input that breaks its format's rules.
    #[error("{}: {}expected {expected}, found {found}", file.display(), tensor_prefix(tensor))]
    Malformed {
        /// The file it was read from.
        file: PathBuf,
        /// The tensor, key or entry concerned, where there is one.
        tensor: Option<String>,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
        /// What to do about it.
        hint: String,
    },
    /// A request that is well formed, but that llmc or the target format cannot serve.
    #[error("{what}")]
    Unsupported {
        /// What was asked for, and why it cannot be done.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// Contradictory or unknown arguments, recipe keys, names (exit code 2).
    #[error("{what}")]
    Usage {
        /// What is wrong with the request.
        what: String,
        /// What to write instead.
        hint: String,
    },
    /// A check that the user asked for did not hold (exit code 3).
    #[error("{what}")]
    CheckFailed {
        /// Which check, and by how much.
        what: String,
        /// Where to look next.
        hint: String,
    },
    /// A computation that the device, its driver or candle refused.
    #[error("{what}")]
    Device {
        /// The library's words.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// Another run's work is where this one would write.
    #[error("{what}")]
    Busy {
        /// Whose, and where.
        what: String,
        /// How to get past it.
        hint: String,
    },
    /// The user interrupted the run; what was finished is kept and resumed.
    #[error("interrupted")]
    Interrupted {
        /// How to go on.
        hint: String,
    },
}

fn tensor_prefix(tensor: &Option<String>) -> String {
    tensor.as_ref().map(|name| format!("{name}: ")).unwrap_or_default()
}

impl Error {
    /// An [`Error::Io`] at `path`; a full disk and a missing file get their hint here, once.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let hint = match source.kind() {
            StorageFull | QuotaExceeded => {
                Some("free some space and run the same command again: it goes on where it stopped")
            }
            NotFound => Some("check the path; `llmc inspect PATH` shows what llmc sees there"),
            PermissionDenied => Some("check the permissions of the file and of its folder"),
            _ => None,
        };
        Error::Io { path: path.as_ref().to_owned(), source, hint: hint.map(str::to_owned) }
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

    /// An [`Error::Unsupported`].
    pub fn unsupported(what: impl Display, hint: impl Display) -> Self {
        Error::Unsupported { what: what.to_string(), hint: hint.to_string() }
    }

    /// An [`Error::Usage`].
    pub fn usage(what: impl Display, hint: impl Display) -> Self {
        Error::Usage { what: what.to_string(), hint: hint.to_string() }
    }

    /// An [`Error::Device`]; a full memory and a build without CUDA get their hint here, once. (Not a `From`, of which a
    /// second one would leave the error type of every `?` in a closure open.)
    pub fn device(error: candle_core::Error) -> Self {
        use candle_core::Error::*;
        let error = without_backtrace(error);
        if matches!(error, NotCompiledWithCudaSupport) {
            let what =
                "this llmc runs models on the CPU alone: it was built without feature `candle-cuda`".into();
            let hint =
                "`kernels/build_candle --release` in llmc's repository builds one that runs them on a GPU";
            return Error::Device { what, hint: hint.to_owned() };
        }
        let hint = match &error {
            Cuda(cause) if is_out_of_memory(&cause.to_string()) => {
                "the GPU's memory is full: take shorter or fewer sequences at a time, a smaller type, or the CPU"
            }
            Cuda(_) => "`nvidia-smi` shows the GPUs and their driver; the CPU needs neither",
            _ => "this is a defect of llmc: please report it with the command that led here",
        };
        Error::Device { what: format!("candle: {error}"), hint: hint.to_owned() }
    }

    /// What to do about it, if there is something to say.
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

    /// The process exit code: 1 failed, 2 usage, 3 a check did not hold, 130 interrupted.
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

/// The error itself: RUST_BACKTRACE makes candle wrap it.
fn without_backtrace(error: candle_core::Error) -> candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(*inner),
        other => other,
    }
}

/// The driver's and cuBLAS's words for it.
fn is_out_of_memory(message: &str) -> bool {
    ["OUT_OF_MEMORY", "out of memory", "ALLOC_FAILED"].iter().any(|words| message.contains(words))
}

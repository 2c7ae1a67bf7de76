//! The ways in which a download fails.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use hf_hub::api::sync::ApiError;

/// The reason that nothing was downloaded.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing arrived for so long.
    Silent(Duration),
    /// The hub's answer, or the lack of one.
    Api(Box<ApiError>),
    /// An answer that makes no sense.
    Nonsense(String),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure::Api(Box::new(error))
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Failure::Silent(timeout) => write!(f, "nothing arrived for {} s", timeout.as_secs_f32()),
            Failure::Api(error) => error.fmt(f),
            Failure::Nonsense(what) => f.write_str(what),
        }
    }
}

impl Failure {
    /// The HTTP status, where the hub answered.
    pub(crate) fn status(&self) -> Option<u16> {
        let Failure::Api(error) = self else { return None };
        match error.as_ref() {
            ApiError::RequestError(error) => match error.as_ref() {
                ureq::Error::StatusCode(status) => Some(*status),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns true if the hub could not be reached, or has troubles of its own.
    pub(crate) fn is_unreachable(&self) -> bool {
        match (self, self.status()) {
            (Failure::Silent(_), _) => true,
            (_, Some(status)) => status >= 500,
            (Failure::Api(error), None) => matches!(error.as_ref(), ApiError::RequestError(_)),
            (Failure::Nonsense(_), None) => false,
        }
    }

    /// Returns true if another process is downloading the same file.
    pub(crate) fn is_locked(&self) -> bool {
        matches!(self, Failure::Api(error) if matches!(error.as_ref(), ApiError::LockAcquisition(_)))
    }

    /// Returns true if trying again may help: the transfer broke, or the hub has troubles.
    pub(crate) fn is_transient(&self) -> bool {
        let broken = matches!(self, Failure::Api(error) if matches!(error.as_ref(), ApiError::IoError(_)));
        broken && !self.is_local() || self.is_unreachable() && !matches!(self, Failure::Silent(_))
    }

    /// Returns true if the cache could not be written. Transfers that break are I/O errors too, of other kinds.
    pub(crate) fn is_local(&self) -> bool {
        use std::io::ErrorKind::*;
        let kinds =
            [StorageFull, QuotaExceeded, PermissionDenied, ReadOnlyFilesystem, NotADirectory, AlreadyExists];
        let Failure::Api(error) = self else { return false };
        matches!(error.as_ref(), ApiError::IoError(error) if kinds.contains(&error.kind()))
    }

    /// The system's error, where the cache could not be written.
    pub(crate) fn into_local(self) -> Result<std::io::Error, Failure> {
        if !self.is_local() {
            return Err(self);
        }
        match self {
            Failure::Api(error) => match *error {
                ApiError::IoError(error) => Ok(error),
                other => Err(Failure::from(other)),
            },
            other => Err(other),
        }
    }
}

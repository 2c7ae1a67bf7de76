//! The bounds on a template, as errors that pass through minijinja unchanged.

use std::error::Error as _;

use minijinja::{Error, ErrorKind};

/// A bound that a template went past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Limit {
    #[error("its source is longer than {} kB", Limit::SOURCE >> 10)]
    Source,
    #[error("it has an expression of more than {} words", Limit::WORDS)]
    Expression,
    #[error("it has more than {} branches", Limit::BRANCHES)]
    Branches,
    #[error("it takes too many steps, or makes too much text")]
    Fuel,
    #[error("it nests values more than {} deep", Limit::DEPTH)]
    Depth,
    #[error("it makes a value of more than {} parts", Limit::PARTS)]
    Parts,
    #[error("it makes a text of more than {} MB", Limit::TEXT >> 20)]
    Text,
    #[error("it puts a namespace or an unfinished list into a value")]
    Lazy,
    #[error("it formats with a width of more than {}", Limit::WIDTH)]
    Width,
    #[error("it unpacks arguments or takes text from other templates")]
    Feature,
    #[error("it ran into an error of the template engine")]
    Panic,
    #[error("this system has no memory left for it")]
    Memory,
}

impl Limit {
    /// Bytes of a template; those of released models have at most 30 kB.
    pub(super) const SOURCE: usize = 1 << 20;
    /// Words and signs between two braces. The engine's compiler takes a frame of the stack for each operator of a chain.
    pub(super) const WORDS: usize = 8192;
    /// `elif`s: the engine's parser takes a frame of the stack for each.
    pub(super) const BRANCHES: usize = 1000;
    /// Levels of lists and maps.
    pub(super) const DEPTH: usize = 100;
    /// Lists, maps, texts and numbers in a value, counted as often as they occur in it.
    pub(super) const PARTS: u64 = 1 << 18;
    /// Bytes of the texts in a value, or of a rendering.
    pub(crate) const TEXT: u64 = 64 << 20;
    /// Columns that a format asks for, in all of its fields; also the columns of an indentation.
    pub(crate) const WIDTH: usize = 1 << 12;

    /// The limit that an error of minijinja stands for, if it is one.
    pub(super) fn of(error: &Error) -> Option<Limit> {
        if error.kind() == ErrorKind::OutOfFuel {
            return Some(Limit::Fuel);
        }
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(limit) = cause.downcast_ref::<Limit>() {
                return Some(*limit);
            }
            if cause.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
                return Some(Limit::Fuel);
            }
            source = cause.source();
        }
        None
    }
}

impl From<Limit> for Error {
    fn from(limit: Limit) -> Error {
        Error::new(ErrorKind::InvalidOperation, limit.to_string()).with_source(limit)
    }
}

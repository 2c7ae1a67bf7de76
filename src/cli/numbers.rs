//! Bounds of numbers on the command line: one beyond is an error of usage that says the range.

use std::ops::RangeInclusive;

use clap::builder::RangedU64ValueParser;

/// The most tokens of one text or batch, or of an answer: beyond any model's context.
pub(crate) const TOKENS: u64 = 1 << 24;
/// The most things that are repeated or run together.
pub(crate) const COUNT: u64 = 1 << 16;
/// The most things to read or to ask.
pub(crate) const LIMIT: u64 = 1 << 32;

/// A parser of whole numbers of a range.
pub(crate) fn number(range: RangeInclusive<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

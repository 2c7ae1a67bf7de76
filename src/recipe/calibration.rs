//! The `[calibration]` table of a recipe: the text that a model is run on, and how it is cut.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Result, within};

/// The calibration set of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Calibration {
    /// Sources, each a path, `-`, `org/name[@revision][:[config/]split]` or `self`; `0.7*` before one is its weight, 1
    /// where none is given. Each gives its weight's part of the sequences.
    pub data: Vec<String>,
    /// Statistics of an earlier run, which replace the text: folders of `llmc calibrate`, or importance matrices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statistics: Vec<PathBuf>,
    /// Sequences in all.
    pub samples: usize,
    /// Tokens of a sequence: exactly with packing, at most without.
    pub seq_len: usize,
    /// True if documents are joined and cut into full sequences; else each is a sequence by itself, cut at `seq_len`, and
    /// nothing is padded.
    pub packing: bool,
    /// Begins the random numbers that choose the sequences.
    pub seed: u32,
    /// Experts that the router sends fewer tokens than this, or none, are shown all tokens instead.
    pub expert_tokens: u64,
}

/// The most calibration sequences.
const MOST_SAMPLES: usize = 1_000_000;
/// The most tokens of a calibration sequence.
const LONGEST_SEQUENCE: usize = 1 << 20;

impl Calibration {
    /// Refuses numbers beyond any use, which would take memory or time without end.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage).
    pub(crate) fn check_bounds(&self) -> Result<()> {
        within("calibration: samples", self.samples, 0..=MOST_SAMPLES)?;
        within("calibration: seq_len", self.seq_len, 0..=LONGEST_SEQUENCE)
    }
}

impl Default for Calibration {
    fn default() -> Calibration {
        Calibration {
            data: Vec::new(),
            statistics: Vec::new(),
            samples: 128,
            seq_len: 512,
            packing: true,
            seed: 0,
            expert_tokens: 128,
        }
    }
}

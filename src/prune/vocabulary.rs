//! `vocabulary`: the tokens that a text never uses go.
//!
//! **What.** All of the text is tokenized, not only its calibration sequences. Its tokens stay, with the parts that merges make them of,
//! so that the text becomes the same tokens as before; so do all bytes (other texts take more tokens, and none becomes unknown), special
//! and added tokens, and the ids that config.json and generation_config.json name. Unused tokens fill up to the next multiple.
//! Embedding and head lose the other rows; tokenizer.json and the settings are numbered anew.
//!
//! **When.** Small models for one language or one subject: their embedding is a large part of them. Text of every kind that the
//! model is to read and write must be in the data.
//!
//! **Cost.** Reading and tokenizing the text.
//!
//! ```text
//! llmc prune --method vocabulary --data corpus.jsonl model/
//! ```
//!
//! Reference: Ushio et al. 2023, "An Efficient Multilingual Language Model Compression through Vocabulary Trimming",
//! <https://arxiv.org/abs/2305.15020>.

use serde::{Deserialize, Serialize};

use crate::error::within;
use crate::recipe::Kept;
use crate::stage::{self, Def, Shape, Stage, Vocabulary};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "vocabulary",
    summary: "take out the tokens that a text never uses, with their rows of embedding and head",
    supports: |_| Ok(()),
    build: |table| {
        let Parameters { multiple } = stage::parse("vocabulary", table)?;
        within("vocabulary.multiple", multiple, 1..=1 << 16)?;
        Ok(Stage::Shape(Shape::Vocabulary(Vocabulary { multiple })))
    },
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// The tokens that stay are a multiple of this.
    multiple: usize,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { multiple: 64 }
    }
}

/// Adds the first tokens that are not needed, up to a multiple.
pub(crate) fn filled(needed: &Kept, of: usize, multiple: usize) -> Kept {
    let count = needed.numbers().len().next_multiple_of(multiple).min(of);
    let others = needed.others(of);
    let fillers = others.numbers().iter().take(count.saturating_sub(needed.numbers().len()));
    Kept::new(needed.numbers().iter().chain(fillers).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_tokens_fill_up() {
        let needed = Kept::new([0, 2, 5]);
        assert_eq!(filled(&needed, 8, 4).to_string(), "0-2,5");
        assert_eq!(filled(&needed, 8, 3), needed);
        assert_eq!(filled(&needed, 8, 64).numbers().len(), 8);
    }
}

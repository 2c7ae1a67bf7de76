//! The growth of a text by a tokenizer's normalizer. A few replacements of a space by a thousand letters, one after
//! another, take all memory for a line of text.

use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer};

use crate::io::tokenizer::from_base64;
use crate::panics;

/// The largest product of the factors of all replacements. SentencePiece's rules and a space of three bytes give about 100.
pub(super) const MOST: usize = 1024;
/// Normalizers with a smaller product run unchecked: a space of three bytes, or letters taken apart.
const HARMLESS: usize = 8;
/// Bytes that are normalized at a time for the check: those of the result, with their places, must fit in memory.
const PIECE: usize = 4096;
/// The largest growth of a text. One that is all ligatures grows tenfold.
const RATIO: usize = 16;

/// The growth that a normalizer may cause.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    factor: usize,
}

impl Growth {
    /// Bounds the growth by the normalizers of a tokenizer (or its decoders), which run one after another. Returns `None` beyond [`MOST`].
    pub(super) fn of(normalizers: &[&Value]) -> Option<Growth> {
        let factors = normalizers.iter().map(|normalizer| factor(normalizer));
        let factor = factors.fold(1, usize::saturating_mul);
        (factor <= MOST).then_some(Growth { factor })
    }

    /// Checks that a text does not grow too much, piece by piece.
    ///
    /// # Errors
    /// The message for the user.
    pub(super) fn check(self, tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<(), String> {
        let Some(normalizer) = tokenizer.get_normalizer().filter(|_| self.factor > HARMLESS) else {
            return Ok(());
        };
        let mut normalized = 0;
        for piece in pieces(text) {
            let mut piece = NormalizedString::from(piece);
            panics::caught_or_failed(|| normalizer.normalize(&mut piece))?;
            normalized += piece.get().len();
        }
        if normalized > RATIO * text.len() + PIECE {
            return Err(format!("a normalizer that makes {} bytes into {normalized}", text.len()));
        }
        Ok(())
    }
}

/// Cuts a text between characters.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = (0..=PIECE.min(rest.len())).rev().find(|end| rest.is_char_boundary(*end))?;
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The most bytes that a normalizer makes of one.
fn factor(normalizer: &Value) -> usize {
    match normalizer["type"].as_str() {
        Some("Replace") => {
            let content = normalizer["content"].as_str().unwrap_or_default().len();
            match normalizer["pattern"]["String"].as_str() {
                Some(pattern) => content.div_ceil(pattern.len().max(1)).max(1),
                // It may also match between letters.
                None => content + 1,
            }
        }
        Some("Precompiled") => {
            let map = normalizer["precompiled_charsmap"].as_str().and_then(from_base64).unwrap_or_default();
            // The length of the trie, the trie, then the replacements, each of which ends with a zero byte.
            let trie = map.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize / 4 * 4);
            let replacements = map.get(trie.saturating_add(4)..).unwrap_or_default();
            replacements.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0).max(1)
        }
        Some("NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "ByteLevel" | "BertNormalizer" | "Nmt") => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::factor;

    #[test]
    fn replacements_are_behind_the_trie() {
        // A trie of 8 bytes without a zero, then "abc" and "de".
        let map = json!({ "type": "Precompiled", "precompiled_charsmap": "CAAAAP8B/wH/Af8BYWJjAGRlAA==" });
        assert_eq!(factor(&map), 3);
        assert_eq!(
            factor(&json!({ "type": "Precompiled", "precompiled_charsmap": "CAAAAA==" })),
            1,
            "cut short"
        );
    }
}

//! SentencePiece's `tokenizer.model`, a protobuf, read as hostile: pieces with scores and types, and the few settings that a
//! tokenizer.json needs. The fields are those of
//! <https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>.

use std::path::Path;

use super::vocabulary::{Vocabulary, token_type};
use crate::error::{Error, Result};

/// `TrainerSpec.ModelType`.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

/// The hint for tokenizers that llmc cannot build from the files that are there.
pub(crate) const SAVE_WITH_TRANSFORMERS: &str =
    "save it with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)";

/// A `tokenizer.model`.
#[derive(Debug)]
pub(super) struct PieceModel {
    /// Tokens, types, scores and the ids of special tokens.
    pub vocabulary: Vocabulary,
    /// True for a BPE by scores, false for a unigram model.
    pub is_bpe: bool,
    /// The compiled normalization; empty where text is taken as it is.
    pub charsmap: Vec<u8>,
}

impl PieceModel {
    /// Parses the protobuf.
    ///
    /// # Errors
    /// [`Error::Malformed`] for bytes that are no SentencePiece model, [`Error::Unsupported`] for models by word or character.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<PieceModel> {
        let malformed = |found: &str| {
            Error::malformed(file, "a SentencePiece model (a protobuf)", found, SAVE_WITH_TRANSFORMERS)
        };
        let (model, kind) = read(bytes).ok_or_else(|| malformed("bytes that are none"))?;
        if model.vocabulary.tokens.is_empty() {
            return Err(malformed("no pieces"));
        }
        match kind {
            UNIGRAM | BPE => Ok(PieceModel { is_bpe: kind == BPE, ..model }),
            _ => {
                let what = format!("{}: a SentencePiece model of words or characters", file.display());
                Err(Error::unsupported(what, "llmc reads BPE and unigram models"))
            }
        }
    }
}

/// The model and its type; `None` where the bytes are no such message.
fn read(bytes: &[u8]) -> Option<(PieceModel, u64)> {
    let mut vocabulary = Vocabulary { add_space_prefix: Some(true), ..Vocabulary::default() };
    vocabulary.remove_extra_whitespaces = true;
    let mut model = PieceModel { vocabulary, is_bpe: false, charsmap: Vec::new() };
    let (mut kind, mut ids) = (UNIGRAM, [0, 1, 2, -1]);
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(piece)) => add_piece(&mut model.vocabulary, piece)?,
            (2, Field::Bytes(spec)) => trainer(spec, &mut kind, &mut ids)?,
            (3, Field::Bytes(spec)) => normalizer(spec, &mut model)?,
            _ => {}
        }
    }
    let pieces = model.vocabulary.tokens.len();
    let [unk, bos, eos, pad] = ids.map(|id| usize::try_from(id).ok().filter(|id| *id < pieces));
    model.vocabulary = Vocabulary { unk, bos, eos, pad, ..model.vocabulary };
    Some((model, kind))
}

/// `SentencePiece`: text, score, type.
fn add_piece(vocabulary: &mut Vocabulary, piece: &[u8]) -> Option<()> {
    let (mut text, mut score, mut kind) = ("", 0.0, token_type::NORMAL);
    for field in Fields(piece) {
        match field? {
            (1, Field::Bytes(bytes)) => text = std::str::from_utf8(bytes).ok()?,
            (2, Field::Fixed32(bits)) => score = f32::from_bits(bits),
            // GGUF has taken over SentencePiece's numbers.
            (3, Field::Varint(found)) => kind = i32::try_from(found).ok().filter(|k| (1..=6).contains(k))?,
            _ => {}
        }
    }
    vocabulary.tokens.push(text.to_owned());
    vocabulary.scores.push(Some(score).filter(|score| score.is_finite())?);
    vocabulary.types.push(kind);
    Some(())
}

/// `TrainerSpec`: the model's type, and the ids of unknown, begin, end and padding.
fn trainer(spec: &[u8], kind: &mut u64, ids: &mut [i64; 4]) -> Option<()> {
    for field in Fields(spec) {
        match field? {
            (3, Field::Varint(found)) => *kind = found,
            // Negative numbers are stored in 64 bits.
            (key @ 40..=43, Field::Varint(id)) => ids[key as usize - 40] = id.cast_signed(),
            _ => {}
        }
    }
    Some(())
}

/// `NormalizerSpec`: the compiled map, and how spaces are treated.
fn normalizer(spec: &[u8], model: &mut PieceModel) -> Option<()> {
    for field in Fields(spec) {
        match field? {
            (2, Field::Bytes(map)) => model.charsmap = map.to_vec(),
            (3, Field::Varint(flag)) => model.vocabulary.add_space_prefix = Some(flag != 0),
            (4, Field::Varint(flag)) => model.vocabulary.remove_extra_whitespaces = flag != 0,
            _ => {}
        }
    }
    Some(())
}

/// A value of protobuf's wire format. Numbers of 64 bits are skipped: no field here has them.
#[derive(Debug, PartialEq)]
enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64,
}

/// The fields of a message, by number; ends with `None` within where the bytes break the format.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed64)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Two pieces (`<unk>` and `a` of score −1.5), a BPE without begin and end, no prefix.
    const MODEL: &[u8] = b"\x0a\x09\x0a\x05<unk>\x18\x02\x0a\x08\x0a\x01a\x15\x00\x00\xc0\xbf\
        \x12\x0e\x18\x02\xc8\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x1a\x04\x18\x00\x20\x00";

    #[test]
    fn fields_are_those_of_the_proto() {
        let model = PieceModel::parse(Path::new("m"), MODEL).unwrap();
        assert!(model.is_bpe);
        let vocabulary = model.vocabulary;
        assert_eq!(vocabulary.tokens, ["<unk>", "a"]);
        assert_eq!(vocabulary.scores, [0.0, -1.5]);
        assert_eq!(vocabulary.types, [token_type::UNKNOWN, token_type::NORMAL]);
        // Begin is -1 here, end (2) is none of the pieces.
        assert_eq!((vocabulary.unk, vocabulary.bos, vocabulary.eos), (Some(0), None, None));
        assert_eq!(vocabulary.add_space_prefix, Some(false));
        assert!(!vocabulary.remove_extra_whitespaces);
    }

    #[test]
    fn cut_or_changed_bytes_are_errors_or_other_models_never_a_panic() {
        let mut refused = 0;
        for at in 0..MODEL.len() {
            refused += usize::from(PieceModel::parse(Path::new("m"), &MODEL[..at]).is_err());
            for byte in [0, 0x7f, 0xff] {
                let mut changed = MODEL.to_vec();
                changed[at] = byte;
                refused += usize::from(PieceModel::parse(Path::new("m"), &changed).is_err());
            }
        }
        assert!(refused > MODEL.len(), "{refused}");
        let error = PieceModel::parse(Path::new("tokenizer.model"), b"IQ== 0\nIg== 1\n").unwrap_err();
        assert!(error.to_string().contains("tokenizer.model: expected a SentencePiece model"), "{error}");
    }
}

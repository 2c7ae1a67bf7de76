//! Tokenizers: tokenizer.json and its companions ↔ GGUF's `tokenizer.ggml.*` metadata. A model without tokenizer.json gets
//! one from its SentencePiece model, or from vocab.json and merges.txt.
//!
//! Byte-level BPE (`gpt2`), SentencePiece BPE (`llama`) and SentencePiece unigram (`t5`) go both ways. Others
//! (WordPiece, RWKV) are left out aloud when reading, and refused when writing.

mod added;
mod byte_level;
mod companions;
mod declared;
mod from_gguf;
mod piece_model;
mod pre;
mod rebuild;
mod sentencepiece;
mod table;
mod to_gguf;
mod vocab_merges;
mod vocabulary;

pub(crate) use declared::{complete, declared};
pub(crate) use from_gguf::from_gguf;
pub(crate) use piece_model::SAVE_WITH_TRANSFORMERS;
pub(crate) use rebuild::rebuild;
pub(crate) use sentencepiece::from_base64;
pub(crate) use to_gguf::{Files, default_template, to_gguf};
pub(crate) use vocab_merges::SPECIAL_TOKENS;

#[cfg(test)]
mod tests;

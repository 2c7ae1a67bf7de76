//! Tokenizers: tokenizer.json and its companions ↔ GGUF's `tokenizer.ggml.*` metadata.
//!
//! Byte-level BPE (`gpt2`), SentencePiece BPE (`llama`) and SentencePiece unigram (`t5`) go both ways. Others
//! (WordPiece, RWKV) are left out aloud when reading, and refused when writing.

mod added;
mod byte_level;
mod companions;
mod declared;
mod from_gguf;
mod pre;
mod sentencepiece;
mod table;
mod to_gguf;
mod vocabulary;

pub(crate) use declared::{complete, declared};
pub(crate) use from_gguf::from_gguf;
pub(crate) use to_gguf::{Files, default_template, to_gguf};

#[cfg(test)]
mod tests;

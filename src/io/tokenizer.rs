//! Tokenizers: tokenizer.json and its companions ↔ GGUF's `tokenizer.ggml.*` metadata.

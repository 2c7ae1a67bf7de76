//! Tokenizers there and back.

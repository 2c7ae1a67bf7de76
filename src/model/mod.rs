//! What an architecture calls its tensors, and how GGUF stores them. One file per family, one line in
//! [`ARCHITECTURES`]. Knows no scheme, reads no file.

/// What GGUF does to a Hugging Face tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// Nothing.
    None,
    /// Rows of q and k are reordered within each head for the interleaved rope: Hugging Face row (head, half, i) is GGUF
    /// row (head, i, half), for i < head_dim/2.
    PermuteRope {
        /// Heads of this tensor.
        heads: usize,
    },
    /// Norm weights are stored plus one (Gemma).
    AddOne,
}

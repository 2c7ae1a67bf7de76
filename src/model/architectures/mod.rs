//! One file per family of architectures: the outline of Llama, and what the others have instead. [`super::registry`] lists
//! them.

pub(crate) mod bert;
pub(crate) mod bloom;
pub(crate) mod gemma;
pub(crate) mod gpt2;
pub(crate) mod gpt_neox;
pub(crate) mod llama;
pub(crate) mod olmo;
pub(crate) mod opt;
mod parts;
pub(crate) mod phi3;
pub(crate) mod qwen;
pub(crate) mod stablelm;

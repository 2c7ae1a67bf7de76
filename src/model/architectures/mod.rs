//! One file per family of architectures: the outline of Llama, and what the others have instead. [`super::registry`] lists
//! them.

pub mod bert;
pub mod bloom;
pub mod gemma;
pub mod gpt2;
pub mod gpt_neox;
pub mod llama;
pub mod olmo;
pub mod opt;
mod parts;
pub mod phi3;
pub mod qwen;
pub mod stablelm;

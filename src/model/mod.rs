//! Models: their architectures, their description, and the one forward pass that runs them.
//!
//! A model is described once ([`Model`]): a frame (embedding, final norm, head) around layers, each a mixer and a
//! feed-forward network with their names and settings. From the description follow the tensors that are loaded, the forward
//! pass ([`Decoder`], [`Block`]), the layout of each block ([`block_layout`]), and names and roles in GGUF. An architecture
//! is one file in `architectures/` and an entry of [`ARCHITECTURES`]; a kind of mixer or feed-forward network is one file.
//!
//! Limits: knows no scheme and reads no file. `io::gguf` and `export::gguf` walk the tables, `engine` brings the weights.

mod arch;
mod architectures;
mod axes;
mod batch;
mod block;
mod decoder;
mod description;
mod embedding;
mod ends;
mod feed_forward;
mod frame;
mod head;
mod inventory;
mod layer;
mod layout;
mod mixer;
mod names;
mod registry;
pub(crate) mod rope;
mod rotary;
mod settings;
mod sizes;
mod state;
mod transform;
mod weights;

pub use arch::{Arch, Changes, Fixed, GgufForm, Key, KeyType, Missing};
pub(crate) use axes::{Axis, LayerName};
pub use batch::Batch;
pub(crate) use block::Block;
pub use decoder::Decoder;
pub(crate) use description::stored_layout;
pub use description::{Model, Outline, RotationDefaults, block_layout};
pub(crate) use embedding::Embedding;
pub(crate) use ends::{ModelEnds, model_ends};
pub use feed_forward::{Dense, Experts, FeedForward, Gated};
pub use frame::{EmbeddingTables, Frame, LearnedPositions, NormKind};
pub(crate) use head::Head;
pub(crate) use inventory::{check_promise, language_model};
pub use layer::{Layer, Norms, SublayerNorms};
pub use layout::{BlockLayout, Feeder, Fold, LinearPlace, NormPlace};
pub use mixer::{Attention, Mixer};
pub(crate) use names::{Network, Numbers, TensorRole};
pub use registry::{ARCHITECTURES, configure};
pub(crate) use registry::{class_of, find, find_gguf, find_hf, known};
pub use rotary::Rotary;
pub use settings::{SettingKeys, Settings};
pub use sizes::Sizes;
pub use state::State;
pub use transform::Transform;
pub use weights::Weights;

#[cfg(test)]
mod tests;

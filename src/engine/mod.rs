//! Runs the model of a checkpoint and generates text with it.
//!
//! [`CheckpointWeights`] reads a decoder's weights, [`LanguageModel`] runs it. [`Tokenizer`] and [`ChatTemplate`] turn
//! text and conversations into token ids, [`Sampler`] chooses the next id, [`TextStream`] turns ids back into text one by one.
//! [`Generation`] is the loop over these steps; [`Sequence`] runs the model in it; [`Conversation`] keeps the turns of a chat.

mod adapter;
mod any_decoder;
pub mod chat;
mod conversation;
pub mod generate;
mod model;
pub mod sampling;
mod sequence;
pub mod stream;
pub mod tokenizer;
mod tokenizer_configs;
mod weights;

pub use adapter::Adapter;
pub use any_decoder::Cache;
pub use chat::{ChatTemplate, Message};
pub use conversation::{Conversation, Forward};
pub use generate::{FinishReason, Generation, Limits};
pub use model::{LanguageModel, Options};
pub use sampling::{Sampler, Sampling};
pub use sequence::Sequence;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
pub use weights::{CheckpointWeights, EditedMatrix};

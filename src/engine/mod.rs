//! A checkpoint as a model that runs, and that reads and writes text.
//!
//! [`Stored`] fetches a decoder's weights, [`LanguageModel`] runs it. [`Tokenizer`] and [`ChatTemplate`] make
//! token ids of text and conversations, [`Sampler`] chooses the next id, [`TextStream`] makes text of ids as they come,
//! [`Generation`] is the loop over them, [`Sequence`] the model in it.

mod adapter;
pub mod chat;
mod companions;
pub mod generate;
mod model;
mod placed;
pub mod sampling;
mod sequence;
pub mod stream;
pub mod tokenizer;
mod weights;

pub use adapter::Adapter;
pub use chat::{ChatTemplate, Message};
pub use generate::{Finish, Generation, Limits};
pub use model::{LanguageModel, Options};
pub use placed::Cache;
pub use sampling::{Sampler, Sampling};
pub use sequence::Sequence;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;
pub use weights::{Edited, Stored};

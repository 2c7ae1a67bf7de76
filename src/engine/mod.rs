//! A checkpoint as something that reads and writes text.
//!
//! [`Tokenizer`] and [`ChatTemplate`] make token ids of text and conversations, [`Sampler`] chooses the next id,
//! [`TextStream`] makes text of ids as they come. None of them knows a weight.

pub mod chat;
mod companions;
pub mod sampling;
pub mod stream;
pub mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use sampling::{Sampler, Sampling};
pub use stream::TextStream;
pub use tokenizer::Tokenizer;

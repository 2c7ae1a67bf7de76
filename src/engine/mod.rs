//! A checkpoint as something that reads and writes text.
//!
//! [`Tokenizer`] and [`ChatTemplate`] make token ids of text and conversations, [`Sampler`] chooses the next id,
//! [`TextStream`] makes text of ids as they come, [`Generation`] is the loop over them. None of them knows a weight.

pub mod chat;
mod companions;
pub mod generate;
pub mod sampling;
pub mod stream;
pub mod tokenizer;

pub use chat::{ChatTemplate, Message};
pub use generate::{Finish, Generation, Limits};
pub use sampling::{Sampler, Sampling};
pub use stream::TextStream;
pub use tokenizer::Tokenizer;

//! Jobs: everything that a command does, as library functions.
//!
//! A job is a struct that says what to do. `run` does it and returns a record: plain data with a version, which serializes
//! to JSON and back. A [`Host`] opens models, shows progress and may stop the work; [`Silent`] does the least.
//!
//! Begin with [`Quantize`] (`quantize.rs`), whose plans come from [`Draft`] (`draft.rs`).

mod allocation;
mod base;
mod bench;
mod budget;
mod cache;
mod calibrate;
mod card;
pub mod coverage;
mod cut;
mod draft;
mod embeddings;
mod engine;
mod host;
mod loading;
mod logits;
mod outputs;
mod perplexity;
mod quantize;
mod recipes;
mod record;
mod reshape;
mod samples;
mod schemes;
mod size;
mod source_card;
mod space;
mod tasks;
mod verify;

pub use base::BaseModel;
pub use bench::{Bench, BenchRecord, Speed};
pub use budget::Measured;
pub use cache::{CacheRecord, CachedFile, clear_cache, list_cache};
pub use calibrate::{Calibrate, CalibrateRecord};
pub(crate) use cut::stays;
pub use draft::{Destination, Draft, plans};
pub use embeddings::{CompareEmbeddings, Cosines, EmbeddingsRecord};
pub use engine::Engine;
pub use host::{Host, Notice, Phase, Silent};
pub(crate) use loading::engines;
pub use loading::serve_command;
pub use logits::{Logits, LogitsRecord, Prompt};
pub use perplexity::{BaseRecord, Perplexity, PerplexityRecord};
pub use quantize::{Quantize, QuantizeRecord, expert_coverage};
pub use recipes::{RecipeRecord, recipes};
pub use record::{Machine, ModelIdentity, Origin, Version};
pub use schemes::{FormatRecord, Loss, SchemeRecord, schemes};
pub use tasks::{AskTasks, Metric, TaskRecord, TasksRecord};
pub use verify::{Verify, VerifyRecord};

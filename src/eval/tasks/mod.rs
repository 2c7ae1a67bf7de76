//! Benchmarks: questions with known answers, asked and scored by the rules of lm-evaluation-harness
//! (<https://github.com/EleutherAI/lm-evaluation-harness>), so that results compare.
//!
//! 1. [`definition`] reads a task's TOML; [`find`] resolves a task's name.
//! 2. [`files`] finds the dataset, [`crate::corpus::rows`] reads it.
//! 3. [`question`] turns rows into prompts ([`template`]), with the examples that Python would draw ([`python_random`]).
//! 4. A [`Respondent`] returns likelihoods or writes text: [`model`].
//! 5. [`run`](run()) asks all questions, [`scoring`] and [`extract`] judge the answers, [`results`] reports.
//!
//! Downloads nothing, and runs no code of a dataset or a task: a task has only templates ([`crate::jinja`]) and regular
//! expressions ([`pattern`]), both within bounds.

pub mod definition;
pub(crate) mod extract;
pub(crate) mod files;
pub(crate) mod model;
pub(crate) mod pattern;
pub(crate) mod python_random;
pub mod question;
pub(crate) mod respondent;
pub(crate) mod results;
pub(crate) mod run;
pub mod scoring;
pub mod template;

pub(crate) use self::definition::shipped;
pub use self::definition::{Task, find};
pub use self::files::DatasetLocation;
pub use self::respondent::Respondent;
pub use self::results::Scores;
pub use self::run::{TaskOptions, run};

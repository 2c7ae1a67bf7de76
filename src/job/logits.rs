//! A model's logits, written to a file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::engine::Engine;
use super::host::Host;
use super::outputs::check_arrays;
use super::record::Origin;
use crate::engine::{LanguageModel, Tokenizer};
use crate::error::{Error, Result};
use crate::eval::arrays::{Array, ArrayFile};
use crate::model::Batch;
use crate::tensor::DType;

/// The tokens of a [`Logits`] job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Token ids, run as they are.
    Tokens(Vec<u32>),
    /// A text, tokenized with the model's tokenizer.
    Text(String),
}

/// Logits to be written.
#[derive(Debug, Clone)]
pub struct Logits {
    /// The model.
    pub model: String,
    /// Its input.
    pub prompt: Prompt,
    /// The file.
    pub output: PathBuf,
    /// The way that the model is run.
    pub engine: Engine,
}

/// The record of written logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogitsRecord {
    /// Path of the file.
    pub output: String,
    /// [tokens, vocabulary].
    pub shape: [usize; 2],
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Version of this record, and its origin.
    #[serde(flatten)]
    pub origin: Origin<1>,
}

impl Logits {
    /// Runs the model and writes `logits` [tokens, vocabulary] in f32 and `tokens`.
    ///
    /// # Errors
    /// A model that cannot be run; tokens that it does not have, or too many; a file in the output's place that is no result.
    pub fn run(&self, host: &dyn Host) -> Result<LogitsRecord> {
        check_arrays(&self.output)?;
        let model = self.engine.load(&self.model, host)?;
        let tokens = match &self.prompt {
            Prompt::Text(text) => Tokenizer::open(model.checkpoint())?.encode(text, true)?,
            Prompt::Tokens(tokens) => tokens.clone(),
        };
        check_tokens(&model, &tokens)?;
        self.write(&model, &tokens)?;
        Ok(LogitsRecord {
            output: self.output.display().to_string(),
            shape: [tokens.len(), model.vocabulary()],
            tokens,
            origin: Origin::here(),
        })
    }

    fn write(&self, model: &LanguageModel, tokens: &[u32]) -> Result<()> {
        let arrays = [
            Array { name: "logits", dtype: DType::F32, shape: vec![tokens.len(), model.vocabulary()] },
            Array { name: "tokens", dtype: DType::U32, shape: vec![tokens.len()] },
        ];
        let mut file = ArrayFile::create(&self.output, &arrays, json!({ "model": self.model }))?;
        let rows: Vec<u32> = (0..tokens.len() as u32).collect();
        model.logits(&Batch::whole(&[tokens]), None, &rows, |_, block| {
            if block.iter().any(|logit| !logit.is_finite()) {
                return Err(self.not_finite());
            }
            file.write(block.iter().map(|logit| logit.to_le_bytes()))
        })?;
        file.write(tokens.iter().map(|token| token.to_le_bytes()))?;
        file.finish()
    }
}

impl Logits {
    fn not_finite(&self) -> Error {
        let hint =
            "the weights or config.json are damaged, or a type of 16 bits does not hold the model's values";
        Error::malformed(&self.model, "finite logits", "NaN or infinity", hint)
    }
}

/// Refuses tokens that the model does not have, none, and more than it takes.
fn check_tokens(model: &LanguageModel, tokens: &[u32]) -> Result<()> {
    let vocabulary = model.vocabulary();
    if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
        return Err(Error::usage(
            format!("there is no token {token}: the model's vocabulary ends at {vocabulary}"),
            "token ids are those of this model's tokenizer; --text makes them of a text",
        ));
    }
    match model.context_limit() {
        _ if tokens.is_empty() => {
            Err(Error::usage("there are no tokens", "give some: --tokens 1,2,3, or --text with some text"))
        }
        Some(limit) if tokens.len() > limit => Err(Error::usage(
            format!("{} tokens are beyond the model's limit of {limit}", tokens.len()),
            "give fewer",
        )),
        _ => Ok(()),
    }
}

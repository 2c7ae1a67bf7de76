//! `llmc eval embeddings`.

use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::engine_args;
use crate::cli::numbers::{LIMIT, number};
use crate::error::Result;
use crate::job::{CompareEmbeddings, Cosines, EmbeddingsRecord};

/// Compare an encoder's sentence embeddings with those of the model that it was made from
///
/// Every line of the data is a text; its embedding is the mean of its tokens' last hidden states, scaled to length 1. Printed are the
/// cosine of both models' embeddings, and how often a text's nearest other text is the same under both.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc eval embeddings minilm-w8a8 --against all-MiniLM-L6-v2 --data sentences.txt
  llmc eval embeddings minilm-w8a8 --against all-MiniLM-L6-v2 --data sentences.txt --limit 200 --json")]
pub(crate) struct Arguments {
    /// The encoder to measure
    model: String,
    /// The encoder that it was made from
    #[arg(long, value_name = "BASE")]
    against: String,
    /// Texts, one a line: a file, or a dataset in the hub's cache
    #[arg(long, value_name = "FILE|DATASET")]
    data: String,
    /// Texts to read
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = number(0..=LIMIT))]
    limit: usize,
    #[command(flatten)]
    engine: engine_args::Arguments,
}

/// Embeds the texts with both models and compares.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let job = CompareEmbeddings {
        model: arguments.model.clone(),
        against: arguments.against.clone(),
        data: arguments.data.clone(),
        limit: arguments.limit,
        engine: arguments.engine.engine(),
    };
    let record = job.run(context)?;
    context.print(|| text(&record), || json!(record))
}

fn text(record: &EmbeddingsRecord) -> String {
    let Cosines { mean, median, p5, p1, min } = record.cosine;
    format!(
        "{} texts\ncosine to the base   mean {mean:.5}, median {median:.5}, 5 % {p5:.5}, 1 % {p1:.5}, least {min:.5}\n\
         same nearest text    {:.1} %\n",
        record.texts,
        100.0 * record.same_nearest
    )
}

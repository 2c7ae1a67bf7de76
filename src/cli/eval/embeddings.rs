//! `llmc eval embeddings`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::{Context, engine_args};
use crate::corpus::Text;
use crate::engine::Tokenizer;
use crate::error::{Error, Result};
use crate::eval::embeddings::{Agreement, Embeddings};

/// Compare an encoder's sentence embeddings with those of the model that it was made from
///
/// Every line of the data is a text; its embedding is the mean of its tokens' last hidden states, scaled to length 1. Printed are the
/// cosine of both models' embeddings, and how often a text's nearest other text is the same under both.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc eval embeddings minilm-w8a8 --against all-MiniLM-L6-v2 --data sentences.txt
  llmc eval embeddings minilm-w8a8 --against all-MiniLM-L6-v2 --data sentences.txt --limit 200 --json")]
pub struct Arguments {
    /// The encoder to measure
    model: String,
    /// What it was made from
    #[arg(long, value_name = "BASE")]
    against: String,
    /// Texts, one a line: a file, or a dataset in the hub's cache
    #[arg(long, value_name = "FILE|DATASET")]
    data: String,
    /// Texts to read
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    #[command(flatten)]
    engine: engine_args::Arguments,
}

/// Embeds the texts with both models and compares.
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let text = Text::open(&arguments.data)?;
    let lines = text.text.lines().map(str::trim).filter(|line| !line.is_empty());
    let texts: Vec<&str> = lines.take(arguments.limit).collect();
    if texts.len() < 2 {
        let what = format!("{}: {} texts, one a line; at least 2 are compared", text.name, texts.len());
        return Err(Error::usage(what, "give more lines, or a higher --limit"));
    }
    let base = arguments.embed(&arguments.against, &texts, context)?;
    let ours = arguments.embed(&arguments.model, &texts, context)?;
    if ours.width != base.width {
        let what = format!("embeddings of {} and of {} columns", ours.width, base.width);
        return Err(Error::usage(what, "compare a model with the one that it was made from"));
    }
    let summary = Summary::of(&ours.agreement(&base));
    context.print(|| summary.text(), || summary.json())
}

impl Arguments {
    fn embed(&self, name: &str, texts: &[&str], context: &Context) -> Result<Embeddings> {
        let model = self.engine.open(name, context)?;
        let tokenizer = Tokenizer::open(model.checkpoint())?;
        tokenizer.check_fits(model.vocabulary())?;
        let progress =
            context.bar(texts.len() as u64, "{msg} [{wide_bar}] {pos}/{len} texts eta {eta}", "embedding");
        let embeddings = Embeddings::of(&model, &tokenizer, texts, |done| {
            progress.set_position(done as u64);
            context.check_interrupted()
        });
        progress.finish_and_clear();
        embeddings
    }
}

struct Summary {
    texts: usize,
    mean: f64,
    /// Of the cosines: the least, the 1st and 5th percentile, the median.
    low: [f32; 4],
    same_nearest: f64,
}

impl Summary {
    fn of(agreement: &Agreement) -> Summary {
        let mut cosines = agreement.cosines.clone();
        cosines.sort_by(f32::total_cmp);
        let at = |part: f64| cosines[((cosines.len() - 1) as f64 * part) as usize];
        Summary {
            texts: cosines.len(),
            mean: cosines.iter().map(|c| f64::from(*c)).sum::<f64>() / cosines.len() as f64,
            low: [0.0, 0.01, 0.05, 0.5].map(at),
            same_nearest: agreement.same_nearest,
        }
    }

    fn text(&self) -> String {
        let [least, first, fifth, median] = self.low;
        format!(
            "{} texts\ncosine to the base   mean {:.5}, median {median:.5}, 5 % {fifth:.5}, 1 % {first:.5}, least {least:.5}\n\
             same nearest text    {:.1} %\n",
            self.texts,
            self.mean,
            100.0 * self.same_nearest
        )
    }

    fn json(&self) -> Value {
        let [least, first, fifth, median] = self.low;
        json!({
            "texts": self.texts,
            "cosine": { "mean": self.mean, "median": median, "p5": fifth, "p1": first, "min": least },
            "same_nearest": self.same_nearest,
        })
    }
}

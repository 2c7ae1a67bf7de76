//! Sentence embeddings of an encoder beside those of the model that it was made from.

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::host::{Host, Phase};
use super::record::Origin;
use crate::corpus::Text;
use crate::engine::Tokenizer;
use crate::error::{Error, Result};
use crate::eval::embeddings::{Agreement, Embeddings};

/// Two encoders to be compared.
#[derive(Debug, Clone, Default)]
pub struct CompareEmbeddings {
    /// The encoder to measure.
    pub model: String,
    /// The encoder that it was made from.
    pub against: String,
    /// A file or a dataset, a text per line.
    pub data: String,
    /// Most texts to read.
    pub limit: usize,
    /// The way that both are run.
    pub engine: Engine,
}

/// The record of a comparison of embeddings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingsRecord {
    /// Texts.
    pub texts: usize,
    /// Cosines of both embeddings of each text.
    pub cosine: Cosines,
    /// Share of texts whose nearest other text is the same under both models.
    pub same_nearest: f64,
    /// Version of this record, and its origin.
    #[serde(flatten)]
    pub origin: Origin<1>,
}

/// The distribution of cosines.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cosines {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub median: f32,
    /// 5th percentile.
    pub p5: f32,
    /// 1st percentile.
    pub p1: f32,
    /// Minimum.
    pub min: f32,
}

impl CompareEmbeddings {
    /// Embeds the texts with both models and compares.
    ///
    /// # Errors
    /// Fewer than two texts; models that cannot be run, or whose embeddings differ in width.
    pub fn run(&self, host: &dyn Host) -> Result<EmbeddingsRecord> {
        let text = Text::open(&self.data)?;
        let lines = text.text.lines().map(str::trim).filter(|line| !line.is_empty());
        let texts: Vec<&str> = lines.take(self.limit).collect();
        if texts.len() < 2 {
            let what = format!("{}: {} texts, one a line; at least 2 are compared", text.name, texts.len());
            return Err(Error::usage(what, "give more lines, or a higher --limit"));
        }
        let base = self.embed(&self.against, &texts, host)?;
        let ours = self.embed(&self.model, &texts, host)?;
        if ours.width != base.width {
            let what = format!("embeddings of {} and of {} columns", ours.width, base.width);
            return Err(Error::usage(what, "compare a model with the one that it was made from"));
        }
        Ok(record(&ours.agreement(&base)))
    }

    fn embed(&self, name: &str, texts: &[&str], host: &dyn Host) -> Result<Embeddings> {
        let model = self.engine.load(name, host)?;
        let tokenizer = Tokenizer::open(model.checkpoint())?;
        tokenizer.check_fits(model.vocabulary())?;
        let bar = host.bar(Phase::Embedding, texts.len() as u64);
        let embeddings = Embeddings::of(&model, &tokenizer, texts, |done| {
            bar.set_position(done as u64);
            host.check_interrupted()
        });
        bar.finish_and_clear();
        embeddings
    }
}

fn record(agreement: &Agreement) -> EmbeddingsRecord {
    let mut cosines = agreement.cosines.clone();
    cosines.sort_by(f32::total_cmp);
    let at = |part: f64| cosines[((cosines.len() - 1) as f64 * part) as usize];
    let mean = cosines.iter().map(|c| f64::from(*c)).sum::<f64>() / cosines.len() as f64;
    EmbeddingsRecord {
        texts: cosines.len(),
        cosine: Cosines { mean, median: at(0.5), p5: at(0.05), p1: at(0.01), min: at(0.0) },
        same_nearest: agreement.same_nearest,
        origin: Origin::here(),
    }
}

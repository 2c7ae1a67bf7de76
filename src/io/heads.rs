//! Heads that config.json ties to the embedding, and that the file has all the same. One of other values is a head of its own:
//! fine-tuning untied it.

use indexmap::IndexMap;
use serde_json::Value;

use super::map::MappedFile;
use super::source::{RawTensor, Source, Stored};
use crate::model;

const HEADS: [&str; 2] = ["lm_head", "embed_out"];
const TIED: &str = "tie_word_embeddings";
const EMBEDDINGS: [&str; 4] =
    ["embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight"];

/// Unties a head whose stored values differ from the embedding's, aloud.
pub(super) fn untie_different(config: &mut Value, tensors: &IndexMap<String, Source>, files: &[MappedFile]) {
    if !is_tied(config) {
        return;
    }
    let Some(head) = tensors.values().find(|source| is_head(&source.name)) else { return };
    let is_embedding = |source: &&Source| {
        source.shape == head.shape && EMBEDDINGS.iter().any(|end| source.name.ends_with(end))
    };
    let Some(embedding) = tensors.values().find(is_embedding) else { return };
    if bytes(head, files) == bytes(embedding, files) {
        return;
    }
    let (head, embedding) = (&head.name, &embedding.name);
    tracing::warn!(
        "{head} differs from {embedding}, which config.json ties it to: it stays a head of its own"
    );
    untie(config);
}

/// Returns true for the weight of an output head, alone or in a language model inside a larger one.
pub(crate) fn is_head(weight: &str) -> bool {
    let module = weight.strip_suffix(".weight").and_then(|module| module.rsplit('.').next());
    module.is_some_and(|module| HEADS.contains(&module))
}

/// Says in a config.json, and in that of the text model inside, that the head has weights of its own.
pub(crate) fn untie(config: &mut Value) {
    if let Some(text) = config.get_mut("text_config").and_then(Value::as_object_mut) {
        text.insert(TIED.into(), false.into());
    }
    if let Some(config) = config.as_object_mut() {
        config.insert(TIED.into(), false.into());
    }
}

/// Returns true if a config.json ties the head to the embedding.
pub(crate) fn is_tied(config: &Value) -> bool {
    let flag = |config: &Value| config.get(TIED).and_then(Value::as_bool);
    let text = config.get("text_config");
    let default = || {
        let arch = model::find(config).or_else(|| model::find(text?));
        arch.is_some_and(|arch| arch.outline.frame.tied)
    };
    flag(config).or_else(|| flag(text?)).unwrap_or_else(default)
}

/// The bytes of the tensors that hold dense values; none where they are quantized.
fn bytes<'a>(source: &Source, files: &'a [MappedFile]) -> Vec<Option<&'a [u8]>> {
    let raws: Vec<&RawTensor> = match &source.stored {
        Stored::Dense(raw) => vec![raw],
        Stored::Sparse { parts, .. } => parts.values().collect(),
        Stored::Quantized { .. } => Vec::new(),
    };
    raws.into_iter().map(|raw| files.get(raw.file)?.bytes().get(raw.range.clone())).collect()
}

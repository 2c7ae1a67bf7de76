//! The tensors of a GGUF: sources under GGUF's names, experts stacked, rows of q and k reordered.

use indexmap::IndexMap;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::io::{Checkpoint, Source, gguf};
use crate::model::{self, Arch};
use crate::plan::{OutputTensor, Piece};
use crate::tensor::rows_cols;

/// Tensors that some checkpoints carry and no engine needs.
const RECOMPUTED: &[&str] = &[".rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias"];

/// The architecture of a checkpoint.
///
/// # Errors
/// Where there is no config.json, or it names an architecture that llmc cannot rename.
pub(crate) fn architecture(checkpoint: &Checkpoint) -> Result<(&'static Arch, &Value)> {
    let Some(config) = &checkpoint.config else {
        return Err(Error::unsupported(
            format!("{}: GGUF needs the model's config.json", checkpoint.path.display()),
            "copy it beside the weights, or choose another format",
        ));
    };
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("none");
    model::find_hf(config).map(|arch| (arch, config)).ok_or_else(|| {
        Error::unsupported(
            format!("llmc does not know how GGUF names the tensors of model_type {model_type}"),
            format!("it knows {}; other formats take any model", model::known()),
        )
    })
}

/// Returns true if the tensors have GGUF's names already: a GGUF of an architecture that llmc does not know.
pub(crate) fn named_already(checkpoint: &Checkpoint) -> bool {
    checkpoint.config.is_none()
        && checkpoint.files.first().is_some_and(|file| file.bytes().starts_with(b"GGUF"))
}

/// The tensors of the output, in the order of the input.
pub(crate) fn arrange(checkpoint: &Checkpoint) -> Result<Vec<OutputTensor>> {
    if named_already(checkpoint) {
        return Ok(checkpoint.tensors.values().map(OutputTensor::whole).collect());
    }
    let (arch, config) = architecture(checkpoint)?;
    let tied = config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(arch.outline.frame.tied);
    let layers = ["num_hidden_layers", "n_layer"].iter().find_map(|key| config.get(*key)?.as_u64());
    let mut stacks: IndexMap<String, Vec<(usize, &Source)>> = IndexMap::new();
    let dropped =
        |name: &str| RECOMPUTED.iter().any(|end| name.ends_with(end)) || (tied && name == "lm_head.weight");
    for source in checkpoint.tensors.values().filter(|source| !dropped(&source.name)) {
        refuse_beyond(arch, layers, source)?;
        let place = arch.place(&source.name).ok_or_else(|| unknown(arch, source))?;
        stacks.entry(place.name).or_default().push((place.part.unwrap_or(0), source));
    }
    stacks.into_iter().map(|(name, parts)| stack(arch, config, name, parts)).collect()
}

/// Refuses a tensor of a layer that config.json does not have: llama.cpp loads no GGUF with more tensors than it expects.
fn refuse_beyond(arch: &Arch, layers: Option<u64>, source: &Source) -> Result<()> {
    let block = arch.tensor(&source.name).and_then(|tensor| tensor.numbers.block);
    match layers.zip(block) {
        Some((layers, block)) if block as u64 >= layers => Err(Error::unsupported(
            format!("{}: config.json describes a model of {layers} layers", source.name),
            "it does not belong to these weights: copy the right one",
        )),
        _ => Ok(()),
    }
}

fn unknown(arch: &Arch, source: &Source) -> Error {
    let what = format!("{}: llama.cpp's {} models have no such tensor", source.name, arch.gguf.name);
    Error::unsupported(
        what,
        "if the model does without it, leave it out of the checkpoint; else use another format",
    )
}

/// One tensor of the parts of a stack, which must be all there and alike.
fn stack(
    arch: &Arch,
    config: &Value,
    name: String,
    mut parts: Vec<(usize, &Source)>,
) -> Result<OutputTensor> {
    parts.sort_by_key(|(part, _)| *part);
    let (_, first) = parts[0];
    let complete =
        parts.iter().enumerate().all(|(at, (part, source))| at == *part && source.shape == first.shape);
    if !complete {
        let hint = "the checkpoint lacks experts, or they differ in shape: `llmc inspect` lists them";
        return Err(Error::unsupported(
            format!("{name}: its {} parts do not make a stack", parts.len()),
            hint,
        ));
    }
    let transform = gguf::transform(arch, config, &first.name);
    if !transform.fits(&first.shape) {
        let what = format!("{}: shape {:?} is not that of {transform:?}", first.name, first.shape);
        return Err(Error::unsupported(
            what,
            "config.json does not belong to these weights: copy the right one",
        ));
    }
    let is_stack = arch.content(&name).is_some_and(|content| content.is_stacked());
    let shape = match first.shape.as_slice() {
        part if is_stack => [&[parts.len()], part].concat(),
        // GGUF knows no matrices of one row.
        [1, columns] => vec![*columns],
        shape => shape.to_vec(),
    };
    let piece = |(_, source): &(usize, &Source)| Piece {
        source: source.name.clone(),
        rows: 0..rows_cols(&source.shape)[0],
    };
    Ok(OutputTensor { name, shape, pieces: parts.iter().map(piece).collect(), transform })
}

#[cfg(test)]
mod tests;

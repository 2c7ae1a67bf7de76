//! The metadata of a GGUF: what the model is, its settings, its tokenizer, and how llmc made it.

use super::arrange::{architecture, named_already};
use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::io::gguf::write::Constant;
use crate::io::gguf::{self, Metadata, Value, config};
use crate::io::hub::cached_id;
use crate::io::{Checkpoint, RawTensor, tokenizer};
use crate::model;
use crate::plan::Contents;
use crate::tensor::{BlockType, DType};

/// Version of the block types' layout: `GGML_QNT_VERSION`.
const QUANTIZATION_VERSION: u32 = 2;
/// Keys of a GGUF input that say how that file was written.
const OF_THE_FILE: &[&str] = &["general.alignment", "general.file_type", "general.quantization_version"];

/// The metadata, and the tensors that carry settings. Those of a GGUF input pass through.
///
/// # Errors
/// Settings or a tokenizer that GGUF has no form for.
pub(crate) fn metadata(contents: &Contents, checkpoint: &Checkpoint) -> Result<(Metadata, Vec<Constant>)> {
    let (mut metadata, constants) = match passed_through(checkpoint)? {
        // Another vocabulary: the tokenizer is made anew.
        Some(_) if !checkpoint.side_files.is_empty() => {
            (described(checkpoint)?, passed_constants(checkpoint)?)
        }
        Some(mut metadata) if checkpoint.whole.is_some() => {
            let (arch, config) = architecture(checkpoint)?;
            metadata.extend(
                config::to_metadata(arch, config).map_err(|error| error.in_checkpoint(&checkpoint.path))?,
            );
            (metadata, passed_constants(checkpoint)?)
        }
        Some(metadata) => (metadata, passed_constants(checkpoint)?),
        None => (described(checkpoint)?, made_constants(checkpoint)?),
    };
    if checkpoint.whole.is_some() {
        refuse_other_model(checkpoint)?;
    }
    metadata.insert("general.file_type".into(), Value::U32(file_type(contents)));
    metadata.insert("general.quantization_version".into(), Value::U32(QUANTIZATION_VERSION));
    let own = contents.metadata.iter().map(|(key, value)| (key.clone(), Value::String(value.clone())));
    metadata.extend(own);
    Ok((metadata, constants))
}

/// Refuses a model that was cut where GGUF's readers would make another of it: they know some settings by the numbers of layers.
fn refuse_other_model(checkpoint: &Checkpoint) -> Result<()> {
    let (arch, config) = architecture(checkpoint)?;
    let mut read = config.as_object().cloned().unwrap_or_default();
    read.remove("layer_types");
    read.extend(arch.gguf.fixed.iter().map(|(key, value)| ((*key).to_owned(), value.json())));
    let has = |name: &str| {
        checkpoint.tensors.keys().any(|tensor| arch.place(tensor).is_some_and(|place| place.name == name))
    };
    (arch.gguf.complete)(&mut read, &has);
    let [read, own] = [model::configure(&Json::Object(read))?, model::configure(config)?];
    if (read.layers, read.rotaries) == (own.layers, own.rotaries) {
        return Ok(());
    }
    let what = "the readers of GGUF know this model's layers by their numbers, and these have changed";
    Err(Error::unsupported(
        what,
        "write a folder, which says the kind of each layer; or cut channels or heads instead",
    ))
}

/// The metadata of a GGUF input, less what is about its file.
fn passed_through(checkpoint: &Checkpoint) -> Result<Option<Metadata>> {
    let Some(file) = checkpoint.files.first().filter(|file| gguf::is_gguf(file)) else {
        return Ok(None);
    };
    let mut metadata = gguf::parse(file.path(), file.bytes())?.metadata;
    let of_the_file =
        |key: &str| OF_THE_FILE.contains(&key) || key.starts_with("split.") || key.starts_with("llmc.");
    metadata.retain(|key, _| !of_the_file(key));
    Ok(Some(metadata))
}

/// The tensors of a GGUF input that carry settings, to the bit: not all of them follow from a config.json.
fn passed_constants(checkpoint: &Checkpoint) -> Result<Vec<Constant>> {
    let mut constants = Vec::new();
    // Files of corrected weights are no GGUF.
    let files = checkpoint.files.iter().filter(|file| gguf::is_gguf(file));
    for file in files.filter(|_| !named_already(checkpoint)) {
        let tensors = gguf::parse(file.path(), file.bytes())?.tensors;
        let carried = |raw: &RawTensor| config::SETTING_TENSORS.contains(&raw.name.as_str());
        constants.extend(tensors.into_iter().filter(carried).map(|raw| Constant {
            bytes: file.bytes()[raw.range].to_vec(),
            name: raw.name,
            dtype: raw.dtype,
            shape: raw.shape,
        }));
    }
    Ok(constants)
}

/// The tensors that carry settings of config.json.
fn made_constants(checkpoint: &Checkpoint) -> Result<Vec<Constant>> {
    let made = config::setting_tensors(architecture(checkpoint)?.1);
    let made = made.map_err(|error| error.in_checkpoint(&checkpoint.path))?;
    Ok(made.iter().map(|(name, values)| Constant::vector(name, values)).collect())
}

/// Metadata made from config.json and the tokenizer's files.
fn described(checkpoint: &Checkpoint) -> Result<Metadata> {
    let (arch, config) = architecture(checkpoint)?;
    let mut metadata =
        config::to_metadata(arch, config).map_err(|error| error.in_checkpoint(&checkpoint.path))?;
    metadata.insert("general.type".into(), Value::String("model".into()));
    metadata.insert("general.name".into(), Value::String(model_name(checkpoint)));
    let rows = ["model.embed_tokens.weight", "embed_tokens.weight"]
        .iter()
        .find_map(|name| checkpoint.tensors.get(*name)?.shape.first().copied());
    match tokenizer::Files::read(checkpoint)? {
        Some(files) => {
            let made = tokenizer::to_gguf(&files, config, rows.unwrap_or(0));
            metadata.extend(made.map_err(|error| error.in_checkpoint(&checkpoint.path))?);
        }
        None => {
            tracing::warn!("the checkpoint has no tokenizer that llmc reads: the GGUF will have none");
            metadata.insert("tokenizer.ggml.model".into(), Value::String("no_vocab".into()));
        }
    }
    Ok(metadata)
}

/// The folder's name (in the hub's cache, the repository's), or the file's without its extension.
fn model_name(checkpoint: &Checkpoint) -> String {
    let repository = cached_id(&checkpoint.path).map(|id| id.name().to_owned());
    let stem = || {
        let name =
            if checkpoint.path.is_dir() { checkpoint.path.file_name() } else { checkpoint.path.file_stem() };
        name.map(|name| name.to_string_lossy().into_owned())
    };
    repository.or_else(stem).unwrap_or_else(|| "model".into())
}

/// `llama_ftype`: the type of most weights, <https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h>. Of the
/// mixtures of k-quants, the small ones: every linear has the type that was asked for.
fn file_type(contents: &Contents) -> u32 {
    let mut elements: indexmap::IndexMap<DType, u64> = indexmap::IndexMap::new();
    for tensor in contents.tensors {
        for part in &tensor.parts {
            *elements.entry(part.dtype).or_default() += tensor.elements();
        }
    }
    let most = elements.into_iter().max_by_key(|(_, count)| *count).map(|(dtype, _)| dtype);
    match most {
        Some(DType::F16) => 1,
        Some(DType::BF16) => 32,
        Some(DType::Block(block)) => block_file_type(block),
        _ => 0,
    }
}

fn block_file_type(block: BlockType) -> u32 {
    match block {
        BlockType::Q4_0 => 2,
        BlockType::Q4_1 => 3,
        BlockType::Q8_0 => 7,
        BlockType::Q5_0 => 8,
        BlockType::Q5_1 => 9,
        BlockType::Q2_K => 10,
        BlockType::Q3_K => 11,
        BlockType::Q4_K => 14,
        BlockType::Q5_K => 16,
        BlockType::Q6_K => 18,
        BlockType::IQ4_NL => 25,
        BlockType::IQ4_XS => 30,
    }
}

//! `quantization_config` of config.json. The readers refuse keys that they do not know, so that only long-standing ones
//! are written: <https://github.com/vllm-project/compressed-tensors/tree/main/src/compressed_tensors/quantization>.

use serde_json::{Map, Value, json};

use super::layouts::{FP8_BLOCK, Layout};
use crate::export::modules::{self, Group};
use crate::export::patterns::patterns;
use crate::io::Checkpoint;
use crate::numerics::presets::ActivationScheme;
use crate::numerics::{EightBits, Granularity, Number, Scheme};
use crate::plan::Contents;

/// The version of the layouts.
const VERSION: &str = "0.20.0";

/// `None` where nothing is quantized. The cache of keys and values alone can be: then no module is targeted.
pub(crate) fn quantization_config(contents: &Contents, checkpoint: &Checkpoint) -> Option<Value> {
    let groups = modules::groups(contents);
    let activations = contents.activations;
    let format = |group: &Group| Layout::of(&group.scheme, activations).map(Layout::name);
    let first = groups.first().and_then(format);
    let cache = contents.kv_cache.map(fixed);
    if groups.is_empty() && cache.is_none() {
        return None;
    }
    let uniform = groups.iter().all(|group| format(group) == first);
    let config_group = |(i, group)| {
        let value = json!({
            "targets": targets(group, &groups),
            "format": format(group),
            "weights": weights(&group.scheme),
            "input_activations": activations.map(|activations| inputs(activations, &group.scheme)),
            "output_activations": null,
        });
        (format!("group_{i}"), value)
    };
    let config_groups: Map<String, Value> = groups.iter().enumerate().map(config_group).collect();
    Some(json!({
        "quant_method": "compressed-tensors",
        "format": if uniform { first.unwrap_or("dense") } else { "mixed-precision" },
        "quantization_status": "compressed",
        "config_groups": config_groups,
        "ignore": ignore(contents, checkpoint),
        "kv_cache_scheme": cache,
        "global_compression_ratio": null,
        "version": VERSION,
    }))
}

/// The names of the file; regular expressions where engines load modules under other names.
fn ignore(contents: &Contents, checkpoint: &Checkpoint) -> Vec<String> {
    let ignored = modules::ignored(contents, checkpoint);
    let renamed = ignored.renamed().into_iter().map(|pattern| format!("re:{pattern}"));
    ignored.names.iter().map(|name| (*name).to_owned()).chain(renamed).collect()
}

/// One scheme goes to every linear module that is not ignored; several name their modules. Modules of another class than
/// `Linear` (embeddings, and the head as vLLM has it) are always named.
fn targets(group: &Group, groups: &[Group]) -> Vec<String> {
    let others = groups.iter().filter(|other| other.scheme != group.scheme).flat_map(|other| &other.modules);
    let regexes = |modules: &[&str]| patterns(modules, others.clone()).into_iter().map(|p| format!("re:{p}"));
    match groups.len() {
        1 => ["Linear".to_owned()].into_iter().chain(regexes(&group.special)).collect(),
        _ => regexes(&group.modules).collect(),
    }
}

fn weights(scheme: &Scheme) -> Value {
    let (strategy, group_size, block) = match scheme.granularity {
        Granularity::Tensor => ("tensor", None, None),
        Granularity::Channel => ("channel", None, None),
        Granularity::Group(size) if *scheme == Scheme::NVFP4 => ("tensor_group", Some(size), None),
        Granularity::Group(size) => ("group", Some(size), None),
        Granularity::Block(rows, cols) => ("block", None, Some([rows, cols])),
    };
    json!({
        "num_bits": scheme.code_bits() as u8,
        "type": if matches!(scheme.number, Number::Int { .. }) { "int" } else { "float" },
        "symmetric": scheme.symmetric,
        "strategy": strategy,
        "group_size": group_size,
        "block_structure": block,
        "dynamic": false,
        "actorder": null,
        "observer": "minmax",
        "observer_kwargs": {},
    })
}

/// Activations under one scale that was measured.
fn fixed(number: EightBits) -> Value {
    json!({
        "num_bits": 8,
        "type": match number {
            EightBits::Int8 => "int",
            EightBits::Fp8 => "float",
        },
        "symmetric": true,
        "strategy": "tensor",
        "group_size": null,
        "block_structure": null,
        "dynamic": false,
        "actorder": null,
        "observer": "minmax",
        "observer_kwargs": {},
    })
}

/// The quantization of inputs. Groups go with weights in blocks: a layer that has none takes a scale per token.
fn inputs(activations: ActivationScheme, scheme: &Scheme) -> Value {
    let blocks = matches!(scheme.granularity, Granularity::Block(..));
    let (number, group_size) = match activations {
        ActivationScheme::Static(number) => return fixed(number),
        ActivationScheme::Int8Token => ("int", None),
        ActivationScheme::Fp8Group128 if blocks => ("float", Some(FP8_BLOCK)),
        ActivationScheme::Fp8Token | ActivationScheme::Fp8Group128 => ("float", None),
    };
    json!({
        "num_bits": 8,
        "type": number,
        "symmetric": true,
        "strategy": if group_size.is_some() { "group" } else { "token" },
        "group_size": group_size,
        "block_structure": null,
        "dynamic": true,
        "actorder": null,
        "observer": null,
        "observer_kwargs": {},
    })
}

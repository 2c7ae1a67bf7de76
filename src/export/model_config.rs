//! config.json and other JSON files of an output.

use serde_json::{Map, Value};

use crate::io::{Checkpoint, heads};
use crate::json::pretty;
use crate::plan::{Action, Contents, TensorPlan};
use crate::tensor::DType;

/// Sections in which tools describe how the weights of the input were packed.
const PACKED: [&str; 4] = ["quantization_config", "compression_config", "sparsity_config", "quantization"];
const DTYPES: [&str; 2] = ["dtype", "torch_dtype"];

/// config.json: that of the checkpoint with its `quantization_config` replaced (or removed) and, where the recipe
/// changes the float type, with the new one. Both hold for the configs of towers and text models inside it, too. A head that is
/// quantized is not tied to its embedding.
pub(crate) fn config_json(
    contents: &Contents,
    checkpoint: &Checkpoint,
    quantization: Option<Value>,
) -> (String, Vec<u8>) {
    let mut config = checkpoint.config.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    remove_packed(&mut config);
    if contents.dtype_requested {
        let name = torch_name(contents.dtype);
        if !DTYPES.iter().any(|key| config.contains_key(*key)) {
            config.insert("torch_dtype".into(), name.into());
        }
        replace_dtypes(&mut config, name);
    }
    let mut config = Value::Object(config);
    if quantizes_head(contents) && heads::is_tied(&config) {
        heads::untie(&mut config);
    }
    if let Some(quantization) = quantization {
        config["quantization_config"] = quantization;
    }
    ("config.json".into(), pretty(&config))
}

/// The configs inside a config: of a text model, of towers.
fn inner_configs(config: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    let inner = config.iter_mut().filter(|(key, _)| key.ends_with("_config"));
    inner.filter_map(|(_, value)| value.as_object_mut())
}

fn remove_packed(config: &mut Map<String, Value>) {
    PACKED.iter().for_each(|key| drop(config.remove(*key)));
    inner_configs(config).for_each(remove_packed);
}

fn replace_dtypes(config: &mut Map<String, Value>, name: &str) {
    for key in DTYPES {
        if let Some(dtype) = config.get_mut(key) {
            *dtype = name.into();
        }
    }
    inner_configs(config).for_each(|inner| replace_dtypes(inner, name));
}

fn quantizes_head(contents: &Contents) -> bool {
    let is_quantized = |tensor: &&TensorPlan| matches!(tensor.action, Action::Quantize(_));
    contents.tensors.iter().filter(is_quantized).any(|tensor| heads::is_head(&tensor.output.name))
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::F32 => "float32",
        _ => "bfloat16",
    }
}

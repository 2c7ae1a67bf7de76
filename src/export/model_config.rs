//! config.json and other JSON files of an output.

use serde_json::Value;

use crate::io::Checkpoint;
use crate::json::pretty;
use crate::plan::Contents;
use crate::tensor::DType;

/// config.json: that of the checkpoint with its `quantization_config` replaced (or removed) and, where the recipe
/// changes the float type, with the new one.
pub(crate) fn config_json(
    contents: &Contents,
    checkpoint: &Checkpoint,
    quantization: Option<Value>,
) -> (String, Vec<u8>) {
    let mut config = checkpoint.config.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    config.remove("quantization_config");
    if contents.dtype_requested {
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), torch_name(contents.dtype).into());
    }
    if let Some(quantization) = quantization {
        config.insert("quantization_config".into(), quantization);
    }
    ("config.json".into(), pretty(&Value::Object(config)))
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::F32 => "float32",
        _ => "bfloat16",
    }
}

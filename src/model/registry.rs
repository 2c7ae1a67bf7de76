//! The architectures that llmc can run, and how one is found.

use serde_json::Value;

use super::arch::{Arch, Missing};
use super::architectures::{bert, bloom, gemma, gpt_neox, gpt2, llama, olmo, opt, phi3, qwen, stablelm};
use super::description::Model;
use super::settings::Settings;
use crate::error::{Error, Result};

/// Every architecture that llmc can run. Where two share GGUF's name, they differ in whether they have experts.
pub const ARCHITECTURES: &[&Arch] = &[
    &llama::LLAMA,
    &llama::MIXTRAL,
    &qwen::QWEN2,
    &qwen::QWEN2_MOE,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &phi3::PHI3,
    &olmo::OLMO2,
    &olmo::OLMOE,
    &stablelm::STABLELM,
    &gpt2::GPT2,
    &gpt_neox::GPT_NEOX,
    &opt::OPT,
    &bloom::BLOOM,
    &bert::BERT,
];

/// Finds the architecture that config.json's `model_type` names.
pub(crate) fn find(config: &Value) -> Option<&'static Arch> {
    let model_type = config.get("model_type")?.as_str()?;
    ARCHITECTURES.iter().copied().find(|arch| arch.models.iter().any(|(name, _)| *name == model_type))
}

/// Returns the class of transformers that a config.json's `model_type` stands for, of the architectures that llmc runs.
pub(crate) fn class_of(config: &Value) -> Option<&'static str> {
    let model_type = config.get("model_type")?.as_str()?;
    let models = ARCHITECTURES.iter().flat_map(|arch| arch.models);
    models.copied().find(|(name, _)| *name == model_type).map(|(_, class)| class)
}

/// Finds the architecture that config.json's `model_type` names, where it has a form in GGUF.
pub(crate) fn find_hf(config: &Value) -> Option<&'static Arch> {
    find(config).filter(|arch| arch.has_gguf())
}

/// The settings of a config.json, with the defaults of transformers' classes for sizes that it leaves out, where llmc knows
/// these.
pub(crate) fn with_defaults(arch: &Arch, config: &Value) -> Value {
    let mut config = config.clone();
    for key in arch.keys() {
        if let (true, Missing::Int(default)) = (config.get(key.hf).is_none(), key.missing) {
            config[key.hf] = default.into();
        }
    }
    config
}

/// Describes the model of a config.json.
///
/// # Errors
/// [`Error::Unsupported`] where llmc does not know the architecture, or not one of its settings; [`Error::Malformed`] where
/// a setting is missing or absurd.
pub fn configure(config: &Value) -> Result<Model> {
    let arch = find(config).ok_or_else(|| {
        let found =
            config.get("model_type").and_then(Value::as_str).unwrap_or("no model_type in config.json");
        let what = format!("llmc cannot run this architecture: {found}");
        let all = types(ARCHITECTURES.iter());
        let hint = format!("it runs {all}; inspect, plan, quantize, convert and verify work on any");
        Error::unsupported(what, hint)
    })?;
    let settings = Settings(config);
    let mut model = arch.outline.read(&settings)?;
    (arch.adjust)(&settings, &mut model)?;
    model.validate()?;
    Ok(model)
}

/// Finds the architecture that a GGUF names, with or without experts.
pub(crate) fn find_gguf(name: &str, experts: bool) -> Option<&'static Arch> {
    let named = || ARCHITECTURES.iter().copied().filter(|arch| arch.has_gguf() && arch.gguf.name == name);
    named().find(|arch| arch.has_experts() == experts).or_else(|| named().next())
}

/// Returns the model types that have a form in GGUF, for hints.
pub(crate) fn known() -> String {
    types(ARCHITECTURES.iter().filter(|arch| arch.has_gguf()))
}

fn types<'a>(archs: impl Iterator<Item = &'a &'static Arch>) -> String {
    archs.flat_map(|arch| arch.models).map(|(model_type, _)| *model_type).collect::<Vec<_>>().join(", ")
}

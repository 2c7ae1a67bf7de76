//! The engines that load an output, and the lines that do it.

use serde_json::Value;

use crate::io::Checkpoint;
use crate::plan::{Engine, Plan};

/// The kind of a model, as transformers loads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It writes text: a class of transformers with a head.
    Writer(&'static str),
    /// It embeds text: `AutoModel`.
    Encoder,
    /// It embeds text, and has the modules of sentence-transformers.
    SentenceEncoder,
    /// Weights without a config.json: no engine knows the model.
    Weights,
}

impl Kind {
    /// The kind of a checkpoint, by its config.json.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Kind {
        let Some(config) = &checkpoint.config else { return Kind::Weights };
        match auto_class(config) {
            Some(class) => Kind::Writer(class),
            None if checkpoint.side_files.iter().any(|file| file.name == "modules.json") => {
                Kind::SentenceEncoder
            }
            None => Kind::Encoder,
        }
    }

    /// The hub's name of the task, for a card of a source that names none.
    pub(crate) fn pipeline_tag(self) -> Option<&'static str> {
        match self {
            Kind::Writer("AutoModelForCausalLM") => Some("text-generation"),
            Kind::Writer("AutoModelForImageTextToText") => Some("image-text-to-text"),
            Kind::Encoder => Some("feature-extraction"),
            Kind::SentenceEncoder => Some("sentence-similarity"),
            Kind::Writer(_) | Kind::Weights => None,
        }
    }
}

/// The class of transformers that loads a model with its head; `None` for encoders.
fn auto_class(config: &Value) -> Option<&'static str> {
    let class = config.pointer("/architectures/0").and_then(Value::as_str);
    let class = match class {
        Some(class) => class,
        None => crate::model::class_of(config)?,
    };
    match class {
        _ if class.ends_with("ForCausalLM") || class.ends_with("LMHeadModel") => Some("AutoModelForCausalLM"),
        _ if !class.ends_with("ForConditionalGeneration") => None,
        _ if config.get("vision_config").is_some() => Some("AutoModelForImageTextToText"),
        _ => Some("AutoModelForSeq2SeqLM"),
    }
}

/// The engines that load an output and run it.
pub(crate) fn engines(plan: &Plan, checkpoint: &Checkpoint) -> Vec<Engine> {
    let kind = Kind::of(checkpoint);
    let runs = |engine: &Engine| match engine {
        Engine::Transformers
        | Engine::TransformersCompressed
        | Engine::TransformersDequantizing
        | Engine::TransformersGptq => kind != Kind::Weights,
        Engine::Vllm | Engine::Sglang => {
            let texts = ["AutoModelForCausalLM", "AutoModelForImageTextToText"];
            matches!(kind, Kind::Writer(class) if texts.contains(&class))
        }
        Engine::LlamaCpp => true,
    };
    plan.engines().into_iter().filter(runs).collect()
}

/// Returns the command that serves an output.
pub fn serve_command(plan: &Plan, checkpoint: &Checkpoint, output: &str) -> Option<String> {
    let mut lines = engines(plan, checkpoint).into_iter().filter_map(|engine| match engine {
        Engine::Vllm => Some(format!("vllm serve {output}")),
        Engine::LlamaCpp => Some(format!("llama-server -m {output}")),
        _ => None,
    });
    lines.next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::auto_class;

    #[test]
    fn classes_follow_from_the_config() {
        let class = |name: &str| auto_class(&json!({ "architectures": [name] }));
        assert_eq!(class("LlamaForCausalLM"), Some("AutoModelForCausalLM"));
        assert_eq!(class("GPT2LMHeadModel"), Some("AutoModelForCausalLM"));
        assert_eq!(class("T5ForConditionalGeneration"), Some("AutoModelForSeq2SeqLM"));
        assert_eq!((class("BertModel"), class("BertForMaskedLM")), (None, None));
        let vision = json!({ "architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {} });
        assert_eq!(auto_class(&vision), Some("AutoModelForImageTextToText"));
        assert_eq!(auto_class(&json!({ "model_type": "llama" })), Some("AutoModelForCausalLM"));
        assert_eq!(auto_class(&json!({ "model_type": "bert" })), None);
    }
}

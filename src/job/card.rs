//! The model card: README.md of the output, with all that it takes to make the output again, to know what is in it and
//! to load it. <https://huggingface.co/docs/hub/model-cards>.

use std::fmt::Write;

use crate::export::adapter::FOLDER;
use crate::plan::{Action, Engine, Plan, TensorPlan};

/// Substitutions that are written out; the rest are counted.
const LISTED: usize = 20;

/// The card of an output. `command` is the line that made it; `source` is the model it was made from, as it was given.
pub(crate) fn model_card(plan: &Plan, command: &str, source: &str) -> String {
    let mut card = front_matter(plan, source);
    let scheme = plan.request.recipe.scheme.as_deref().unwrap_or("converted");
    let _ = writeln!(card, "\n# {} · {scheme}\n", title(source));
    let _ = writeln!(
        card,
        "Made from `{source}` by llmc {}, {}:\n\n```sh\n{command}\n```",
        env!("CARGO_PKG_VERSION"),
        if plan.request.recipe.calibration.is_some() { "calibrated" } else { "with no calibration data" },
    );
    card.push_str(&contents(plan));
    card.push_str(&substitutions(plan));
    card.push_str(&loading(plan));
    card.push_str(&provenance(plan));
    card
}

/// A hub id, or the last component of a path.
fn title(source: &str) -> &str {
    let name = source.trim_end_matches('/').rsplit('/').next().unwrap_or(source);
    if name.is_empty() { source } else { name }
}

/// `org/name`, which the hub links to; a path is nobody else's.
fn hub_id(source: &str) -> Option<&str> {
    let id = source.split('@').next()?;
    let (org, name) = id.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    (plain(org) && plain(name) && !std::path::Path::new(source).exists()).then_some(id)
}

fn front_matter(plan: &Plan, source: &str) -> String {
    let mut text = String::from("---\n");
    if let Some(id) = hub_id(source) {
        let _ = writeln!(text, "base_model: {id}\nbase_model_relation: quantized");
    }
    let library = if plan.request.format.capabilities().single_file { "llama.cpp" } else { "transformers" };
    let _ = writeln!(text, "library_name: {library}\ntags:\n- llmc\n- {}", plan.request.format.name());
    if let Some(scheme) = &plan.request.recipe.scheme {
        let _ = writeln!(text, "- {}", scheme.to_lowercase());
    }
    text + "---\n"
}

fn contents(plan: &Plan) -> String {
    let mut text = String::from(
        "\n## What is in it\n\n| stored as | tensors | bytes | bits per weight |\n|---|--:|--:|--:|\n",
    );
    let total = ("**all**".to_owned(), plan.total());
    for (name, total) in plan.totals().into_iter().chain([total]) {
        let bits = total.bits_per_weight();
        let _ = writeln!(text, "| {name} | {} | {} | {bits:.3} |", total.tensors, total.bytes);
    }
    text + "\nBits per weight count scales, zero points and whatever else is stored beside the codes.\n"
}

fn substitutions(plan: &Plan) -> String {
    let changed: Vec<_> = plan.tensors.iter().filter(|tensor| tensor.substituted).collect();
    if changed.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\n## Different from the request\n\n{} of {} tensors:\n\n",
        changed.len(),
        plan.tensors.len()
    );
    for tensor in changed.iter().take(LISTED) {
        let _ =
            writeln!(text, "- `{}`: {}", tensor.output.name, tensor.note.as_deref().unwrap_or("substituted"));
    }
    if changed.len() > LISTED {
        let _ = writeln!(text, "- and {} more, which `llmc plan` lists", changed.len() - LISTED);
    }
    text
}

fn loading(plan: &Plan) -> String {
    let mut text = String::from("\n## Loading it\n");
    for engine in plan.request.format.capabilities().engines {
        let (name, language, code) = snippet(*engine);
        let _ = writeln!(text, "\n{name}:\n\n```{language}\n{code}\n```");
        if *engine == Engine::TransformersCompressed && plan.tensors.iter().any(is_asymmetric) {
            text.push_str(ZERO_POINTS);
        }
    }
    text.push_str(&adapter(plan));
    text
}

/// The section on loading the adapter, if there is one.
fn adapter(plan: &Plan) -> String {
    let Some(rank) = plan.request.adapter_rank() else {
        return String::new();
    };
    let note = plan.request.format.capabilities().adapter_note;
    let note = note.map_or(String::new(), |note| format!("{note}\n\n"));
    format!(
        "\nWith the adapter that makes up for the error of quantization:\n\n{note}```python\nfrom peft import PeftModel\n\n\
         model = PeftModel.from_pretrained(model, \"PATH/{FOLDER}\")\n```\n\n```sh\nvllm serve PATH --enable-lora \
         --max-lora-rank {rank} --lora-modules compensated=PATH/{FOLDER}\n```\n"
    )
}

/// transformers 5.23 with compressed-tensors 0.20 allocates zero points unpacked, and then refuses packed ones.
const ZERO_POINTS: &str =
    "\nZero points load with `quantization_config=CompressedTensorsConfig(dequantize=True)` only.\n";

fn is_asymmetric(tensor: &TensorPlan) -> bool {
    matches!(tensor.action, Action::Quantize(scheme) if !scheme.symmetric)
}

/// The name of an engine, and the language and text of the lines that load a model with it.
fn snippet(engine: Engine) -> (&'static str, &'static str, &'static str) {
    const TRANSFORMERS: &str = "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
        model = AutoModelForCausalLM.from_pretrained(\"PATH\", dtype=\"auto\", device_map=\"auto\")\n\
        tokenizer = AutoTokenizer.from_pretrained(\"PATH\")";
    match engine {
        Engine::Transformers => ("transformers", "python", TRANSFORMERS),
        Engine::TransformersCompressed => {
            ("transformers (`pip install transformers compressed-tensors`)", "python", TRANSFORMERS)
        }
        Engine::TransformersGptq => {
            ("transformers (`pip install transformers optimum gptqmodel`)", "python", TRANSFORMERS)
        }
        Engine::Vllm => ("vLLM", "sh", "vllm serve PATH"),
        Engine::Sglang => ("SGLang", "sh", "python -m sglang.launch_server --model-path PATH"),
        Engine::LlamaCpp => ("llama.cpp", "sh", "llama-cli -m PATH"),
    }
}

fn provenance(plan: &Plan) -> String {
    if plan.metadata.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n## Provenance\n\nAlso in the metadata of the weight files.\n\n");
    let (blocks, lines): (Vec<_>, Vec<_>) = plan.metadata.iter().partition(|(_, value)| value.contains('\n'));
    for (key, value) in lines {
        let _ = writeln!(text, "- `{key}`: `{value}`");
    }
    for (key, value) in blocks {
        let _ = writeln!(text, "\n`{key}`:\n\n```\n{}\n```", value.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;
    use crate::tensor::DType;
    use crate::test_support::stored;

    #[test]
    fn a_card_says_how_what_and_where_from() {
        let mut tensor = stored("a.weight", DType::BF16, &[4, 8]);
        tensor.substituted = true;
        tensor.note = Some("left dense: 8 columns".into());
        let recipe = Recipe { scheme: Some("w4a16".into()), ..Recipe::default() };
        let plan = Plan {
            request: recipe.resolve().expect("w4a16 is a preset"),
            roles: crate::plan::Roles::default(),
            tensors: vec![tensor, stored("b", DType::F32, &[8])],
            dtype: DType::BF16,
            metadata: vec![("llmc.recipe".into(), "scheme = \"w4a16\"\n".into())],
        };
        let card = model_card(&plan, "llmc quantize org/name", "org/name@main");
        for expected in [
            "---\nbase_model: org/name\nbase_model_relation: quantized\nlibrary_name: transformers\n",
            "- compressed-tensors\n- w4a16\n---\n",
            "```sh\nllmc quantize org/name\n```",
            "| bf16 | 1 | 64 | 16.000 |",
            "| **all** | 2 | 96 | 19.200 |",
            "- `a.weight`: left dense: 8 columns",
            "vllm serve PATH",
            "`llmc.recipe`:\n\n```\nscheme = \"w4a16\"\n```",
        ] {
            assert!(card.contains(expected), "{expected:?} is not in\n{card}");
        }
    }

    #[test]
    fn only_hub_ids_are_base_models() {
        assert_eq!(hub_id("org/name@v1"), Some("org/name"));
        for path in ["model.safetensors", "./a/b", "/a/b", "a/b/c", "../b", "src/job"] {
            assert_eq!(hub_id(path), None, "{path}");
        }
    }
}

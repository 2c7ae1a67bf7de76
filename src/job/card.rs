//! The model card: README.md of the output, with all that it takes to make the output again, to know what is in it and
//! to load it. <https://huggingface.co/docs/hub/model-cards>.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::cut::stays;
use super::loading::{Kind, engines};
use super::source_card::SourceCard;
use crate::export::adapter::FOLDER;
use crate::io::Checkpoint;
use crate::names::shell_word;
use crate::numerics::{Granularity, Number};
use crate::plan::{Engine, Plan};

/// Substitutions that are written out; the rest are counted.
const LISTED: usize = 20;

/// An output to be described.
pub(crate) struct Card<'a> {
    /// Its plan.
    pub plan: &'a Plan,
    /// The model it is made from.
    pub checkpoint: &'a Checkpoint,
    /// The model as it was named.
    pub model: &'a str,
    /// The line that makes it.
    pub command: &'a str,
    /// The name of its folder.
    pub name: &'a str,
}

impl Card<'_> {
    /// The card.
    pub(crate) fn text(&self) -> String {
        let Card { plan, checkpoint, model, command, name } = *self;
        let source = SourceCard::of(model, checkpoint);
        let kind = Kind::of(checkpoint);
        let mut card = front_matter(plan, kind, &source);
        let _ = writeln!(card, "\n# {}, {}\n", source.name, done(plan));
        let _ = writeln!(
            card,
            "Made from `{model}` by llmc {}, {}:\n\n```sh\n{command}\n```",
            env!("CARGO_PKG_VERSION"),
            if plan.request.recipe.calibration.is_some() { "calibrated" } else { "with no calibration data" },
        );
        card.push_str(&contents(plan));
        card.push_str(&cut(checkpoint));
        card.push_str(&zeros(plan));
        card.push_str(&substitutions(plan));
        card.push_str(&loading(plan, kind, &engines(plan, checkpoint), name));
        card.push_str(&provenance(plan));
        if !source.text.is_empty() {
            let _ = writeln!(card, "\n## Card of {}\n\n{}", source.name, source.text);
        }
        card
    }
}

/// The scheme and the method, for the title: `INT4 (w4a16, group 64, gptq)`.
fn done(plan: &Plan) -> String {
    let recipe = &plan.request.recipe;
    let Some(scheme) = plan.request.scheme else {
        return match plan.request.sparsity() {
            Some(zeros) => format!("{zeros} ({})", recipe.method_names()),
            None if plan.request.reshapes() => format!("made smaller ({})", recipe.method_names()),
            None => format!("converted to {}", plan.dtype.name().to_uppercase()),
        };
    };
    let number = match scheme.number {
        Number::Int { bits } => format!("INT{bits}"),
        _ => scheme.to_string().split(' ').next().unwrap_or_default().to_uppercase(),
    };
    let group = match scheme.granularity {
        Granularity::Group(size) if !matches!(scheme.number, Number::Ggml(_)) => format!(", group {size}"),
        _ => String::new(),
    };
    format!("{number} ({}{group}, {})", recipe.scheme.as_deref().unwrap_or_default(), recipe.method_names())
}

/// The YAML that the hub reads.
fn front_matter(plan: &Plan, kind: Kind, source: &SourceCard) -> String {
    let mut front = source.inherited.clone();
    if let (false, Some(tag)) = (front.contains_key("pipeline_tag"), kind.pipeline_tag()) {
        front.insert("pipeline_tag".to_owned(), tag.into());
    }
    if let Some(base) = &source.base {
        front.insert("base_model".to_owned(), base.clone());
        front.insert("base_model_relation".to_owned(), relation(plan).into());
    }
    front.insert("library_name".to_owned(), library(kind).into());
    let scheme = plan.request.recipe.scheme.iter().map(|scheme| scheme.to_lowercase());
    let tags: Vec<String> =
        ["llmc".to_owned(), plan.request.format.name().to_owned()].into_iter().chain(scheme).collect();
    front.insert("tags".to_owned(), json!(tags));
    format!("---\n{}\n---\n", yaml(&front).trim_end())
}

/// The relation to the base model, of those that the hub knows.
fn relation(plan: &Plan) -> &'static str {
    let only_cuts = plan.request.reshapes() && plan.request.scheme.is_none();
    if plan.request.only_prunes() || only_cuts { "finetune" } else { "quantized" }
}

fn library(kind: Kind) -> &'static str {
    match kind {
        Kind::SentenceEncoder => "sentence-transformers",
        Kind::Writer(_) | Kind::Encoder | Kind::Weights => "transformers",
    }
}

/// Returns a mapping as YAML. A map of JSON always has that form.
fn yaml(front: &Map<String, Value>) -> String {
    serde_saphyr::to_string(front).unwrap_or_default()
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

/// The section on what was cut, if anything was.
fn cut(checkpoint: &Checkpoint) -> String {
    let Some(stays) = stays(checkpoint) else { return String::new() };
    format!(
        "\nOf the model it was made from, there stay {stays}. Its config.json says so: engines load it like any other. What was lost \
         shows in long answers first; training makes up for much of it.\n"
    )
}

/// The section on zeros, if there are any.
fn zeros(plan: &Plan) -> String {
    let Some(zeros) = plan.request.sparsity() else { return String::new() };
    format!(
        "\nPruned linears hold {zeros}, stored like other weights: engines run them at the same speed. \
         `llmc verify` proves the pattern.\n"
    )
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

fn loading(plan: &Plan, kind: Kind, engines: &[Engine], name: &str) -> String {
    if kind == Kind::Weights {
        return NO_CONFIG.to_owned();
    }
    let mut text = String::from("\n## Loading it\n");
    for engine in engines {
        let (title, language, code) = snippet(*engine, kind, name);
        let _ = writeln!(text, "\n{title}:\n\n```{language}\n{code}\n```");
        if *engine == Engine::TransformersDequantizing {
            text.push_str(ZERO_POINTS);
        }
    }
    text.push_str(&adapter(plan, engines, name));
    text
}

const NO_CONFIG: &str = "\n## Loading it\n\nThe source has no config.json, and so has this folder: engines do not know \
                         the model. Put its config.json and its tokenizer beside the weights.\n";

/// The section on loading the adapter, if there is one.
fn adapter(plan: &Plan, engines: &[Engine], name: &str) -> String {
    let Some(rank) = plan.request.adapter_rank() else {
        return String::new();
    };
    let note = plan.request.format.capabilities().adapter_note;
    let note = note.map_or(String::new(), |note| format!("{note}\n\n"));
    let folder = format!("{name}/{FOLDER}");
    let serve = match engines.contains(&Engine::Vllm) {
        true => format!(
            "\n```sh\nvllm serve {} --enable-lora --max-lora-rank {rank} --lora-modules compensated={}\n```\n",
            shell_word(name),
            shell_word(&folder)
        ),
        false => String::new(),
    };
    format!(
        "\nWith the adapter that makes up for the error of quantization:\n\n{note}```python\nfrom peft import PeftModel\n\n\
         model = PeftModel.from_pretrained(model, {})\n```\n{serve}",
        literal(&folder)
    )
}

/// transformers 5.23 with compressed-tensors 0.20 allocates zero points unpacked, and then refuses packed ones.
const ZERO_POINTS: &str =
    "\nZero points load with `quantization_config=CompressedTensorsConfig(dequantize=True)` only.\n";

/// The name of an engine, and the language and text of the lines that load a model with it.
fn snippet(engine: Engine, kind: Kind, name: &str) -> (&'static str, &'static str, String) {
    let packages = |with: &'static str, sentences: &'static str| {
        let title = if kind == Kind::SentenceEncoder { sentences } else { with };
        (title, "python", python(kind, &literal(name)))
    };
    let path = shell_word(name);
    match engine {
        Engine::Transformers => packages("transformers", "sentence-transformers"),
        Engine::TransformersCompressed | Engine::TransformersDequantizing => packages(
            "transformers (`pip install transformers compressed-tensors`)",
            "sentence-transformers (`pip install sentence-transformers compressed-tensors`)",
        ),
        Engine::TransformersGptq => packages(
            "transformers (`pip install transformers optimum gptqmodel`)",
            "sentence-transformers (`pip install sentence-transformers optimum gptqmodel`)",
        ),
        Engine::Vllm => ("vLLM", "sh", format!("vllm serve {path}")),
        Engine::Sglang => ("SGLang", "sh", format!("python -m sglang.launch_server --model-path {path}")),
        Engine::LlamaCpp => ("llama.cpp", "sh", format!("llama-cli -m {path}")),
    }
}

/// A name as a string of Python.
fn literal(name: &str) -> String {
    Value::from(name).to_string()
}

/// The lines of Python that load a model, whose name is a string of Python.
fn python(kind: Kind, name: &str) -> String {
    let class = match kind {
        Kind::SentenceEncoder => {
            return format!(
                "from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer({name})"
            );
        }
        Kind::Writer(class) => class,
        Kind::Encoder | Kind::Weights => "AutoModel",
    };
    let reader = if class == "AutoModelForImageTextToText" { "AutoProcessor" } else { "AutoTokenizer" };
    let variable = if reader == "AutoProcessor" { "processor" } else { "tokenizer" };
    format!(
        "from transformers import {class}, {reader}\n\n\
         model = {class}.from_pretrained({name}, dtype=\"auto\", device_map=\"auto\")\n\
         {variable} = {reader}.from_pretrained({name})"
    )
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
#[allow(clippy::unwrap_used)]
mod tests;

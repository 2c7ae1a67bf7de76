//! The modules that a plan quantizes, by scheme, and those that it leaves dense, as the formats' configs name them.

use std::collections::HashSet;

use serde_json::Value;

use super::layout::module;
use super::patterns::{LANGUAGE_MODEL, bare, in_language_model, patterns, subtree};
use crate::io::{Checkpoint, heads};
use crate::numerics::Scheme;
use crate::plan::{Action, Contents, TensorPlan, apart, predicting_from};

/// Modules that share a scheme.
#[derive(Debug, Clone)]
pub(crate) struct Group<'a> {
    /// Their scheme.
    pub scheme: Scheme,
    /// In the order of the plan.
    pub modules: Vec<&'a str>,
    /// Those that not every engine has as a `Linear`: embeddings, heads.
    pub special: Vec<&'a str>,
}

/// Returns the quantized modules by scheme, the scheme of most modules first.
pub(crate) fn groups<'a>(contents: &Contents<'a>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = Vec::new();
    for tensor in contents.tensors {
        let Action::Quantize(scheme) = tensor.action else { continue };
        let index = groups.iter().position(|group| group.scheme == scheme).unwrap_or(groups.len());
        if index == groups.len() {
            groups.push(Group { scheme, modules: Vec::new(), special: Vec::new() });
        }
        groups[index].modules.push(module(&tensor.output.name));
        if !tensor.linear {
            groups[index].special.push(module(&tensor.output.name));
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.modules.len()));
    groups
}

/// Returns the modules whose matrices are stored dense: heads, routers, embeddings, all that a format or the user left alone.
fn dense<'a>(contents: &Contents<'a>) -> Vec<&'a str> {
    contents.tensors.iter().filter_map(dense_module).collect()
}

fn dense_module(tensor: &TensorPlan) -> Option<&str> {
    let name = &tensor.output.name;
    let stored = matches!(tensor.action, Action::Store(dtype) if dtype.is_float());
    match tensor.output.shape.len() {
        2 if stored => name.strip_suffix(".weight"),
        // A stack of experts is a parameter: its module is the one that holds it.
        3 if stored => {
            name.rsplit_once('.').map(|(module, _)| module).filter(|module| module.ends_with("experts"))
        }
        _ => None,
    }
}

/// The modules that readers must leave alone.
#[derive(Debug)]
pub(crate) struct Ignored<'a> {
    /// Modules by the names that the file has.
    pub names: Vec<&'a str>,
    /// Towers for images and sound and heads that predict further tokens, of which no module is quantized: their paths in
    /// the file.
    pub whole: Vec<&'a str>,
    /// The modules that are quantized.
    quantized: Vec<&'a str>,
    /// True if the model is one of several in a larger one, whose modules engines rename.
    is_composite: bool,
}

/// Returns the modules that readers must leave alone: those that are stored dense, and the head of a language model that
/// shares the embedding's weight.
pub(crate) fn ignored<'a>(contents: &Contents<'a>, checkpoint: &Checkpoint) -> Ignored<'a> {
    const HEAD: &str = "lm_head";
    let mut ignored = stored_dense(contents, checkpoint);
    let stored = contents.tensors.iter().any(|tensor| heads::is_head(&tensor.output.name));
    if !stored && checkpoint.config.as_ref().is_some_and(has_head) {
        ignored.names.push(HEAD);
    }
    // gate_up_proj and down_proj of a stack are one module.
    ignored.names.dedup();
    ignored
}

/// Returns the modules that are stored dense.
pub(crate) fn stored_dense<'a>(contents: &Contents<'a>, checkpoint: &Checkpoint) -> Ignored<'a> {
    let config = checkpoint.config.as_ref();
    let layers = config.and_then(predicting_from);
    let tensors = contents.tensors.iter().filter(|tensor| matches!(tensor.action, Action::Quantize(_)));
    let quantized: Vec<&str> = tensors.map(|tensor| module(&tensor.output.name)).collect();
    let touched: HashSet<&str> = quantized.iter().filter_map(|name| apart(name, layers)).collect();
    let is_left_alone = |name: &&str| apart(name, layers).is_some_and(|root| !touched.contains(root));
    let (inside, names): (Vec<&str>, Vec<&str>) = dense(contents).into_iter().partition(is_left_alone);
    let mut whole: Vec<&str> = inside.into_iter().filter_map(|name| apart(name, layers)).collect();
    whole.sort_unstable();
    whole.dedup();
    let inner = ["text_config", "vision_config"];
    let is_composite = inner.iter().any(|key| config.is_some_and(|config| config.get(key).is_some()))
        || names.iter().chain(&quantized).any(|name| name.contains(LANGUAGE_MODEL));
    Ignored { names, whole, quantized, is_composite }
}

impl Ignored<'_> {
    /// Returns regular expressions for what engines load under other names than the file's: everything in a tower, and the
    /// modules of a text model inside a larger one. They match nothing that is quantized.
    pub(crate) fn renamed(&self) -> Vec<String> {
        let mut found: Vec<String> = self.whole.iter().map(|root| subtree(root)).collect();
        if self.is_composite {
            found.extend(patterns(&self.names, &self.quantized));
        }
        found
    }

    /// Returns names in the place of regular expressions, for readers that compare parts of names.
    pub(crate) fn aliases(&self) -> Vec<String> {
        let whole = self.whole.iter().flat_map(|root| {
            let bare = bare(root);
            [bare.to_owned(), format!("model.{bare}")]
        });
        let inner = self.names.iter().filter(|_| self.is_composite);
        let inner = inner.flat_map(|name| other_names(name).into_iter().filter(move |other| other != name));
        whole.chain(inner).collect()
    }
}

/// The names under which engines load a module of a text model inside a larger one.
fn other_names(name: &str) -> Vec<String> {
    let inner = in_language_model(name).unwrap_or(bare(name));
    match inner.contains('.') {
        true => ["model.", "model.language_model.", "language_model.model."]
            .map(|prefix| format!("{prefix}{inner}"))
            .to_vec(),
        false => vec![inner.to_owned()],
    }
}

fn has_head(config: &Value) -> bool {
    let architectures = config.get("architectures").and_then(Value::as_array);
    let mut names = architectures.into_iter().flatten().filter_map(Value::as_str);
    names.any(|name| name.ends_with("ForCausalLM") || name.ends_with("ForConditionalGeneration"))
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    fn ignored() -> Ignored<'static> {
        Ignored {
            names: vec![
                "lm_head",
                "language_model.model.layers.0.mlp.gate",
                "language_model.model.layers.0.mlp.up_proj",
            ],
            whole: vec!["model.vision_tower", "visual", "mtp", "model.layers.61"],
            quantized: vec!["language_model.model.layers.1.mlp.up_proj"],
            is_composite: true,
        }
    }

    #[test]
    fn what_engines_rename_is_matched_under_each_name() {
        let patterns: Vec<Regex> =
            ignored().renamed().iter().map(|p| Regex::new(&format!("^{p}")).expect("a pattern")).collect();
        let matched = |name: &str| patterns.iter().any(|pattern| pattern.is_match(name));
        for name in [
            "vision_tower.encoder.layers.0.fc1",
            "model.vision_tower.encoder.layers.0.qkv_proj",
            "model.visual.merger.mlp.0",
            "visual",
            "mtp.layers.0.mlp.up_proj",
            "model.layers.61.mlp.experts.7.up_proj",
            "lm_head",
            "model.language_model.layers.3.mlp.gate",
            "model.language_model.layers.0.mlp.up_proj",
        ] {
            assert!(matched(name), "{name}");
        }
        for name in [
            "model.language_model.layers.3.mlp.gate_proj",
            "model.language_model.layers.1.mlp.up_proj",
            "model.layers.6.self_attn.q_proj",
            "visuals.fc1",
        ] {
            assert!(!matched(name), "{name}");
        }
    }

    #[test]
    fn aliases_are_the_names_that_engines_load() {
        let aliases = ignored().aliases();
        for name in ["visual", "model.visual", "vision_tower", "model.language_model.layers.0.mlp.gate"] {
            assert!(aliases.iter().any(|alias| alias == name), "{name} in {aliases:?}");
        }
        assert!(!aliases.iter().any(|alias| alias.contains("layers.1.")), "{aliases:?}");
    }
}

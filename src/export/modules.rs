//! The modules that a plan quantizes, by scheme, and those that it leaves dense, as the formats' configs name them.

use std::collections::HashSet;

use serde_json::Value;

use super::layout::module;
use crate::io::Checkpoint;
use crate::numerics::Scheme;
use crate::plan::{Action, Contents, FUSED_PROJECTIONS, TensorPlan};

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
pub(crate) fn dense<'a>(contents: &Contents<'a>) -> Vec<&'a str> {
    contents.tensors.iter().filter_map(dense_module).collect()
}

fn dense_module(tensor: &TensorPlan) -> Option<&str> {
    let name = &tensor.output.name;
    let stored = matches!(tensor.action, Action::Store(dtype) if dtype.is_float());
    match tensor.output.shape.len() {
        2 if stored => name.strip_suffix(".weight"),
        // A stack of experts is a parameter: its module is the one that holds it.
        3 if stored && !name.ends_with(".weight") => Some(name.rsplit_once('.')?.0),
        _ => None,
    }
}

/// Returns the modules that readers must leave alone: those that are stored dense, and the head of a language model that
/// shares the embedding's weight.
pub(crate) fn ignored<'a>(contents: &Contents<'a>, checkpoint: &Checkpoint) -> Vec<&'a str> {
    const HEAD: &str = "lm_head";
    let mut names = dense(contents);
    let stored = contents.tensors.iter().any(|tensor| module(&tensor.output.name) == HEAD);
    if !stored && checkpoint.config.as_ref().is_some_and(has_head) {
        names.push(HEAD);
    }
    // gate_up_proj and down_proj of a stack are one module.
    names.dedup();
    names
}

fn has_head(config: &Value) -> bool {
    let architectures = config.get("architectures").and_then(Value::as_array);
    let mut names = architectures.into_iter().flatten().filter_map(Value::as_str);
    names.any(|name| name.ends_with("ForCausalLM") || name.ends_with("ForConditionalGeneration"))
}

/// Returns regular expressions that match `modules` and none of `others`. Modules that differ only by layer (or expert) share
/// one, which matches any beginning before the layers: engines rename it.
pub(crate) fn patterns<'a>(modules: &[&str], others: impl IntoIterator<Item = &'a &'a str>) -> Vec<String> {
    let taken: HashSet<String> = others.into_iter().map(|name| generalize(name)).collect();
    let mut seen = HashSet::new();
    let mut patterns: Vec<String> = Vec::new();
    for name in modules {
        let general = generalize(name);
        let pattern = if taken.contains(&general) { escape(name) } else { general };
        if seen.insert(pattern.clone()) {
            patterns.push(pattern);
        }
    }
    patterns.into_iter().map(|pattern| format!("{pattern}$")).collect()
}

/// Adds the patterns of the modules that engines fuse, where all their members are matched: some readers look the fused name
/// up, and not its members'.
pub(crate) fn with_fused(mut patterns: Vec<String>) -> Vec<String> {
    let members: HashSet<String> = patterns.iter().cloned().collect();
    for (whole, parts) in FUSED_PROJECTIONS {
        let is_matched = |prefix: &str, part: &str| members.contains(&format!("{prefix}{part}$"));
        let first = format!("{}$", parts[0]);
        let prefixes = members.iter().filter_map(|pattern| pattern.strip_suffix(&first));
        let complete = prefixes.filter(|prefix| parts.iter().all(|part| is_matched(prefix, part)));
        let mut fused: Vec<String> = complete.map(|prefix| format!("{prefix}{whole}_proj$")).collect();
        fused.sort();
        patterns.append(&mut fused);
    }
    patterns
}

/// `model.layers.3.mlp.up_proj` → `(?:.*\.)?layers\.\d+\.mlp\.up_proj`; a name without numbers as it is.
fn generalize(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let Some(first) = parts.iter().position(|part| number(part)) else { return escape(name) };
    let general = |part: &&str| if number(part) { r"\d+".to_owned() } else { escape(part) };
    let tail: Vec<String> = parts[first.saturating_sub(1)..].iter().map(general).collect();
    format!(r"(?:.*\.)?{}", tail.join(r"\."))
}

fn escape(name: &str) -> String {
    let special = |c: char| !(c.is_alphanumeric() || c == '_');
    name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(modules: &[&str], others: &[&str], expected: &[&str]) {
        assert_eq!(patterns(modules, others), expected);
    }

    #[test]
    fn layers_share_a_pattern() {
        check(
            &["model.layers.0.mlp.down_proj", "model.layers.11.mlp.down_proj"],
            &["model.layers.0.mlp.up_proj", "lm_head"],
            &[r"(?:.*\.)?layers\.\d+\.mlp\.down_proj$"],
        );
    }

    #[test]
    fn a_kind_that_is_divided_is_spelt_out() {
        check(
            &["model.layers.0.mlp.down_proj", "lm_head"],
            &["model.layers.1.mlp.down_proj"],
            &[r"model\.layers\.0\.mlp\.down_proj$", "lm_head$"],
        );
    }

    #[test]
    fn fused_modules_are_matched_too() {
        let modules = ["l.0.a.q_proj", "l.0.a.k_proj", "l.0.a.v_proj", "l.0.m.up_proj"];
        let found = with_fused(patterns(&modules, &[]));
        assert_eq!(found.len(), 5);
        assert_eq!(found[4], r"(?:.*\.)?l\.\d+\.a\.qkv_proj$");
    }
}

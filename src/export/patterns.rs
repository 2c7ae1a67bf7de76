//! Regular expressions over the names of modules, as readers match them: from the beginning of a name (Python's `re.match`).
//!
//! Engines rename modules: `language_model.model.layers…` of a file is loaded as `model.language_model.layers…`. So patterns
//! match any beginning, as far as that matches nothing else.

use std::collections::{HashMap, HashSet};

use crate::plan::{FUSED_PROJECTIONS, apart, is_number};

/// The language model inside a larger one.
pub(super) const LANGUAGE_MODEL: &str = "language_model.";
const ANY_PREFIX: &str = r"(?:.*\.)?";

/// Returns regular expressions that match `modules` and none of `others`. Modules that differ only by layer (or expert) share
/// one, where none of the others differs from them only so.
pub(crate) fn patterns<'a>(modules: &[&str], others: impl IntoIterator<Item = &'a &'a str>) -> Vec<String> {
    let others: Vec<&str> = others.into_iter().copied().collect();
    let kinds: HashSet<String> = others.iter().map(|name| kind(name)).collect();
    let ends: HashSet<&str> = others.iter().flat_map(|name| ends(name)).collect();
    let mut general: HashMap<String, Option<String>> = HashMap::new();
    let mut seen = HashSet::new();
    let mut patterns: Vec<String> = Vec::new();
    for name in modules {
        let shared = general.entry(kind(name)).or_insert_with(|| shared_pattern(name, &kinds));
        let pattern = shared.clone().unwrap_or_else(|| own_pattern(name, &ends));
        if seen.insert(pattern.clone()) {
            patterns.push(pattern);
        }
    }
    patterns.into_iter().map(|pattern| format!("{pattern}$")).collect()
}

/// The path of a module and all its ends: `a.b.c`, `b.c`, `c`.
fn ends(name: &str) -> impl Iterator<Item = &str> {
    std::iter::once(name).chain(name.match_indices('.').map(|(at, _)| &name[at + 1..]))
}

/// The pattern of one module: behind any prefix, or only behind `model.` where the path of another ends like it.
fn own_pattern(name: &str, ends: &HashSet<&str>) -> String {
    let is_taken = whole_paths(name).iter().any(|path| ends.contains(path.as_str()));
    let prefix = if is_taken { r"(?:model\.)?" } else { ANY_PREFIX };
    format!("{prefix}{}", rooted(name, false))
}

/// Returns the regular expression of a module and everything in it, behind any prefix.
pub(crate) fn subtree(module: &str) -> String {
    format!(r"{ANY_PREFIX}{}(?:\..*)?$", escape(bare(module)))
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

/// The pattern of a module and its like in other layers: the shortest end of its path, else the whole path. `None` where
/// both match one of the others, which are given as kinds.
fn shared_pattern(name: &str, others: &HashSet<String>) -> Option<String> {
    let is_free = |ends: &[String]| !others.iter().any(|other| ends.iter().any(|end| ends_with(other, end)));
    let parts: Vec<&str> = name.split('.').collect();
    match (parts.iter().position(|part| is_number(part)), in_language_model(name)) {
        (Some(first), _) => {
            let end = &parts[first.saturating_sub(1)..];
            if is_free(&[kind(&end.join("."))]) {
                return Some(format!("{ANY_PREFIX}{}", join(end, true)));
            }
        }
        (None, Some(inner)) if is_free(&[inner.to_owned()]) => {
            return Some(format!("{ANY_PREFIX}{}", escape(inner)));
        }
        (None, None) if apart(name, None).is_none() => return Some(escape(name)),
        (None, _) => {}
    }
    let paths: Vec<String> = whole_paths(name).iter().map(|path| kind(path)).collect();
    is_free(&paths).then(|| format!("{ANY_PREFIX}{}", rooted(name, true)))
}

/// The whole path of a module, under each name of the language model in it.
fn whole_paths(name: &str) -> Vec<String> {
    match in_language_model(name) {
        Some(inner) => vec![format!("{LANGUAGE_MODEL}{inner}"), format!("{LANGUAGE_MODEL}model.{inner}")],
        None => vec![bare(name).to_owned()],
    }
}

/// The path of a module in the language model inside a larger one: behind `language_model.model.` and the like.
pub(super) fn in_language_model(name: &str) -> Option<&str> {
    bare(name).strip_prefix(LANGUAGE_MODEL).map(bare)
}

/// A path without the `model.` that engines add and take away.
pub(super) fn bare(path: &str) -> &str {
    path.strip_prefix("model.").unwrap_or(path)
}

/// Returns true if a path is or ends with another.
fn ends_with(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The name of the same module in the first layer, and of the first expert.
fn kind(name: &str) -> String {
    name.split('.').map(|part| if is_number(part) { "0" } else { part }).collect::<Vec<_>>().join(".")
}

/// The pattern of the whole path of a module, as engines load it. `general` is true to match all layers and experts.
fn rooted(name: &str, general: bool) -> String {
    let (root, path) = match in_language_model(name) {
        Some(inner) => (r"language_model\.(?:model\.)?", inner),
        None => ("", bare(name)),
    };
    format!("{root}{}", join(&path.split('.').collect::<Vec<_>>(), general))
}

fn join(parts: &[&str], general: bool) -> String {
    let one = |part: &&str| if general && is_number(part) { r"\d+".to_owned() } else { escape(part) };
    parts.iter().map(one).collect::<Vec<_>>().join(r"\.")
}

fn escape(name: &str) -> String {
    let special = |c: char| !(c.is_alphanumeric() || c == '_');
    name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    fn check(modules: &[&str], others: &[&str], expected: &[&str]) {
        assert_eq!(patterns(modules, others), expected);
        let matches = |name: &str| {
            let regex = |pattern: &&str| Regex::new(&format!("^(?:{pattern})")).expect("a pattern");
            expected.iter().any(|pattern| regex(pattern).is_match(name))
        };
        assert!(modules.iter().all(|name| matches(name)), "{modules:?}");
        assert!(!others.iter().any(|name| matches(name)), "{others:?}");
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
            &[r"(?:.*\.)?layers\.0\.mlp\.down_proj$", "lm_head$"],
        );
    }

    /// Another stack whose paths end like those of the text model: patterns behind any prefix would match it.
    #[test]
    fn paths_that_end_alike_are_told_apart() {
        check(
            &["model.layers.0.self_attn.o_proj", "lm_head"],
            &["model.layers.1.self_attn.o_proj", "local.layers.0.self_attn.o_proj", "talker.lm_head"],
            &[r"(?:model\.)?layers\.0\.self_attn\.o_proj$", "lm_head$"],
        );
        let merger = r"(?:.*\.)?visual\.merger\.linear_fc1$";
        check(&["model.visual.merger.linear_fc1"], &["model.visual.blocks.0.attn.qkv"], &[merger]);
    }

    /// Towers have layers of the same names as the text model's.
    #[test]
    fn towers_are_told_from_text() {
        let text = "language_model.model.layers.0.self_attn.q_proj";
        let tower = "vision_tower.encoder.layers.0.self_attn.q_proj";
        let expected = r"(?:.*\.)?vision_tower\.encoder\.layers\.\d+\.self_attn\.q_proj$";
        check(&[tower], &[text], &[expected]);
        let expected = r"(?:.*\.)?language_model\.(?:model\.)?layers\.\d+\.self_attn\.q_proj$";
        check(&[text], &[tower], &[expected]);
        let matched = |name: &str| Regex::new(&format!("^{expected}")).expect("a pattern").is_match(name);
        assert!(matched("model.language_model.layers.7.self_attn.q_proj"));
        assert!(!matched("model.vision_tower.encoder.layers.7.self_attn.q_proj"));
    }

    #[test]
    fn fused_modules_are_matched_too() {
        let modules = ["l.0.a.q_proj", "l.0.a.k_proj", "l.0.a.v_proj", "l.0.m.up_proj"];
        let found = with_fused(patterns(&modules, &[]));
        assert_eq!(found.len(), 5);
        assert_eq!(found[4], r"(?:.*\.)?l\.\d+\.a\.qkv_proj$");
    }
}

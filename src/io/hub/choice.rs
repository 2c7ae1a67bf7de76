//! The weight files of a repository without an index: the only model in it, or the one that the user names.

use super::id::{Id, is_weights};
use crate::error::{Error, Result};
use crate::io::index::is_plain_name;
use crate::io::weight_files::{SINGLE_FILE, is_one_split};

/// Names that are listed in a hint.
const LISTED: usize = 8;

/// The weight files of an id among the names of its repository.
///
/// # Errors
/// No weights; several models, of which the id names none, or more than one.
pub(super) fn choose(id: &Id, names: &[&str]) -> Result<Vec<String>> {
    let found = match &id.file {
        Some(file) => matching(file, names),
        None if names.contains(&SINGLE_FILE) => vec![SINGLE_FILE],
        None => at_the_top(names),
    };
    match (only_model(&found), &id.file) {
        (Some(_), _) => Ok(found.into_iter().map(str::to_owned).collect()),
        (None, _) if at_the_top(names).is_empty() && matching("", names).is_empty() => Err(no_weights(id)),
        (None, Some(file)) if found.is_empty() => Err(no_such_file(id, file, names)),
        (None, _) => Err(several(id, names)),
    }
}

/// The weight files whose names are, or contain, what the user says; in name order.
pub(super) fn matching<'a>(file: &str, names: &[&'a str]) -> Vec<&'a str> {
    let mut weights: Vec<&str> = names.iter().copied().filter(|name| is_plain_weights(name)).collect();
    weights.sort_unstable();
    let named: Vec<&str> = weights.iter().copied().filter(|name| last(name) == file).collect();
    if !named.is_empty() {
        return named;
    }
    let words: Vec<&str> = weights.iter().copied().filter(|name| has_word(name, file)).collect();
    let is_gguf = |name: &&str| name.ends_with(".gguf") && !last(name).starts_with("mmproj");
    words.into_iter().filter(is_gguf).collect()
}

fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The first file of the only model that these files make up: one file, or the parts of a split one, in name order.
pub(super) fn only_model<'a>(files: &[&'a str]) -> Option<&'a str> {
    match files {
        [one] => Some(one),
        [first, ..] if is_one_split(&files.iter().map(Into::into).collect::<Vec<_>>()) => Some(first),
        _ => None,
    }
}

/// Returns true if a name contains a word, in either case, with nothing that would make it another word around it: `Q4_K` is
/// not in `Q4_K_M`.
fn has_word(name: &str, word: &str) -> bool {
    let (name, word) = (name.to_lowercase(), word.to_lowercase());
    let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.match_indices(&word).any(|(start, _)| {
        let (before, after) = (&name[..start], &name[start + word.len()..]);
        !before.ends_with(|c: char| c.is_ascii_alphanumeric()) && !after.starts_with(is_inside)
    })
}

fn is_plain_weights(name: &str) -> bool {
    is_weights(name) && name.split('/').all(is_plain_name)
}

/// The only safetensors file, else every GGUF, of those that lie in no folder.
fn at_the_top<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let with = |end: &str| {
        let mut found: Vec<&str> =
            names.iter().copied().filter(|n| is_plain_name(n) && n.ends_with(end)).collect();
        found.sort_unstable();
        found
    };
    let safetensors = with(".safetensors");
    if safetensors.is_empty() { with(".gguf") } else { safetensors }
}

fn no_weights(id: &Id) -> Error {
    Error::unsupported(
        format!("{id} has no weights that llmc reads (.safetensors, .gguf)"),
        "look for a converted copy of the model, or convert it with transformers' save_pretrained",
    )
}

fn several(id: &Id, names: &[&str]) -> Error {
    let files = listed(names);
    let what = format!("{id} has several weight files and no index: {files}");
    let hint = format!("name one of them, or a part of its name: {}:Q4_K_M", id.model);
    Error::unsupported(what, hint)
}

fn no_such_file(id: &Id, file: &str, names: &[&str]) -> Error {
    Error::unsupported(
        format!("{id}: no weight file is named {file}"),
        format!("there are {}", listed(names)),
    )
}

fn listed(names: &[&str]) -> String {
    let mut weights: Vec<&str> = names.iter().copied().filter(|name| is_plain_weights(name)).collect();
    weights.sort_unstable();
    let more = if weights.len() > LISTED { ", …" } else { "" };
    format!("{}{more}", weights[..weights.len().min(LISTED)].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 7] = [
        "README.md",
        "x.Q4_K_S.gguf",
        "x.Q4_K_M.gguf",
        "x-q8_0.gguf",
        "mmproj-q8_0.gguf",
        "BF16/x-BF16-00002-of-00002.gguf",
        "BF16/x-BF16-00001-of-00002.gguf",
    ];

    #[test]
    fn a_quantization_names_one_file() {
        let check = |file: &str, expected: &[&str]| assert_eq!(matching(file, &NAMES), expected, "{file}");
        check("Q4_K_M", &["x.Q4_K_M.gguf"]);
        check("q4_k_m", &["x.Q4_K_M.gguf"]);
        check("Q8_0", &["x-q8_0.gguf"]);
        check("mmproj-q8_0.gguf", &["mmproj-q8_0.gguf"]);
        check("Q4_K", &[]);
        check("bf16", &["BF16/x-BF16-00001-of-00002.gguf", "BF16/x-BF16-00002-of-00002.gguf"]);
        assert_eq!(matching("x", &["../x.gguf"]), Vec::<&str>::new());
    }

    #[test]
    fn parts_of_a_split_file_are_one_model() {
        assert_eq!(only_model(&matching("BF16", &NAMES)), Some("BF16/x-BF16-00001-of-00002.gguf"));
        assert_eq!(only_model(&matching("x", &NAMES)), None);
        assert_eq!(only_model(&[]), None);
    }
}

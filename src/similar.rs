//! Names that are nearly the same: for hints about a mistyped name or path.

use std::path::{Path, PathBuf};

/// Similarity (Jaro-Winkler) from which a known name counts as near.
const NEAR: f64 = 0.75;
/// The same for a file, whose folder may hold many others.
const NEAR_FILE: f64 = 0.9;
/// Entries of a folder that are compared.
const MOST_ENTRIES: usize = 10_000;

/// Returns the known name that is most like `name`, if any is near.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    most_like(name, known.iter().copied(), NEAR)
}

fn most_like<'a>(name: &str, known: impl Iterator<Item = &'a str>, near: f64) -> Option<&'a str> {
    let similarity = |known: &str| strsim::jaro_winkler(&known.to_lowercase(), &name.to_lowercase());
    let nearest = known.max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    nearest.filter(|known| similarity(known) > near)
}

/// Returns true if two names differ in case, or in the character between their words, at most.
pub(crate) fn same(a: &str, b: &str) -> bool {
    let plain = |c: char| if c == '_' { '-' } else { c.to_ascii_lowercase() };
    a.chars().map(plain).eq(b.chars().map(plain))
}

/// Returns the existing path that is most like a path that does not exist: the first of its components that is missing is
/// replaced by a near one beside it. `None` if nothing near it exists.
pub(crate) fn existing(path: &Path) -> Option<PathBuf> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing = path.ancestors().take_while(is_missing).last()?;
    let name = missing.file_name()?.to_str()?;
    let folder = missing.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = folder.unwrap_or(Path::new(".")).read_dir().ok()?;
    let names: Vec<String> = entries
        .take(MOST_ENTRIES)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let nearest = most_like(name, names.iter().map(String::as_str), NEAR_FILE)?;
    let whole = missing.with_file_name(nearest).join(path.strip_prefix(missing).ok()?);
    let whole: PathBuf = whole.components().collect(); // an empty rest leaves a slash at the end
    whole.exists().then_some(whole)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_in_either_case() {
        assert!(same("Q4_K_M", "q4-k-m") && same("GPTQ-v2", "gptq_V2"));
        assert!(!same("q4_k", "q4_k_m") && !same("w4a16", "w4a17"));
    }

    #[test]
    fn the_nearest_name_is_found_if_it_is_near() {
        assert_eq!(nearest("gtpq", &["awq", "gptq", "gguf"]), Some("gptq"));
        assert_eq!(nearest("magic", &["awq", "gptq", "gguf"]), None);
    }

    #[test]
    fn a_mistyped_component_of_a_path_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("models/qwen");
        std::fs::create_dir_all(&model).unwrap();
        std::fs::write(model.join("model.safetensors"), "").unwrap();
        let check = |mistyped: &str, expected: Option<&str>| {
            let found = existing(&folder.path().join(mistyped));
            assert_eq!(found, expected.map(|path| folder.path().join(path)), "{mistyped}");
        };
        check("models/qwne", Some("models/qwen"));
        check("modles/qwen/model.safetensors", Some("models/qwen/model.safetensors"));
        check("models/qwen/model.safetensor", Some("models/qwen/model.safetensors"));
        check("models/qwen/other.bin", None);
        check("modles/gone", None);
        check("models/qwen", None);
    }
}

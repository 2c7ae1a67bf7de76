//! Names as training left them: torch.compile, FSDP, activation checkpointing and DistributedDataParallel put segments into the
//! names of a state dict, which no engine knows. They are taken out, aloud.

use std::path::Path;

use indexmap::IndexMap;

use super::RawTensor;
use crate::error::{Error, Result};

/// Segments that wrappers put anywhere.
const SEGMENTS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// DistributedDataParallel's, before every name.
const PARALLEL: &str = "module";

/// Takes the segments of wrappers out of the names of tensors. `path` is what was opened, for errors.
///
/// # Errors
/// Two tensors of one name then.
pub(super) fn strip(path: &Path, raw: IndexMap<String, RawTensor>) -> Result<IndexMap<String, RawTensor>> {
    let parallel = raw.keys().all(|name| unwrapped(name).next() == Some(PARALLEL));
    let clean = |name: &str| unwrapped(name).skip(usize::from(parallel)).collect::<Vec<_>>().join(".");
    let Some((first, _)) = raw.iter().find(|(name, _)| clean(name) != **name) else { return Ok(raw) };
    tracing::warn!("{}: {first} is read as {}: training wrapped it", path.display(), clean(first));
    let mut stripped = IndexMap::with_capacity(raw.len());
    for (name, tensor) in raw {
        let clean = clean(&name);
        if stripped.insert(clean.clone(), RawTensor { name: clean, ..tensor }).is_some() {
            let hint = "the checkpoint holds two models: save the unwrapped one again";
            return Err(Error::malformed_tensor(
                path,
                name,
                "one tensor",
                "it with and without a wrapper",
                hint,
            ));
        }
    }
    Ok(stripped)
}

/// The segments of a name without those of wrappers.
fn unwrapped(name: &str) -> impl Iterator<Item = &str> {
    name.split('.').filter(|segment| !SEGMENTS.contains(segment))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn names(names: &[&str]) -> Result<Vec<String>> {
        let tensor = |name: &&str| {
            let raw =
                RawTensor { name: (*name).into(), dtype: DType::F32, shape: vec![1], file: 0, range: 0..4 };
            ((*name).to_owned(), raw)
        };
        let stripped = strip(Path::new("m"), names.iter().map(tensor).collect())?;
        assert!(stripped.iter().all(|(name, tensor)| *name == tensor.name));
        Ok(stripped.into_keys().collect())
    }

    #[test]
    fn wrappers_are_taken_out() {
        let check = |given: &[&str], expected: &[&str]| assert_eq!(names(given).unwrap(), expected);
        check(&["_orig_mod.a.weight", "lm_head.weight"], &["a.weight", "lm_head.weight"]);
        check(&["module.a.weight", "module._orig_mod.b.weight"], &["a.weight", "b.weight"]);
        check(&["layers.0._checkpoint_wrapped_module.q.weight"], &["layers.0.q.weight"]);
        // A model may have a module of that name.
        check(&["module.a.weight", "b.weight"], &["module.a.weight", "b.weight"]);
        check(&[], &[]);
    }

    #[test]
    fn two_tensors_of_one_name_are_refused() {
        let error = names(&["a.weight", "_orig_mod.a.weight"]).unwrap_err().to_string();
        assert!(error.contains("with and without a wrapper"), "{error}");
    }
}

//! Checks of the files that evaluations write, before the work: they replace only what an evaluation wrote.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::io::map::MappedFile;
use crate::io::safetensors;

/// The arrays that evaluations write: logits, and what each position scored.
const ARRAYS: [&str; 8] = ["logits", "tokens", "nll", "kld", "delta_p", "token", "position", "same_top"];
/// Fields of each line of answered questions.
const FIELDS: [&str; 3] = ["task", "question", "scores"];
/// The longest line that is looked at.
const LONGEST_LINE: u64 = 1 << 24;

/// Refuses to replace a file that does not hold arrays of an evaluation.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage).
pub(crate) fn check_arrays(output: &Path) -> Result<()> {
    let is_ours = |name: &str| ARRAYS.contains(&name);
    check(output, || {
        let file = MappedFile::open(output)?;
        let tensors = safetensors::parse(output, 0, file.bytes())?.tensors;
        Ok(!tensors.is_empty() && tensors.iter().all(|tensor| is_ours(&tensor.name)))
    })
}

/// Refuses to replace a file that does not hold answered questions.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage).
pub(crate) fn check_samples(output: &Path) -> Result<()> {
    check(output, || {
        let mut line = String::new();
        let file = File::open(output).map_err(|e| Error::io(output, e))?;
        let read = BufReader::new(file.take(LONGEST_LINE)).read_line(&mut line);
        read.map_err(|e| Error::io(output, e))?;
        let sample = serde_json::from_str::<Value>(&line).unwrap_or_default();
        Ok(FIELDS.iter().all(|field| sample.get(field).is_some()))
    })
}

/// Checks a file that is there: a link is not followed, and an empty file is free.
fn check(output: &Path, is_ours: impl FnOnce() -> Result<bool>) -> Result<()> {
    let Ok(found) = output.symlink_metadata() else { return Ok(()) };
    if found.is_file() && (found.len() == 0 || is_ours().unwrap_or(false)) {
        return Ok(());
    }
    Err(Error::usage(
        format!("{} is there, and no evaluation of llmc wrote it: it is not replaced", output.display()),
        "write to another file, or remove this one yourself",
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::eval::arrays::{Array, ArrayFile};
    use crate::tensor::DType;

    #[test]
    fn only_results_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, array: &'static str| {
            let array = Array { name: array, dtype: DType::U32, shape: vec![1] };
            let mut file = ArrayFile::create(&path(name), &[array], json!({})).unwrap();
            file.write([[1, 2, 3, 4]]).unwrap();
            file.finish().unwrap();
        };
        write("logits.safetensors", "tokens");
        write("model.safetensors", "lm_head.weight");
        std::fs::write(path("tokenizer.json"), "{}").unwrap();
        std::fs::write(path("samples.jsonl"), "{\"task\":\"a\",\"question\":0,\"scores\":{}}\n").unwrap();
        std::fs::write(path("empty"), "").unwrap();
        for (name, arrays, samples) in [
            ("logits.safetensors", true, false),
            ("model.safetensors", false, false),
            ("tokenizer.json", false, false),
            ("samples.jsonl", false, true),
            ("empty", true, true),
            ("new", true, true),
            (".", false, false),
        ] {
            assert_eq!(check_arrays(&path(name)).is_ok(), arrays, "{name}");
            assert_eq!(check_samples(&path(name)).is_ok(), samples, "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        let error = check_arrays(&link).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("not replaced"), "{error}");
    }
}

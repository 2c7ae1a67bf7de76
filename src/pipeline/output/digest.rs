//! The identity of an input: blake3 over its weight files.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::error::Result;
use crate::io::Checkpoint;
use crate::pipeline::options::interrupted;
use crate::plan::Plan;

/// Inputs of at most so many bytes stay in memory after hashing, for the work that follows.
const KEPT: usize = 512 << 20;
/// Bytes hashed between two checks of the interrupt flag.
const STRIDE: usize = 64 << 20;

/// blake3 of the weight file, as `b3sum` prints it; of several, blake3 of the `b3sum` listing of their names in order.
pub(crate) fn input_digest(checkpoint: &Checkpoint, stop: &AtomicBool) -> Result<String> {
    tracing::info!(files = checkpoint.files.len(), "hashing the input");
    let keep = checkpoint.files.iter().map(|file| file.bytes().len()).sum::<usize>() <= KEPT;
    let digests = checkpoint
        .files
        .par_iter()
        .map(|file| {
            let mut hasher = blake3::Hasher::new();
            for (index, bytes) in file.bytes().chunks(STRIDE).enumerate() {
                if stop.load(Ordering::Relaxed) {
                    return Err(interrupted());
                }
                hasher.update_rayon(bytes);
                if !keep {
                    file.release(index * STRIDE..index * STRIDE + bytes.len());
                }
            }
            let name = file.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((hasher.finalize().to_hex().to_string(), name))
        })
        .collect::<Result<Vec<_>>>()?;
    if let [(only, _)] = digests.as_slice() {
        return Ok(only.clone());
    }
    let mut listing = blake3::Hasher::new();
    for (digest, name) in &digests {
        writeln!(listing, "{digest}  {name}").expect("hashing cannot fail");
    }
    Ok(listing.finalize().to_hex().to_string())
}

/// The identity of a model: blake3 over the [`input_digest`] of its weights and config.json, which says what they compute.
pub(crate) fn model_digest(checkpoint: &Checkpoint, weights: &str) -> String {
    let config = checkpoint.config_text();
    blake3::hash(format!("{weights}\n{config}").as_bytes()).to_hex().to_string()
}

/// The metadata of an output: version, recipe, and the identity of the input (its [`input_digest`]).
pub(crate) fn provenance(plan: &Plan, checkpoint: &Checkpoint, digest: &str) -> Vec<(String, String)> {
    let input = checkpoint.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    vec![
        ("llmc.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("llmc.recipe".to_owned(), plan.request.recipe.to_toml()),
        ("llmc.input".to_owned(), input),
        ("llmc.input.blake3".to_owned(), digest.to_owned()),
    ]
}

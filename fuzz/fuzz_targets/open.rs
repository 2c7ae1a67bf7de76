//! Whole checkpoints, opened and read: what lies between a valid container and the numbers (architectures, tokenizers,
//! quantized layouts). Input: a GGUF file, or config.json, a line that reads `----`, and a safetensors file.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use llmc::io::{Checkpoint, Source};

const SEPARATOR: &[u8] = b"\n----\n";
/// Values read of one tensor: shapes may be large without bytes behind them (empty tensors).
const MOST: usize = 1 << 16;

/// In memory where the system has such a folder; one per process, so that jobs run side by side.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let shared = Path::new("/dev/shm");
    let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let folder = base.join(format!("llmc-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for the inputs");
    folder
});

fuzz_target!(|bytes: &[u8]| {
    let Some(path) = write(bytes) else { return };
    let Ok(checkpoint) = Checkpoint::open(path.to_str().expect("it has no odd characters")) else { return };
    for source in checkpoint.tensors.values() {
        read(&checkpoint, source);
    }
});

fn write(bytes: &[u8]) -> Option<PathBuf> {
    if bytes.starts_with(b"GGUF") {
        let path = FOLDER.join("fuzz.gguf");
        fs::write(&path, bytes).expect("room for the input");
        return Some(path);
    }
    let at = bytes.windows(SEPARATOR.len()).position(|window| window == SEPARATOR)?;
    let path = FOLDER.join("model.safetensors");
    fs::write(FOLDER.join("config.json"), &bytes[..at]).expect("room for the input");
    fs::write(&path, &bytes[at + SEPARATOR.len()..]).expect("room for the input");
    Some(path)
}

fn read(checkpoint: &Checkpoint, source: &Source) {
    let _ = checkpoint.bytes(source);
    let [rows, cols] = llmc::tensor::rows_cols(&source.shape);
    let rows = rows.min(MOST / cols.max(1));
    if rows.checked_mul(cols).is_none_or(|values| values > MOST) {
        return;
    }
    let mut out = vec![0.0; rows * cols];
    let _ = checkpoint.read_rows(source, 0..rows, &mut out);
    let _ = checkpoint.read_codes(source, 0..rows);
    checkpoint.release(source, 0..rows);
}

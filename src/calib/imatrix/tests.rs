//! Importance matrices that gguf-py wrote (`fixtures/imatrix`), ours, and broken ones.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::test_support::{checkpoint, fixture};

/// As fixtures/imatrix/generate_imatrix.py fills them: column j of matrix m of tensor t.
fn value(t: usize, m: usize, j: usize) -> f64 {
    ((j % 7 + 1) * (m + 1) + t) as f64 * 0.5
}

fn said(result: Result<Imatrix>, expected: &str) {
    let error = result.unwrap_err();
    assert!(error.to_string().contains(expected) && error.hint().is_some(), "{error}");
}

fn written(name: &str, bytes: &[u8], checkpoint: &Checkpoint) -> Result<Imatrix> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    Imatrix::read(&path, checkpoint)
}

#[test]
fn what_gguf_py_wrote_is_read() {
    let imatrix = Imatrix::read(&fixture("imatrix/dense.gguf"), &checkpoint("tiny-llama")).unwrap();
    assert_eq!((imatrix.chunk_count, imatrix.chunk_size), (5, 8));
    assert_eq!(imatrix.datasets, ["one.txt", "two.txt"]);
    let names: Vec<&str> = imatrix.linears.keys().map(String::as_str).collect();
    assert_eq!(names, ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"]);
    for (t, statistics) in imatrix.linears.values().enumerate() {
        assert_eq!((statistics.tokens, statistics.sum_squares.len()), (40, [160, 512][t]));
        assert!(statistics.sum_squares.iter().enumerate().all(|(j, sum)| *sum == value(t, 0, j)));
    }
}

#[test]
fn experts_are_taken_apart() {
    let imatrix = Imatrix::read(&fixture("imatrix/experts.gguf"), &checkpoint("tiny-qwen3-moe")).unwrap();
    assert_eq!(imatrix.linears.len(), 8 + 1);
    for expert in 0..8 {
        let statistics = &imatrix.linears[&format!("model.layers.1.mlp.experts.{expert}.down_proj.weight")];
        let tokens = [0, 7, 14, 0, 28, 35, 42, 49][expert];
        assert_eq!(statistics.tokens, tokens);
        let expected = |j| if tokens == 0 { 0.0 } else { value(1, expert, j) };
        assert!(statistics.sum_squares.iter().enumerate().all(|(j, sum)| *sum == expected(j)));
    }
}

#[test]
fn what_is_written_is_what_gguf_py_writes() {
    for (name, model) in [("dense", "tiny-llama"), ("experts", "tiny-qwen3-moe")] {
        let (path, checkpoint) = (fixture(&format!("imatrix/{name}.gguf")), checkpoint(model));
        let imatrix = Imatrix::read(&path, &checkpoint).unwrap();
        let ours = imatrix.encode(&checkpoint).unwrap();
        assert_eq!(written("ours.gguf", &ours, &checkpoint).unwrap().linears.len(), imatrix.linears.len());
        let theirs = std::fs::read(&path).unwrap();
        let (a, b) = (gguf::parse(&path, &ours).unwrap(), gguf::parse(&path, &theirs).unwrap());
        assert!(a.metadata.iter().all(|(key, value)| b.metadata.get(key) == Some(value)));
        assert!(b.tensors.iter().filter(|raw| !raw.name.starts_with("blk.9.")).count() == a.tensors.len());
        for raw in &a.tensors {
            let other = b.tensors.iter().find(|other| other.name == raw.name).unwrap();
            assert_eq!((&raw.shape, raw.dtype), (&other.shape, other.dtype), "{}", raw.name);
            assert_eq!(ours[raw.range.clone()], theirs[other.range.clone()], "{}", raw.name);
        }
    }
}

#[test]
fn the_older_form_has_the_same_means() {
    let llama = checkpoint("tiny-llama");
    let new = Imatrix::read(&fixture("imatrix/dense.gguf"), &llama).unwrap();
    let old = Imatrix::read(&fixture("imatrix/dense.dat"), &llama).unwrap();
    assert_eq!((old.chunk_count, &old.datasets[..]), (5, &["two.txt".to_owned()][..]));
    for (name, statistics) in &new.linears {
        let (a, b) = (statistics.second_moment(), old.linears[name].second_moment());
        assert_eq!(a.len(), b.len(), "{name}");
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-6 * a), "{name}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let (llama, moe) = (checkpoint("tiny-llama"), checkpoint("tiny-qwen3-moe"));
    said(Imatrix::read(&fixture("imatrix/dense.gguf"), &moe), "expected matrices of 64 columns");
    said(written("x", b"", &llama), "4 more bytes");
    said(written("x", &[1, 0, 0, 0, 255, 255, 255, 255], &llama), "expected an importance matrix");
    said(written("x", &[0, 0, 0, 0], &llama), "found no tensors");
    let mut imatrix = Imatrix::read(&fixture("imatrix/dense.gguf"), &llama).unwrap();
    let unknown = Imatrix { datasets: vec!["x".into()], ..Imatrix::default() }.encode(&llama).unwrap();
    said(written("x", &unknown, &llama), "found no tensors");
    imatrix.linears[0].sum_squares[3] = f64::NAN;
    said(
        written("x", &imatrix.encode(&llama).unwrap(), &llama),
        "expected sums of squares and counts, found NaN",
    );
    imatrix.linears.insert("model.other.weight".into(), Statistics::default());
    assert!(imatrix.encode(&llama).unwrap_err().to_string().contains("model.other.weight: no name in GGUF"));
    let mut experts = Imatrix::read(&fixture("imatrix/experts.gguf"), &moe).unwrap();
    experts.linears.shift_remove("model.layers.1.mlp.experts.3.down_proj.weight");
    assert!(experts.encode(&moe).unwrap_err().to_string().contains("7 parts that do not follow each other"));
    let model = written("x", &whole(&Metadata::default(), &[]).unwrap(), &llama);
    said(model, "expected an importance matrix (general.type imatrix)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn broken_files_are_errors(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let llama = checkpoint("tiny-llama");
        for name in ["dense.gguf", "dense.dat"] {
            let mut bytes = std::fs::read(fixture("imatrix").join(name)).unwrap();
            let at = at.index(bytes.len().min(700));
            bytes[at] = byte;
            let _ = written(name, &bytes, &llama);
            bytes.truncate(cut.index(bytes.len()));
            let _ = written(name, &bytes, &llama);
        }
    }
}

//! Statistics written and read back, added up, and broken in every way.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ndarray::Array2;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::calib::{Samples, SourceSamples};

const ALL: Needs = Needs { absmax: true, mean_abs: true, second_moment: true, hessian: true };
const LINEARS: [&[&str]; 2] = [&["b.q.weight", "b.k.weight"], &["b.o.weight"]];
const COLS: [usize; 2] = [5, 3];

fn samples() -> Samples {
    let drawn = SourceSamples { source: "a.txt".into(), documents: 1, sequences: 2, tokens: 8, too_short: 0 };
    Samples { sequences: vec![vec![1; 4]; 2], sources: vec![drawn], digest: "d".into() }
}

/// Statistics of a few rows that differ by `seed`.
fn statistics(cols: usize, seed: usize, needs: Needs) -> Statistics {
    let mut statistics = Statistics::new(cols, needs);
    statistics.observe(
        Array2::from_shape_fn((4, cols), |(i, j)| ((i * 7 + j * 3 + seed) % 11) as f32 - 5.0).view(),
    );
    statistics
}

fn bytes(seed: usize, needs: Needs) -> Vec<u8> {
    let statistics = COLS.map(|cols| statistics(cols, seed, needs));
    let inputs: Vec<Input> =
        LINEARS.iter().zip(&statistics).map(|(linears, statistics)| Input { linears, statistics }).collect();
    let mut bytes = Vec::new();
    encode::<Error>(&inputs, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    bytes
}

fn folder(seed: usize, needs: Needs) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::new("m", 1, needs, &samples()).to_json();
    let mut sums = Checksums::default();
    for (name, content) in [(file_name(0), bytes(seed, needs)), (INDEX_FILE.to_owned(), index.into_bytes())] {
        std::fs::write(folder.path().join(&name), &content).unwrap();
        sums.extend([(&name, &blake3::hash(&content).to_hex().to_string())]);
    }
    std::fs::write(folder.path().join(CHECKSUMS), sums.to_text()).unwrap();
    folder
}

/// A change that leaves every file well formed is found, and the file is named.
#[test]
fn a_changed_file_is_found() {
    let change = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let folder = folder(0, ALL);
        let path = folder.path().join(name);
        let mut content = std::fs::read(&path).unwrap();
        change(&mut content);
        std::fs::write(&path, content).unwrap();
        open(&[&folder], ALL).and_then(|store| store.block(0)).map(drop)
    };
    let last = |content: &mut Vec<u8>| *content.last_mut().unwrap() ^= 1;
    said(change(&file_name(0), &last), "block-00000.safetensors: expected blake3");
    let fewer = |content: &mut Vec<u8>| {
        *content = String::from_utf8(content.clone())
            .unwrap()
            .replace("\"tokens\": 8", "\"tokens\": 7")
            .into_bytes();
    };
    said(change(INDEX_FILE, &fewer), "index.json: expected blake3");
    said(change(CHECKSUMS, &|content| content[0] ^= 1), "expected blake3");
    said(change(CHECKSUMS, &|content| content.clear()), "expected blake3 a line in checksums.b3");
    change(CHECKSUMS, &|_| ()).unwrap();
}

fn open(folders: &[&TempDir], needs: Needs) -> Result<Store> {
    let folders: Vec<PathBuf> = folders.iter().map(|folder| folder.path().to_owned()).collect();
    Store::open(&folders, "m", 1, needs)
}

fn said<T: std::fmt::Debug>(result: Result<T>, expected: &str) {
    let error = result.unwrap_err();
    assert!(error.to_string().contains(expected) && error.hint().is_some(), "{error}");
}

#[test]
fn what_was_gathered_comes_back() {
    for needs in
        [ALL, Needs { hessian: true, ..Needs::default() }, Needs { absmax: true, ..Needs::default() }]
    {
        let folder = folder(0, needs);
        let block = open(&[&folder], needs).unwrap().block(0).unwrap();
        assert_eq!(block.statistics("b.k.weight", 5).unwrap(), statistics(5, 0, needs));
        assert_eq!(block.statistics("b.o.weight", 3).unwrap(), statistics(3, 0, needs));
    }
    let folder = folder(0, ALL);
    assert_eq!(Index::read(folder.path()).unwrap(), Index::new("m", 1, ALL, &samples()));
}

#[test]
fn folders_add_up() {
    let folders = [folder(0, ALL), folder(4, ALL)];
    let store = open(&[&folders[0], &folders[1]], ALL).unwrap();
    let mut expected = statistics(3, 0, ALL);
    expected.merge(&statistics(3, 4, ALL));
    assert_eq!(store.block(0).unwrap().statistics("b.o.weight", 3).unwrap(), expected);
    assert_eq!(store.indices().map(|index| index.tokens).sum::<usize>(), 16);
}

#[test]
fn other_tools_read_it() {
    let bytes = bytes(0, ALL);
    let tensors = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let gram = tensors.tensor("1.gram").unwrap();
    assert_eq!((gram.dtype(), gram.shape()), (::safetensors::Dtype::F32, &[3, 3][..]));
    assert_eq!(tensors.len(), 8);
}

#[test]
fn what_does_not_fit_is_named() {
    let only = Needs { absmax: true, ..Needs::default() };
    let (few, all) = (folder(0, only), folder(0, ALL));
    said(open(&[&few], ALL), "expected mean_abs, second_moment, hessian, found absmax");
    said(open(&[], ALL), "no folder of statistics");
    let path = [all.path().to_owned()];
    said(Store::open(&path, "other", 1, ALL), "expected statistics of the model other");
    said(Store::open(&path, "m", 2, ALL), "(2 blocks)");
    let block = open(&[&all], ALL).unwrap().block(0).unwrap();
    said(block.statistics("b.v.weight", 5), "b.v.weight: expected statistics of its input, found none");
    said(block.statistics("b.q.weight", 6), "0.absmax: expected F32 [6], found F32 [5]");
    said(open(&[&all], ALL).unwrap().block(1), "block-00001.safetensors");
    let index = |text: &str| {
        std::fs::write(few.path().join(INDEX_FILE), text).unwrap();
        Index::read(few.path())
    };
    let good = Index::new("m", 1, ALL, &samples()).to_json();
    said(index(&good.replace("\"version\": 1", "\"version\": 2")), "expected version 1, found version 2");
    said(index(&good.replace("absmax", "absmin")), "the statistic \"absmin\"");
    said(index("{}"), "expected an index of statistics");
    std::fs::remove_file(few.path().join(INDEX_FILE)).unwrap();
    said(Index::read(few.path()), "no index.json");
}

/// Reads everything that a file may have.
fn read_all(path: &Path) {
    if let Ok(block) = BlockFile::open(path, ALL) {
        for (linears, cols) in LINEARS.iter().zip(COLS) {
            for linear in *linears {
                if let Ok(statistics) = block.statistics(linear, cols) {
                    assert!(statistics.absmax.iter().all(|value| value.is_finite()));
                }
            }
        }
    }
}

#[test]
fn numbers_that_are_not_finite_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let mut bytes = bytes(0, ALL);
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let block = BlockFile::open(&path, ALL).unwrap();
    said(block.statistics("b.o.weight", 3), "1.gram: expected finite sums, found NaN at 8");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn broken_files_are_errors(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut bytes = bytes(1, ALL);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        std::fs::write(&path, &bytes).unwrap();
        read_all(&path);
        bytes.truncate(cut.index(bytes.len()));
        std::fs::write(&path, &bytes).unwrap();
        read_all(&path);
    }
}

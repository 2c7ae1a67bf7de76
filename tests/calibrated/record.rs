//! The record of a calibrated run that writes one file. It is beside the file, `verify` compares the file with it, and both are
//! published and replaced together.

use std::fs;
use std::path::Path;

use llmc::io::gguf;
use serde_json::Value;

use crate::common::{Signal, assert_same, contents, interrupted_at, ok, run};
use crate::model::Model;

const LINE: &str =
    "quantize model --scheme q4_0 --method mse --data text.txt --samples 4 --seq-len 64 -o out.gguf";
const RECORD: &str = "out.gguf.calibration.json";

/// A folder with a model in it.
fn folder() -> tempfile::TempDir {
    Model::of("tiny-llama").folder()
}

/// Returns the output of `verify`, with its exit code.
fn verify(folder: &Path, flags: &str) -> (String, i32) {
    let output = run(folder, &format!("verify out.gguf --against model {flags}"));
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

/// Returns the file with one bit changed in the first block of a tensor: a bit of its codes, which follow the scale.
fn spoiled(file: &Path, bytes: &[u8], tensor: &str) -> Vec<u8> {
    let tensors = gguf::parse(file, bytes).unwrap().tensors;
    let range = tensors.into_iter().find(|raw| raw.name == tensor).expect("a tensor of this name").range;
    let mut bytes = bytes.to_vec();
    bytes[range.start + 5] ^= 1;
    bytes
}

#[test]
fn a_changed_bit_of_a_calibrated_gguf_is_found() {
    let folder = folder();
    let (here, file) = (folder.path(), folder.path().join("out.gguf"));
    ok(here, LINE);
    let found: Value = serde_json::from_str(&verify(here, "--json").0).unwrap();
    assert_eq!((&found["holds"], &found["missing_record"]), (&true.into(), &false.into()));
    let known = |stored: &str| {
        let tensors = found["tensors"].as_array().unwrap().iter();
        tensors.filter(|check| check["stored"] == stored && check["unknown"] == false).count()
    };
    assert_eq!([known("q4_0"), known("q8_0")], [14, 1], "{found}");
    let whole = fs::read(&file).unwrap();
    // The embedding is outside of the blocks.
    for name in ["blk.1.ffn_down.weight", "blk.0.attn_q.weight", "token_embd.weight"] {
        fs::write(&file, spoiled(&file, &whole, name)).unwrap();
        let (said, code) = verify(here, "");
        assert_eq!(code, 3, "{name}: {said}");
        let line = said.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {said}"));
        assert!(line.ends_with("is not what was recorded when it was made"), "{line}");
    }
}

#[test]
fn a_record_that_is_missing_or_damaged_is_said() {
    let folder = folder();
    let here = folder.path();
    ok(here, LINE);
    let record = fs::read_to_string(here.join(RECORD)).unwrap();
    fs::write(here.join(RECORD), &record[..record.len() / 2]).unwrap();
    let output = run(here, "verify out.gguf --against model");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains(RECORD), "{said}");
    fs::remove_file(here.join(RECORD)).unwrap();
    let (said, code) = verify(here, "");
    assert!(
        code == 0 && said.contains("the record of the calibrated run is missing (out.gguf.calib"),
        "{said}"
    );
    let found: Value = serde_json::from_str(&verify(here, "--json").0).unwrap();
    assert_eq!(found["missing_record"], true);
    // Without calibration there is none to be missed, and an older one does not stay.
    fs::write(here.join(RECORD), &record).unwrap();
    ok(here, "quantize model --scheme q4_0 --overwrite -o out.gguf");
    assert!(!here.join(RECORD).exists());
    let found: Value = serde_json::from_str(&verify(here, "--json").0).unwrap();
    assert_eq!((&found["holds"], &found["missing_record"]), (&true.into(), &false.into()));
}

/// Returns the names of the outputs in a folder, sorted.
fn left(folder: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter(|name| name.starts_with("out")).collect();
    names.sort();
    names
}

#[test]
fn the_file_and_its_record_are_published_and_replaced_together() {
    let whole = folder();
    ok(whole.path(), LINE);
    let both = ["out.gguf", RECORD];
    assert_eq!(left(whole.path()), both);
    for point in ["publish", "record published", "published"] {
        // Nothing is there before, or another output is.
        let (fresh, again) = (folder(), folder());
        interrupted_at(fresh.path(), LINE, point, 1, Signal::Kill);
        if !fresh.path().join("out.gguf").exists() {
            ok(fresh.path(), LINE);
        }
        let other = LINE.replace("--samples 4", "--samples 5");
        ok(again.path(), &other);
        let before = both.map(|name| contents(&again.path().join(name)));
        let line = format!("{LINE} --overwrite");
        interrupted_at(again.path(), &line, point, 1, Signal::Kill);
        let aside: Vec<String> =
            left(again.path()).into_iter().filter(|n| n.contains(".replaced-")).collect();
        assert!(aside.len() == 2 && aside[1] == format!("{}.calibration.json", aside[0]), "{aside:?}");
        let kept = [0, 1].map(|i| contents(&again.path().join(&aside[i])));
        assert!(before == kept, "{point}: what was replaced is whole");
        ok(again.path(), &line);
        for folder in [&fresh, &again] {
            both.iter().for_each(|name| assert_same(&whole.path().join(name), &folder.path().join(name)));
            assert!(!folder.path().join("out.gguf.partial").exists(), "{point}");
        }
    }
}

/// A run that was stopped outside of the blocks has written tensors there whose digests are not recorded yet.
#[test]
fn a_record_is_whole_after_an_interruption() {
    let whole = folder();
    ok(whole.path(), LINE);
    let folder = folder();
    let steps =
        gguf::parse(Path::new("out.gguf"), &fs::read(whole.path().join("out.gguf")).unwrap()).unwrap();
    let last = steps.tensors.len();
    for count in [1, last] {
        interrupted_at(folder.path(), LINE, "tensor done", count, Signal::Kill);
    }
    ok(folder.path(), LINE);
    for name in ["out.gguf", RECORD] {
        assert_same(&whole.path().join(name), &folder.path().join(name));
    }
}

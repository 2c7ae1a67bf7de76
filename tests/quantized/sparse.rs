//! Weights that are stored without their zeros are read as their compressors read them: goldens of fixtures/generate_sparse.py.
//! Commands take them for the dense weights that they are; damaged ones are refused.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use llmc::io::{Checkpoint, Source, Stored};
use llmc::tensor::DType;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::{Draft, common, open};

/// A matrix that the tests damage.
const PROJ: &str = "model.proj.weight";

fn folder(case: &str) -> PathBuf {
    common::fixture("sparse").join(case)
}

fn draft(case: &str) -> Draft {
    Draft::at(&folder(case))
}

fn values(checkpoint: &Checkpoint, source: &Source, rows: Range<usize>) -> Vec<f32> {
    let mut out = vec![9.0; rows.len() * source.rows_cols()[1]];
    checkpoint.read_rows(source, rows, &mut out).unwrap();
    out
}

#[test]
fn values_are_those_that_the_compressors_read() {
    let bytes = fs::read(folder("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap().tensors();
    assert_eq!(expected.len(), 8);
    for (name, golden) in expected {
        let (case, tensor) = name.split_once('.').unwrap();
        let checkpoint = open(&folder(case)).unwrap();
        let source = &checkpoint.tensors[tensor];
        assert_eq!(source.shape, golden.shape(), "{name}");
        let golden: Vec<f32> = golden.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        assert!(golden.contains(&0.0) && golden.iter().any(|value| *value != 0.0), "{name}");
        let [rows, cols] = source.rows_cols();
        for range in [0..rows, 0..1, rows / 2..rows, rows - 1..rows, rows..rows] {
            let ours = values(&checkpoint, source, range.clone());
            assert_eq!(ours, golden[range.start * cols..range.end * cols], "{name} {range:?}");
        }
    }
}

#[test]
fn floats_are_dense_and_codes_are_quantized() {
    let sparse = |case: &str, expected: DType| {
        let checkpoint = open(&folder(case)).unwrap();
        let Stored::Sparse { dtype, .. } = &checkpoint.tensors[PROJ].stored else { panic!("{case}") };
        assert_eq!((*dtype, checkpoint.quantization), (expected, None), "{case}");
    };
    sparse("24-bf16", DType::BF16);
    sparse("bitmask-f16", DType::F16);
    sparse("bitmask-full-names", DType::F32);
    let quantized = |case: &str, words: &str| {
        let checkpoint = open(&folder(case)).unwrap();
        assert!(matches!(checkpoint.tensors[PROJ].stored, Stored::Quantized { .. }), "{case}");
        let said = checkpoint.quantization.unwrap();
        assert!(said.contains(words), "{case}: {said}");
    };
    quantized("24-fp8-channel", "fp8 e4m3, per channel");
    quantized("bitmask-fp8-tensor", "fp8 e4m3, per tensor");
    quantized("24-int8-channel", "int8 symmetric, per channel");
}

#[test]
fn missing_parts_are_named() {
    let missing = |case: &str, part: &str| {
        draft(case).without(part).refused(&[&format!("model.proj.{part}: "), "found none"]);
    };
    for part in ["compressed", "bitmask", "shape"] {
        missing("24-bf16", part);
        missing("bitmask-f16", part);
    }
    missing("bitmask-f16", "row_offsets");
    missing("24-fp8-channel", "weight_scale");
    missing("24-int8-channel", "weight_scale");
}

#[test]
fn shapes_and_types_that_disagree_are_refused() {
    let damaged = |case: &str, part: &str, to: &[usize], words: &str| {
        draft(case).resize(part, to).refused(&[&format!("model.proj.{part}: "), words]);
    };
    damaged("24-bf16", "bitmask", &[6, 2], "[6, 3], found [6, 2]");
    damaged("24-bf16", "bitmask", &[18], "[6, 3]");
    damaged("24-bf16", "compressed", &[6, 9], "[6, 10], found [6, 9]");
    damaged("24-bf16", "compressed", &[6, 5, 2], "[6, 10]");
    damaged("24-bf16", "shape", &[3], "of a vector or of a matrix");
    damaged("24-bf16", "shape", &[2, 2], "of a vector or of a matrix");
    damaged("24-bf16", "shape", &[0], "of a vector or of a matrix");
    damaged("bitmask-f16", "row_offsets", &[6], "[7], found [6]");
    damaged("bitmask-f16", "row_offsets", &[7, 1], "[7]");
    damaged("bitmask-f16", "compressed", &[4, 11], "a vector beside row_offsets");
    draft("24-bf16").resize("compressed", &[60]).refused(&["model.proj.row_offsets", "found none"]);
    let typed = |case: &str, part: &str, dtype: Dtype, shape: &[usize], words: &str| {
        let name = format!("model.proj.{part}");
        draft(case).with(&name, dtype, shape).refused(&[&name, words]);
    };
    typed("24-bf16", "bitmask", Dtype::I8, &[6, 3], "expected U8");
    typed("24-bf16", "shape", Dtype::F64, &[2, 1], "expected I64");
    typed("24-bf16", "compressed", Dtype::I64, &[6, 10], "expected F16 or BF16 or F32");
    typed("bitmask-f16", "row_offsets", Dtype::I32, &[7], "expected I64");
    typed("bitmask-full-names", "weight.compressed", Dtype::I8, &[18], "expected F16 or BF16 or F32");
    let twice = draft("24-bf16").with(PROJ, Dtype::BF16, &[6, 20]);
    twice.refused(&[PROJ, "one set of values"]);
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let wrong =
        [(-1, 20), (6, -20), (6, i64::MAX), (i64::MAX, 20), (1 << 40, 1 << 40), (0, 0), (7, 20), (6, 24)];
    for (rows, cols) in wrong {
        let shape = [i64::to_le_bytes(rows), i64::to_le_bytes(cols)].concat();
        let shaped = |case: &str| draft(case).edit("shape", |bytes| bytes.clone_from(&shape));
        shaped("24-bf16").refused(&["model.proj."]);
        shaped("24-int8-channel").refused(&["model.proj."]);
        shaped("bitmask-f16").refused(&["model.proj."]);
    }
    // Four columns make a group of 2:4.
    let uneven = draft("24-bf16").edit("shape", |bytes| bytes[8] = 18);
    uneven.refused(&["model.proj.compressed", "two of each four columns"]);
}

#[test]
fn nothing_is_read_of_nothing() {
    let none = draft("24-bf16").edit("shape", |bytes| bytes[0] = 0);
    none.resize("bitmask", &[0, 3]).resize("compressed", &[0, 10]).read().unwrap();
    let wide = [0u64, 1 << 62].map(u64::to_le_bytes).concat();
    let wide = draft("24-bf16").edit("shape", |bytes| bytes.clone_from(&wide));
    wide.resize("bitmask", &[0, 1 << 59]).resize("compressed", &[0, 1 << 61]).read().unwrap();
    let narrow = draft("bitmask-f16").edit("shape", |bytes| bytes[8] = 0);
    narrow.resize("bitmask", &[7, 0]).resize("compressed", &[0]).read().unwrap();
}

#[test]
fn bits_and_offsets_that_disagree_are_refused() {
    let bits = |case: &str, words: &str| {
        draft(case).edit("bitmask", |mask| mask[0] ^= 1).refused(&["model.proj.bitmask: ", words]);
    };
    bits("24-bf16", "10 bits in row 0");
    bits("24-fp8-channel", "10 bits in row 0");
    bits("24-int8-channel", "8 bits in row 0");
    bits("bitmask-f16", "bits in row 0");
    let offset = |row: usize, to: i64, words: &[&str]| {
        let edit = |offsets: &mut Vec<u8>| offsets[row * 8..][..8].copy_from_slice(&to.to_le_bytes());
        draft("bitmask-f16").edit("row_offsets", edit).refused(words);
    };
    let rise = "offsets that rise from 0 to 44";
    for (row, to) in [(0, 1), (3, -1), (3, 1000), (3, i64::MAX), (3, i64::MIN), (6, 45), (4, 0)] {
        offset(row, to, &["model.proj.row_offsets: ", rise]);
    }
    offset(6, 44, &["model.proj.bitmask: ", "bits in row 5"]);
}

#[test]
fn bits_behind_the_last_column_mean_nothing() {
    let whole = open(&folder("24-bf16")).unwrap();
    let changed = draft("24-bf16").edit("bitmask", |mask| mask[2] |= 0xf0).write();
    let padded = open(changed.path()).unwrap();
    let read = |checkpoint: &Checkpoint| values(checkpoint, &checkpoint.tensors[PROJ], 0..6);
    assert_eq!(read(&padded), read(&whole));
}

/// Any byte of the parts that say where values are, changed: an error or other values, and no panic.
#[test]
fn no_byte_makes_it_panic() {
    let mut refused = 0;
    for (case, parts) in [
        ("24-bf16", &["shape", "bitmask"][..]),
        ("bitmask-f16", &["shape", "bitmask", "row_offsets"]),
        ("bitmask-fp8-tensor", &["shape", "row_offsets"]),
    ] {
        for part in parts {
            let bytes = draft(case).tensors[&format!("model.proj.{part}")].2.len();
            for (at, byte) in (0..bytes).flat_map(|at| [0, 0x7f, 0x80, 0xff].map(|byte| (at, byte))) {
                refused += usize::from(draft(case).edit(part, |bytes| bytes[at] = byte).read().is_err());
            }
        }
    }
    assert!(refused > 400, "{refused}");
}

#[test]
fn marlin_stays_refused() {
    let marlin = draft("24-int8-channel").set("/quantization_config/format", json!("marlin-24"));
    marlin.refused(&["\"marlin-24\"", "save it dense"]);
    let wrong = draft("24-bf16").set("/quantization_config/sparsity_config", json!("2:4"));
    wrong.refused(&["quantization_config.sparsity_config", "an object"]);
}

/// Two of each four columns; others in odd rows.
fn is_kept(row: usize, col: usize) -> bool {
    matches!(col % 4, 0 | 3) == row.is_multiple_of(2)
}

/// Sets the weights of linears to zero in the pattern. Returns their names.
fn prune(model: &mut Draft) -> Vec<String> {
    let is_linear = |name: &&String| name.ends_with("_proj.weight");
    let names: Vec<String> = model.tensors.keys().filter(is_linear).cloned().collect();
    for name in &names {
        let (_, shape, bytes) = model.tensors.get_mut(name).unwrap();
        for (i, value) in bytes.chunks_exact_mut(2).enumerate() {
            if !is_kept(i / shape[1], i % shape[1]) {
                value.fill(0);
            }
        }
    }
    names
}

/// Takes the zeros out of a matrix in BF16: 2:4, or all that are zero, with offsets.
fn take_zeros(model: &mut Draft, name: &str, is_24: bool) {
    let (dtype, shape, bytes) = model.tensors.remove(name).unwrap();
    let [rows, cols] = shape[..] else { panic!("{name} is a matrix") };
    let (mut kept, mut mask, mut offsets) = (Vec::new(), vec![0u8; rows * cols.div_ceil(8)], Vec::new());
    for (i, value) in bytes.chunks_exact(2).enumerate() {
        let (row, col) = (i / cols, i % cols);
        if col == 0 {
            offsets.extend((kept.len() as i64 / 2).to_le_bytes());
        }
        let stays = if is_24 { is_kept(row, col) } else { value != [0, 0] };
        if stays {
            kept.extend_from_slice(value);
            mask[row * cols.div_ceil(8) + col / 8] |= 1 << (col % 8);
        }
    }
    let module = name.strip_suffix(".weight").unwrap();
    let mut put = |part: &str, dtype, shape: Vec<usize>, bytes| {
        model.tensors.insert(format!("{module}.{part}"), (dtype, shape, bytes));
    };
    let flat = kept.len() / 2;
    put("compressed", dtype, if is_24 { vec![rows, cols / 2] } else { vec![flat] }, kept);
    put("bitmask", Dtype::U8, vec![rows, cols.div_ceil(8)], mask);
    let sizes = [rows, cols].map(|size| (size as i64).to_le_bytes()).concat();
    put("shape", Dtype::I64, if is_24 { vec![2, 1] } else { vec![2] }, sizes);
    if !is_24 {
        put("row_offsets", Dtype::I64, vec![rows], offsets);
    }
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

fn sparsity(form: &str) -> Value {
    json!({ "quant_method": "compressed-tensors", "sparsity_config": { "format": form, "sparsity_structure": "2:4" } })
}

/// The tensors of a model, as bytes.
fn stored(model: &Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let mut tensors: Vec<_> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec()))
        .collect();
    tensors.sort();
    tensors
}

#[test]
fn commands_take_models_without_zeros_for_dense_ones() {
    let mut pruned = Draft::at(&common::fixture("tiny-llama"));
    let linears = prune(&mut pruned);
    assert_eq!(linears.len(), 14);
    let dense = pruned.write();
    for (form, is_24) in [("sparse-24-bitmask", true), ("sparse-bitmask", false)] {
        let mut model = Draft::at(dense.path()).set("/quantization_config", sparsity(form));
        linears.iter().for_each(|name| take_zeros(&mut model, name, is_24));
        let input = model.write();
        let (out, input) = (tempfile::tempdir().unwrap(), input.path().display().to_string());
        common::ok(out.path(), &format!("convert {input} -o dense"));
        assert_eq!(stored(&out.path().join("dense")), stored(dense.path()), "{form}");
        assert_eq!(config(&out.path().join("dense")), config(dense.path()), "{form}");
        common::ok(out.path(), &format!("quantize {input} --scheme w4a16 --group-size 32 -o int4"));
        common::ok(out.path(), &format!("verify int4 --against {input}"));
        let again = format!("quantize {} --scheme w4a16 --group-size 32 -o again", dense.path().display());
        common::ok(out.path(), &again);
        assert_eq!(stored(&out.path().join("int4")), stored(&out.path().join("again")), "{form}");
        assert!(!config(&out.path().join("int4")).to_string().contains("sparsity_config"), "{form}");
    }
}

/// Zeros that are stored, under a configuration that tells of them.
#[test]
fn dense_sparsity_configs_are_dropped() {
    let mut model = Draft::at(&common::fixture("tiny-llama"));
    prune(&mut model);
    let clean = model.config.clone();
    for (key, value) in [
        ("quantization_config", sparsity("dense")),
        ("compression_config", json!({ "sparsity_config": sparsity("dense")["sparsity_config"] })),
        ("sparsity_config", sparsity("dense")["sparsity_config"].clone()),
    ] {
        model.config = clean.clone();
        model.config[key] = value;
        let (input, out) = (model.write(), tempfile::tempdir().unwrap());
        let output = common::run(out.path(), &format!("convert {} -o out", input.path().display()));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !stderr.contains("quant_method"), "{key}: {stderr}");
        assert_eq!(config(&out.path().join("out")), clean, "{key}");
        assert_eq!(stored(&out.path().join("out")), stored(input.path()), "{key}");
    }
}

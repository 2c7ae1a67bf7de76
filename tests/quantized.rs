//! Already quantized checkpoints are read as the tools that define their formats read them: goldens of
//! fixtures/generate_quantized.py. Damaged ones are refused with an error that says what and where.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "quantized/sparse.rs"]
mod sparse;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use llmc::io::{Checkpoint, Source, Stored};
use llmc::numerics::QTensor;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/quantized")
}

fn cases() -> Vec<String> {
    let entries = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn open(folder: &Path) -> llmc::Result<Checkpoint> {
    Checkpoint::open(folder.to_str().unwrap())
}

fn read(checkpoint: &Checkpoint, source: &Source, rows: Range<usize>) -> QTensor {
    checkpoint.read_codes(source, rows).unwrap().expect("a quantized source")
}

fn values(q: &QTensor) -> Vec<f32> {
    q.values().into_raw_vec_and_offset().0
}

/// The one quantized tensor of a case.
fn packed(checkpoint: &Checkpoint) -> &Source {
    let stored = |source: &&Source| matches!(source.stored, Stored::Quantized { .. });
    checkpoint.tensors.values().find(stored).expect("a quantized tensor")
}

#[test]
fn values_are_those_that_the_formats_own_tools_read() {
    let bytes = fs::read(fixtures().join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(cases().len(), expected.len());
    for case in cases() {
        let checkpoint = open(&fixtures().join(&case)).unwrap();
        assert!(checkpoint.quantization.is_some(), "{case}");
        let source = packed(&checkpoint);
        let module = source.name.strip_suffix(".weight").unwrap_or(&source.name);
        let golden = expected.tensor(&format!("{case}.{module}")).unwrap();
        assert_eq!(source.shape, golden.shape(), "{case}");
        let golden = golden.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
        let ours = values(&read(&checkpoint, source, 0..source.rows_cols()[0]));
        assert_eq!(ours.len(), golden.len(), "{case}");
        for (i, (ours, golden)) in ours.iter().zip(golden).enumerate() {
            // The tools multiply codes, scales and global scales in another order.
            assert!((ours - golden).abs() <= 2e-7 * golden.abs(), "{case} [{i}]: {ours}, {golden}");
        }
    }
}

#[test]
fn ranges_of_rows_are_rows_of_the_whole() {
    for case in cases() {
        let checkpoint = open(&fixtures().join(&case)).unwrap();
        let source = packed(&checkpoint);
        let [rows, cols] = source.rows_cols();
        let whole = values(&read(&checkpoint, source, 0..rows));
        for range in [0..1, 1..rows, 3..3, 2..rows - 1, rows / 2..rows / 2 + 2, rows - 1..rows, rows..rows] {
            let part = values(&read(&checkpoint, source, range.clone()));
            assert_eq!(part, whole[range.start * cols..range.end * cols], "{case} {range:?}");
        }
    }
}

#[test]
fn rows_within_a_block_have_its_zero_point() {
    let mut draft = Draft::of("int8-asym-channel").set(&format!("{WEIGHTS}/strategy"), json!("block"));
    draft = draft.set(&format!("{WEIGHTS}/block_structure"), json!([3, 20]));
    for (role, part) in [("weight_scale", Dtype::F32), ("weight_zero_point", Dtype::I8)] {
        draft = draft.with(&format!("model.proj.{role}"), part, &[3, 2]);
    }
    let scales = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|scale| scale.to_le_bytes());
    let draft = draft.edit("weight_scale", |bytes| *bytes = scales.clone().collect());
    let draft = draft.edit("weight_zero_point", |bytes| *bytes = vec![10, 20, 30, 40, 50, 60]);
    let folder = draft.edit("weight", |bytes| bytes.fill(100)).write();
    let checkpoint = open(folder.path()).unwrap();
    let source = &checkpoint.tensors["model.proj.weight"];
    // (100 − zero point) · scale, of the blocks that the rows 2 to 6 are in.
    let [first, second, third] = [[90.0, 160.0], [210.0, 240.0], [250.0, 240.0]];
    let expected: Vec<f32> = [first, second, second, second, third].concat();
    let rows = values(&read(&checkpoint, source, 2..7));
    assert_eq!(rows.chunks(20).map(|span| span[19]).collect::<Vec<_>>(), expected);
    assert_eq!(rows, values(&read(&checkpoint, source, 0..7))[80..]);
}

#[test]
fn symmetric_checkpoints_have_no_zero_points_and_asymmetric_ones_have() {
    for case in cases() {
        let checkpoint = open(&fixtures().join(&case)).unwrap();
        let q = read(&checkpoint, packed(&checkpoint), 0..1);
        let asymmetric = case.contains("asym") || case == "awq";
        assert_eq!(q.scheme().symmetric, !asymmetric, "{case}");
        assert_eq!(q.as_scalar().grid.zero_points.is_empty(), !asymmetric, "{case}");
    }
}

#[test]
fn shapes_suffice_without_config() {
    // What only config.json knows: GPTQ's version, and that one byte holds 4 bits.
    let told = ["gptq4-asym-v2", "int4-naive", "auto-round2-asym"];
    for case in cases().iter().filter(|case| !told.contains(&case.as_str())) {
        let folder = fixtures().join(case);
        let bare = tempfile::tempdir().unwrap();
        fs::copy(folder.join("model.safetensors"), bare.path().join("model.safetensors")).unwrap();
        let [with, without] = [open(&folder).unwrap(), open(bare.path()).unwrap()].map(|checkpoint| {
            let source = packed(&checkpoint);
            values(&read(&checkpoint, source, 0..source.rows_cols()[0]))
        });
        assert_eq!(with, without, "{case}");
    }
}

/// A golden checkpoint, to be damaged.
struct Draft {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    config: Value,
}

impl Draft {
    fn of(case: &str) -> Draft {
        Draft::at(&fixtures().join(case))
    }

    fn at(folder: &Path) -> Draft {
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let parsed = SafeTensors::deserialize(&bytes).unwrap().tensors();
        let owned = |t: &TensorView| (t.dtype(), t.shape().to_vec(), t.data().to_vec());
        let tensors = parsed.iter().map(|(name, t)| (name.clone(), owned(t))).collect();
        let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        Draft { tensors, config }
    }

    fn set(mut self, pointer: &str, value: Value) -> Draft {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.config.pointer_mut(parent).unwrap()[key] = value;
        self
    }

    fn without(mut self, role: &str) -> Draft {
        self.tensors.remove(&format!("model.proj.{role}")).unwrap();
        self
    }

    fn with(mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Draft {
        let bytes = vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8];
        self.tensors.insert(name.into(), (dtype, shape.to_vec(), bytes));
        self
    }

    fn edit(mut self, role: &str, edit: impl Fn(&mut Vec<u8>)) -> Draft {
        edit(&mut self.tensors.get_mut(&format!("model.proj.{role}")).unwrap().2);
        self
    }

    fn resize(mut self, role: &str, to: &[usize]) -> Draft {
        let (dtype, shape, bytes) = self.tensors.get_mut(&format!("model.proj.{role}")).unwrap();
        *shape = to.to_vec();
        bytes.resize(to.iter().product::<usize>() * dtype.bitsize() / 8, 1);
        self
    }

    fn write(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
        fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        folder
    }

    /// Opens it, and reads every tensor that is quantized or without its zeros.
    fn read(&self) -> llmc::Result<Option<String>> {
        let folder = self.write();
        let checkpoint = open(folder.path())?;
        for source in checkpoint.tensors.values() {
            let [rows, cols] = source.rows_cols();
            checkpoint.read_codes(source, 0..rows)?;
            if matches!(source.stored, Stored::Sparse { .. }) {
                checkpoint.read_rows(source, 0..rows, &mut vec![0.0; rows * cols])?;
            }
        }
        Ok(checkpoint.quantization.clone())
    }

    /// It must be refused in words that hold all of these.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let error = self.read().expect_err("a damaged checkpoint");
        let said = format!("{error} hint: {}", error.hint().unwrap());
        for word in words {
            assert!(said.contains(word), "{said:?} does not say {word:?}");
        }
    }
}

const WEIGHTS: &str = "/quantization_config/config_groups/group_0/weights";

#[test]
fn parts_that_are_missing_are_named() {
    Draft::of("w4-sym-group").without("weight_scale").refused(&["model.proj.weight_scale", "found none"]);
    Draft::of("w4-sym-group").without("weight_shape").refused(&["model.proj.weight_shape"]);
    Draft::of("w4-sym-group").without("weight_packed").refused(&["model.proj.weight_s", "shards"]);
    Draft::of("w4-asym-group").without("weight_zero_point").refused(&["weight_zero_point", "found none"]);
    Draft::of("nvfp4").without("weight_global_scale").refused(&["weight_global_scale"]);
    Draft::of("gptq4-sym").without("qweight").refused(&["model.proj.qzeros", "shards"]);
    Draft::of("gptq4-sym").without("scales").refused(&["model.proj.scales"]);
    Draft::of("deepseek-fp8").without("weight").refused(&["weight_scale_inv", "shards"]);
}

#[test]
fn shapes_that_disagree_are_refused() {
    let damaged = |case: &str, role, to: &[usize]| Draft::of(case).resize(role, to);
    damaged("w4-sym-group", "weight_packed", &[13, 11]).refused(&["96 codes of 2 to 8 bits", "[13, 11]"]);
    damaged("w4-sym-group", "weight_packed", &[12, 12]).refused(&["13 rows"]);
    damaged("w4-sym-group", "weight_packed", &[156]).refused(&["a matrix"]);
    damaged("w4-sym-group", "weight_scale", &[13, 4]).refused(&["Group(32)", "[13, 4]"]);
    damaged("w4-asym-group", "weight_zero_point", &[4, 2]).refused(&["[5, 2]", "[4, 2]"]);
    damaged("nvfp4", "weight_scale", &[10, 3]).refused(&["[10, 4]"]);
    damaged("nvfp4", "weight_global_scale", &[2]).refused(&["one value"]);
    damaged("nvfp4", "weight_global_scale", &[0]).refused(&["one value"]);
    damaged("gptq4-sym", "qweight", &[8, 31]).refused(&["32 columns (GPTQ) or 4 (AWQ)"]);
    damaged("gptq4-sym", "qzeros", &[2, 5]).refused(&["2, 3, 4 or 8 bits"]);
    damaged("gptq4-sym", "g_idx", &[56]).refused(&["56 codes"]);
    damaged("awq", "qzeros", &[1, 3]).refused(&["[2, 3]"]);
    damaged("deepseek-fp8", "weight_scale_inv", &[2, 3]).refused(&["Block(128, 128)"]);
}

#[test]
fn other_tools_parts_that_disagree_are_refused() {
    let nvfp4 = || Draft::of("modelopt-nvfp4");
    nvfp4().resize("weight_scale", &[10, 5]).refused(&["weight_scale", "[10, 4]"]);
    nvfp4().resize("weight_scale_2", &[2]).refused(&["weight_scale_2", "one value"]);
    nvfp4().without("weight").refused(&["weight_scale_2", "the codes"]);
    let with = nvfp4().with("model.proj.pre_quant_scale", Dtype::F32, &[64]).write();
    let packed = open(with.path()).unwrap().packed.unwrap();
    assert!(packed.contains("model.proj.pre_quant_scale: packed by ModelOpt"), "{packed}");
    let experts = |role: &str, shape: &[usize]| {
        let name = format!("model.layers.0.mlp.experts.down_proj_{role}");
        Draft::of("gpt-oss").with(&name, Dtype::U8, shape)
    };
    experts("scales", &[3, 20, 4]).refused(&["down_proj_scales", "[3, 20, 3]"]);
    experts("blocks", &[3, 20, 3, 8]).refused(&["down_proj_blocks", "[experts, out, in/32, 16]"]);
    experts("blocks", &[3, 20, 48]).refused(&["down_proj_blocks", "[experts, out, in/32, 16]"]);
    let empty = experts("blocks", &[3, 0, 3, 16]).with(
        "model.layers.0.mlp.experts.down_proj_scales",
        Dtype::U8,
        &[3, 0, 3],
    );
    empty.read().unwrap();
}

#[test]
fn values_out_of_range_are_refused() {
    let shape = |n: i64, k: i64| [n.to_le_bytes(), k.to_le_bytes()].concat();
    for (n, k) in [(-1, 96), (13, -96), (13, i64::MAX), (i64::MAX, 96), (13, 1 << 61), (0, 0)] {
        Draft::of("w4-sym-group").edit("weight_shape", |b| *b = shape(n, k)).refused(&["model.proj.weight_"]);
    }
    Draft::of("gptq4-act-order").edit("g_idx", |b| b[0] = 4).refused(&["groups below 4", "found 4"]);
    Draft::of("gptq4-act-order").edit("g_idx", |b| b[3] = 255).refused(&["groups below 4"]);
    Draft::of("gptq4-asym-v1").edit("qzeros", |b| b[0] = 0xff).refused(&["below 16", "gptq_v2"]);
    Draft::of("gptq4-sym").edit("qzeros", |b| b[0] = 0x67).refused(&["zero points of 8", "\"sym\": false"]);
    Draft::of("int4-naive").edit("weight", |b| b[0] = 8).refused(&["4 bits", "found 8"]);
    let twice = Draft::of("w4-sym-group").with("model.proj.weight", Dtype::F32, &[1, 1]);
    twice.refused(&["both a dense weight and a quantized one"]);
}

#[test]
fn empty_tensors_are_read() {
    let shape = |n: i64, k: i64| [n.to_le_bytes(), k.to_le_bytes()].concat();
    let none = Draft::of("w4-sym-group").edit("weight_shape", |b| *b = shape(0, 96));
    none.resize("weight_packed", &[0, 12]).resize("weight_scale", &[0, 3]).read().unwrap();
    let narrow = Draft::of("w4-sym-group").edit("weight_shape", |b| *b = shape(13, 0));
    narrow.resize("weight_packed", &[13, 0]).resize("weight_scale", &[13, 0]).read().unwrap();
    let gptq = Draft::of("gptq4-sym").resize("qweight", &[0, 32]).resize("g_idx", &[0]);
    gptq.resize("qzeros", &[0, 4]).resize("scales", &[0, 32]).read().unwrap();
    Draft::of("mxfp4").resize("weight_packed", &[10, 0]).resize("weight_scale", &[10, 0]).read().unwrap();
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let wrong = [
        ("num_bits", json!("four")),
        ("num_bits", json!(0)),
        ("num_bits", json!(1e30)),
        ("num_bits", json!(-4)),
        ("group_size", json!(-2)),
        ("group_size", json!("128")),
        ("symmetric", json!("yes")),
        ("strategy", json!("diagonal")),
        ("strategy", json!(7)),
    ];
    for (key, value) in wrong {
        let draft = Draft::of("w4-sym-group").set(&format!("{WEIGHTS}/{key}"), value);
        draft.refused(&["config.json", key, "delete quantization_config"]);
    }
    let set = |case, key: &str, value| Draft::of(case).set(&format!("/quantization_config{key}"), value);
    let absurd = Draft::of("w4-sym-group").set(&format!("{WEIGHTS}/num_bits"), json!(8));
    absurd.refused(&["[8] bits (config.json)"]);
    set("w4-sym-group", "/config_groups", json!([1])).refused(&["config_groups", "an object"]);
    set("w4-sym-group", "", json!(3)).refused(&["quantization_config", "an object"]);
    set("w4-sym-group", "/quant_method", json!("quip")).refused(&["quip", "compressed-tensors, gptq"]);
    set("w4-sym-group", "/format", json!("marlin-24")).refused(&["marlin-24"]);
    set("awq", "/version", json!("gemv")).refused(&["gemv"]);
    set("gptq4-sym", "/checkpoint_format", json!("marlin")).refused(&["marlin"]);
    for value in [json!([0, 128]), json!([128]), json!("128x128")] {
        set("deepseek-fp8", "/weight_block_size", value).refused(&["weight_block_size"]);
    }
    set("deepseek-fp8", "/weight_block_size", json!([1, u64::MAX]))
        .refused(&["Block(1, 18446744073709551615)"]);
}

#[test]
fn minus_one_and_zero_mean_the_whole_row() {
    for whole in [-1, 0] {
        let draft = Draft::of("w4-asym-channel").set(&format!("{WEIGHTS}/strategy"), json!("group"));
        let draft = draft.set(&format!("{WEIGHTS}/group_size"), json!(whole));
        assert!(draft.read().unwrap().unwrap().contains("per channel"));
    }
}

#[test]
fn a_dense_model_whose_config_claims_otherwise_is_dense() {
    let mut draft = Draft::of("w4-sym-group");
    draft.tensors.retain(|name, _| name == "model.norm.weight");
    assert_eq!(draft.read().unwrap(), None);
}

#[test]
fn scaled_fp8_in_an_unknown_layout_is_not_taken_for_plain_values() {
    let draft = Draft::of("deepseek-fp8").with("model.experts.gate_up_proj", Dtype::F8_E4M3, &[2, 2, 2]);
    let draft = draft.with("model.experts.gate_up_proj_scale_inv", Dtype::F32, &[2, 1, 1]);
    draft.refused(&["gate_up_proj", "does not read"]);
}

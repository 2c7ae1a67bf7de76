//! Formats against what the engines' own code stores (fixtures/formats), against hand-worked words, and against
//! themselves: the same bytes whatever the row ranges. And their configs, shards and model cards.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;

use common::{fixture, uniform};
use llmc::export::FORMATS;
use llmc::io::Checkpoint;
use llmc::model::Transform;
use llmc::numerics::presets::{ActivationScheme, PRESETS};
use llmc::numerics::{Context, Extent, Fp8, Granularity, Grid, Number, QTensor, ScaleType, Scheme};
use llmc::plan::{Admission, Format, LayoutContext, OutputTensor, Part};
use llmc::recipe::Recipe;
use llmc::tensor::DType;
use proptest::prelude::*;
use safetensors::SafeTensors;

const CONTEXT: LayoutContext = LayoutContext { dtype: DType::BF16, activations: None };
const W8A8: LayoutContext = LayoutContext { activations: Some(ActivationScheme::Int8Token), ..CONTEXT };

fn format(name: &str) -> &'static dyn Format {
    *FORMATS.iter().find(|format| format.name() == name).unwrap()
}

fn output(shape: &[usize]) -> OutputTensor {
    OutputTensor {
        name: "linear.weight".into(),
        shape: shape.into(),
        pieces: Vec::new(),
        transform: Transform::None,
    }
}

fn rounded(scheme: &Scheme, rows: usize, cols: usize) -> QTensor {
    let w = uniform(rows, cols, 1) * 0.1;
    let extent = Extent::of(w.as_slice().unwrap());
    scheme.quantize(w.view(), &Context { extent: Some(extent), importance: None })
}

/// The bytes of the parts, encoded in ranges of `step` rows, the last range first. Every byte is written once.
fn encoded(format: &dyn Format, q: &QTensor, parts: &[Part], step: usize) -> Vec<Vec<u8>> {
    let mut bytes: Vec<Vec<u8>> = parts.iter().map(|part| vec![0; part.byte_len()]).collect();
    let mut writes = bytes.clone();
    let starts: Vec<usize> = (0..q.rows).step_by(step).collect();
    for &first in starts.iter().rev() {
        let mut sink = |part: usize, offset: u64, data: &[u8]| {
            let range = offset as usize..offset as usize + data.len();
            writes[part][range.clone()].iter_mut().for_each(|count| *count += 1);
            bytes[part][range].copy_from_slice(data);
            Ok(())
        };
        format.encode(&q.rows(first..q.rows.min(first + step)), first, parts, &mut sink).unwrap();
    }
    for (part, writes) in parts.iter().zip(&writes) {
        assert!(writes.iter().all(|&count| count == 1), "{}: not every byte is written once", part.name);
    }
    bytes
}

/// The 32-bit words of a part.
fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// One group, scale 1, symmetric.
fn integers(bits: u8, rows: usize, cols: usize, codes: Vec<u8>) -> QTensor {
    let scheme = Scheme::int(bits, Granularity::Group(cols), true, ScaleType::F16);
    let grid = Grid { scales: vec![1.0; rows], ..Grid::default() };
    QTensor::scalar(scheme, [rows, cols], codes, grid)
}

fn first_part(name: &str, q: &QTensor, index: usize) -> Vec<u32> {
    let format = format(name);
    let parts = format.parts(&output(&[q.rows, q.cols]), &q.scheme(), &CONTEXT);
    words(&encoded(format, q, &parts, q.rows)[index])
}

#[test]
fn compressed_tensors_words() {
    assert_eq!(
        first_part("compressed-tensors", &integers(4, 1, 16, (0..16).collect()), 0),
        [0x7654_3210, 0xfedc_ba98]
    );
    let three_bits = integers(3, 1, 32, (0..32).map(|i| i % 8).collect());
    assert_eq!(first_part("compressed-tensors", &three_bits, 0), [0x88fa_c688, 0xc688_fac6, 0xfac6_88fa]);
}

#[test]
fn gptq_symmetric_zeros() {
    let check = |name: &str, bits: u8, expected: &[u32]| {
        let q = integers(bits, 32, 32, vec![0; 32 * 32]);
        assert_eq!(first_part(name, &q, 1), expected, "{name}, {bits} bits");
    };
    check("gptq", 4, &[0x7777_7777; 4]);
    check("gptq-v2", 4, &[0x8888_8888; 4]);
    check("gptq", 3, &[0xdb6d_b6db, 0xb6db_6db6, 0x6db6_db6d]);
    check("gptq-v2", 3, &[0x2492_4924, 0x4924_9249, 0x9249_2492]);
}

#[test]
fn awq_order() {
    let q = integers(4, 8, 16, (0..8 * 16).map(|i| i / 16).collect());
    assert_eq!(first_part("awq", &q, 0), [0x7531_6420; 16]);
    assert_eq!(first_part("awq", &q, 1), [0x8888_8888]);
}

#[test]
fn nvfp4_pairs_have_the_even_element_low() {
    let grid = Grid { scales: vec![1.0], zero_points: vec![], global_scale: Some(448.0) };
    let q = QTensor::scalar(Scheme::NVFP4, [1, 16], (0..16).collect(), grid);
    let format = format("compressed-tensors");
    let parts = format.parts(&output(&[1, 16]), &q.scheme(), &CONTEXT);
    let bytes = encoded(format, &q, &parts, 1);
    assert_eq!(bytes[0], [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe]);
    assert_eq!(bytes[1], [0x38]); // 1.0 in E4M3
    assert_eq!(bytes[2], 448f32.to_le_bytes());
}

struct Goldens(Vec<u8>);

impl Goldens {
    fn open() -> Goldens {
        Goldens(std::fs::read(fixture("formats/goldens.safetensors")).unwrap())
    }

    fn get(&self, name: &str) -> Option<(Vec<usize>, &[u8])> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let view = tensors.tensor(name).ok()?;
        Some((view.shape().to_vec(), view.data()))
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.get(name).map_or(&[][..], |(_, bytes)| bytes);
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn tensor(&self, case: &str, scheme: Scheme) -> QTensor {
        let (shape, codes) = self.get(&format!("{case}/codes")).unwrap();
        let zero_points =
            self.get(&format!("{case}/zero_points")).map_or(vec![], |(_, bytes)| bytes.to_vec());
        let grid = Grid {
            scales: self.floats(&format!("{case}/scales")),
            zero_points,
            global_scale: self.floats(&format!("{case}/global_scale")).first().copied(),
        };
        QTensor::scalar(scheme, [shape[0], shape[1]], codes.to_vec(), grid)
    }

    /// Every part equals the golden's; the values are those that the engine reads.
    fn check(&self, case: &str, name: &str, scheme: Scheme, target: &LayoutContext) {
        let q = self.tensor(case, scheme);
        let format = format(name);
        let parts = format.parts(&output(&[q.rows, q.cols]), &scheme, target);
        for (part, bytes) in parts.iter().zip(encoded(format, &q, &parts, q.rows)) {
            let role = part.name.strip_prefix("linear.").unwrap();
            let role = if name == "gptq" && role == "qzeros" { "qzeros_v1" } else { role };
            let (shape, expected) = self.get(&format!("{case}/parts/{role}")).unwrap();
            assert_eq!(part.shape, shape, "{case}/{role}");
            assert_eq!(bytes, expected, "{case}/{role}");
        }
        let expected = self.floats(&format!("{case}/values"));
        // Of these the engines' own code gives no values.
        let none = ["awq", "float-quantized/block"].contains(&case) || case.starts_with("gptq/");
        assert_eq!(expected.len(), if none { 0 } else { q.rows * q.cols }, "{case}");
        if !none {
            let mut values = vec![0.0; q.rows * q.cols];
            q.dequantize(&mut values);
            // compressed-tensors computes NVFP4 values in bfloat16, the others' exactly.
            let tolerance = if scheme == Scheme::NVFP4 { 1.0 / 128.0 } else { 0.0 };
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance * b.abs();
            assert!(values.iter().zip(&expected).all(close), "{case}: values");
        }
    }
}

#[test]
fn compressed_tensors_equals_its_reference() {
    let goldens = Goldens::open();
    let name = "compressed-tensors";
    for bits in 2..=8 {
        for (symmetric, word) in [(true, "symmetric"), (false, "asymmetric")] {
            let scheme = Scheme::int(bits, Granularity::Group(32), symmetric, ScaleType::BF16);
            goldens.check(&format!("pack-quantized/{bits}/{word}"), name, scheme, &CONTEXT);
        }
    }
    goldens.check("int-quantized", name, Scheme::int(8, Granularity::Channel, true, ScaleType::BF16), &W8A8);
    for (strategy, granularity) in [
        ("channel", Granularity::Channel),
        ("tensor", Granularity::Tensor),
        ("block", Granularity::Block(128, 128)),
    ] {
        let scheme = Scheme::fp8(Fp8::E4M3, granularity, ScaleType::BF16);
        goldens.check(&format!("float-quantized/{strategy}"), name, scheme, &CONTEXT);
    }
    goldens.check("nvfp4-pack-quantized", name, Scheme::NVFP4, &CONTEXT);
    goldens.check("mxfp4-pack-quantized", name, Scheme::MXFP4, &CONTEXT);
}

#[test]
fn gptq_and_awq_equal_their_references() {
    let goldens = Goldens::open();
    for bits in [2, 3, 4, 8] {
        let scheme = Scheme::int(bits, Granularity::Group(32), false, ScaleType::F16);
        goldens.check(&format!("gptq/{bits}"), "gptq-v2", scheme, &CONTEXT);
        // Its zero points are all above 0, so that version 1 can hold them.
        goldens.check(&format!("gptq/{bits}"), "gptq", scheme, &CONTEXT);
    }
    goldens.check("awq", "awq", Scheme::int(4, Granularity::Group(32), false, ScaleType::F16), &CONTEXT);
}

/// Checks that, encoded in ranges of any allowed size, the bytes are those of one go. Returns false if the format does not
/// admit the scheme.
fn check_ranges(
    format: &dyn Format,
    scheme: &Scheme,
    rows: usize,
    cols: usize,
    target: &LayoutContext,
) -> bool {
    let (Admission::As(scheme) | Admission::Instead(scheme, _)) =
        format.admit(scheme, &[rows, cols], target.dtype)
    else {
        return false;
    };
    let parts = format.parts(&output(&[rows, cols]), &scheme, target);
    let q = rounded(&scheme, rows, cols);
    let whole = encoded(format, &q, &parts, rows);
    let multiple = lcm(format.row_multiple(&scheme), scheme.row_multiple());
    for step in [multiple, 2 * multiple, 3 * multiple] {
        assert!(
            encoded(format, &q, &parts, step) == whole,
            "{} {scheme}: ranges of {step} rows",
            format.name()
        );
    }
    true
}

fn lcm(a: usize, b: usize) -> usize {
    (1..=b).map(|i| a * i).find(|multiple| multiple % b == 0).unwrap()
}

#[test]
fn every_preset_in_every_format() {
    let mut checked = HashSet::new();
    for format in FORMATS.iter().filter(|format| format.name() != "gguf") {
        for preset in PRESETS {
            let target = LayoutContext { dtype: DType::BF16, activations: preset.activations };
            for (rows, cols) in [(128, 256), (96, 160), (40, 100), (7, 48), (1, 33)] {
                if matches!(preset.scheme.number, Number::Ggml(_)) && format.name() == "dense" {
                    continue;
                }
                if check_ranges(*format, &preset.scheme, rows, cols, &target) {
                    checked.extend([format.name(), preset.name]);
                }
            }
        }
    }
    let formats = FORMATS.iter().map(|format| format.name()).filter(|name| *name != "gguf");
    let others = PRESETS.iter().filter(|preset| !matches!(preset.scheme.number, Number::Ggml(_)));
    let unchecked: Vec<_> =
        formats.chain(others.map(|preset| preset.name)).filter(|name| !checked.contains(name)).collect();
    assert!(unchecked.is_empty(), "nothing was checked of {unchecked:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_integers_in_any_ranges(
        bits in 2u8..=8, symmetric: bool, group in prop::sample::select(vec![0usize, 16, 32, 50, 128]),
        rows in 1usize..140, cols in 1usize..200,
    ) {
        let granularity = if group == 0 { Granularity::Channel } else { Granularity::Group(group) };
        let scheme = Scheme::int(bits, granularity, symmetric, ScaleType::BF16);
        let mut checked = HashSet::new();
        for name in ["compressed-tensors", "gptq", "gptq-v2", "awq", "dense"] {
            for target in [CONTEXT, W8A8] {
                for [rows, cols] in [[rows, cols], [rows, cols].map(|n| n.next_multiple_of(32))] {
                    if check_ranges(format(name), &scheme, rows, cols, &target) {
                        checked.insert(name);
                    }
                }
            }
        }
        prop_assert!(checked.contains("dense"));
        prop_assert!(granularity != Granularity::Channel || checked.contains("compressed-tensors"));
    }
}

/// The side files of a plan for fixtures/tiny-llama, parsed.
fn config(recipe: Recipe) -> serde_json::Value {
    let checkpoint = Checkpoint::open(fixture("tiny-llama").to_str().unwrap()).unwrap();
    let plan = recipe.plan(&checkpoint).unwrap();
    let files = plan.request.format.side_files(&plan.contents(), &checkpoint).unwrap();
    let (_, bytes) = files.iter().find(|(name, _)| name == "config.json").unwrap();
    serde_json::from_slice(bytes).unwrap()
}

fn recipe(scheme: &str, format: &str) -> Recipe {
    Recipe { scheme: Some(scheme.into()), format: Some(format.into()), ..Recipe::default() }
}

#[test]
fn one_scheme_targets_every_linear_but_the_ignored() {
    let exclude = vec!["*layers.0.mlp.down_proj*".to_owned()];
    let config = config(Recipe { group_size: Some(32), exclude, ..recipe("w4a16", "compressed-tensors") });
    assert_eq!(config["model_type"], "llama");
    let quantization = &config["quantization_config"];
    assert_eq!(quantization["format"], "pack-quantized");
    let group = &quantization["config_groups"]["group_0"];
    assert_eq!(group["targets"], serde_json::json!(["Linear"]));
    assert_eq!(group["weights"]["group_size"], 32);
    assert!(group["input_activations"].is_null());
    let ignore: Vec<&str> =
        quantization["ignore"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    assert_eq!(ignore, ["model.embed_tokens", "model.layers.0.mlp.down_proj", "lm_head"]);
}

#[test]
fn several_schemes_name_their_modules() {
    // 160 columns do not hold groups of 128, 512 do.
    let config = config(recipe("w4a16", "compressed-tensors"));
    let groups = config["quantization_config"]["config_groups"].as_object().unwrap();
    assert_eq!(groups.len(), 2);
    assert_eq!(groups["group_0"]["weights"]["group_size"], 32);
    assert_eq!(groups["group_0"]["targets"].as_array().unwrap().len(), 6);
    assert_eq!(groups["group_1"]["weights"]["group_size"], 128);
    let expected = serde_json::json!([r"re:(?:.*\.)?layers\.\d+\.mlp\.down_proj$"]);
    assert_eq!(groups["group_1"]["targets"], expected);
}

#[test]
fn inputs_are_quantized_where_the_preset_says_so() {
    let inputs = |scheme: &str| {
        let config = config(recipe(scheme, "compressed-tensors"));
        let quantization = &config["quantization_config"];
        let inputs = &quantization["config_groups"]["group_0"]["input_activations"];
        [&quantization["format"], &inputs["type"], &inputs["strategy"]]
            .map(|value| value.as_str().map(str::to_owned))
    };
    let check = |scheme: &str, expected: [Option<&str>; 3]| {
        assert_eq!(inputs(scheme), expected.map(|word| word.map(str::to_owned)), "{scheme}");
    };
    check("w8a8", [Some("int-quantized"), Some("int"), Some("token")]);
    check("w8a16", [Some("pack-quantized"), None, None]);
    check("fp8", [Some("float-quantized"), Some("float"), Some("token")]);
    check("nvfp4", [Some("nvfp4-pack-quantized"), None, None]);
}

#[test]
fn gptq_and_awq_configs() {
    let gptq = config(Recipe { group_size: Some(32), ..recipe("w4a16", "gptq") });
    let gptq = &gptq["quantization_config"];
    assert_eq!((&gptq["bits"], &gptq["group_size"], &gptq["sym"]), (&4.into(), &32.into(), &true.into()));
    assert_eq!(gptq["checkpoint_format"], "gptq");
    let awq = config(Recipe { group_size: Some(32), ..recipe("w4a16-asym", "awq") });
    let awq = &awq["quantization_config"];
    assert_eq!((&awq["bits"], &awq["group_size"], &awq["version"]), (&4.into(), &32.into(), &"gemm".into()));
    assert_eq!(awq["modules_to_not_convert"], serde_json::json!(["model.embed_tokens", "lm_head"]));
}

#[test]
fn dense_output_is_not_quantized_to_its_readers() {
    let config = config(Recipe { dtype: Some("f32".into()), ..recipe("w4a16", "dense") });
    assert!(config.get("quantization_config").is_none());
    assert!([&config["dtype"], &config["torch_dtype"]].contains(&&"float32".into()));
}

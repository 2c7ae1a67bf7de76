//! GPTQ, the format of AutoGPTQ and GPTQModel: vLLM, SGLang, transformers (with gptqmodel) and ExLlama load it.
//! <https://github.com/ModelCloud/GPTQModel>.
//!
//! For a weight [N, K], b bits, G groups of g columns; words are packed least significant code first:
//! `qweight` i32 [K·b/32, N], packed along K; `qzeros` i32 [G, N·b/32], packed along N; `scales` f16 [G, N];
//! `g_idx` i32 \[K\], the group of each column. `w = scales[g_idx]·(code − zero)`.
//!
//! Version 1 stores zero − 1, version 2 zero as it is. Zero − 1 of 0 does not fit: readers of version 1 disagree on what
//! they make of it, so version 1 is symmetric only here, and asymmetric schemes go into version 2.
//!
//! Limits: 2, 3, 4 and 8 bits; N and K multiples of 32 (32 codes of 3 bits fill whole words); groups divide K; linears
//! that are kept dense, or whose group differs, are named in `dynamic` (GPTQModel, vLLM).

use serde_json::{Map, Value, json};

use super::layout::{
    fitting_group, group_size, in_order, packed_rows, part, to_bytes, to_words, transpose, words,
    write_columns, zero_points,
};
use super::model_config::config_json;
use super::modules::{self, Group, Ignored};
use super::patterns::{patterns, subtree, with_fused};
use super::shards;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::json::pretty;
use crate::numerics::{Granularity, Number, QTensor, ScaleType, Scheme, convert};
use crate::plan::{
    Admission, Capabilities, Contents, Engine, Format, LayoutContext, OutputFile, OutputTensor, Part, Sink,
};
use crate::tensor::{DType, rows_cols};

/// GPTQ.
#[derive(Debug)]
pub(crate) struct Gptq {
    /// 1 stores zero points minus one, 2 as they are.
    pub version: u8,
}

/// N and K must be multiples of this.
const MULTIPLE: usize = 32;

/// Index of a part, in the order of [`Format::parts`].
const QWEIGHT: usize = 0;
const QZEROS: usize = 1;
const SCALES: usize = 2;
const G_IDX: usize = 3;

const VERSION_1: Capabilities = Capabilities {
    name: "gptq",
    summary: "vLLM, SGLang, ExLlama, transformers with gptqmodel: 2, 3, 4, 8 bits, symmetric",
    engines: &[Engine::TransformersGptq, Engine::Vllm, Engine::Sglang],
    ..Capabilities::FOLDER
};

const VERSION_2: Capabilities =
    Capabilities { name: "gptq-v2", summary: "GPTQModel, vLLM: as gptq, and asymmetric too", ..VERSION_1 };

impl Format for Gptq {
    fn capabilities(&self) -> &'static Capabilities {
        if self.version == 1 { &VERSION_1 } else { &VERSION_2 }
    }

    fn admit(&self, scheme: &Scheme, shape: &[usize], _dtype: DType) -> Admission {
        let scheme = Scheme { scale: ScaleType::F16, ..*scheme };
        match (scheme.number, shape) {
            (Number::Int { bits: 2 | 3 | 4 | 8 }, _) if self.version == 1 && !scheme.symmetric => {
                Admission::Never("a zero point of 0 has no place in gptq: --format gptq-v2, or --symmetric".into())
            }
            (Number::Int { bits: 2 | 3 | 4 | 8 }, &[rows, cols]) => admit_shape(scheme, rows, cols),
            (Number::Int { bits: 2 | 3 | 4 | 8 }, _) => {
                Admission::Dense(format!("the readers know linear modules, not stacks of shape {shape:?}"))
            }
            (Number::Ggml(_), _) => Admission::Never("GGUF block types go into GGUF: --format gguf".into()),
            _ => Admission::Never(
                "gptq holds integers of 2, 3, 4 and 8 bits (--scheme w4a16); --format compressed-tensors holds more".into(),
            ),
        }
    }

    fn parts(&self, output: &OutputTensor, scheme: &Scheme, _context: &LayoutContext) -> Vec<Part> {
        let [rows, cols] = rows_cols(&output.shape);
        let (bits, groups) = (bits(scheme), scheme.grid_shape(rows, cols)[1]);
        let part = |name, dtype, shape: &[usize]| part(&output.name, name, dtype, shape);
        vec![
            part("qweight", DType::I32, &[words(cols, bits), rows]),
            part("qzeros", DType::I32, &[groups, words(rows, bits)]),
            part("scales", DType::F16, &[groups, rows]),
            part("g_idx", DType::I32, &[cols]),
        ]
    }

    fn row_multiple(&self, _scheme: &Scheme) -> usize {
        MULTIPLE
    }

    fn encode(&self, q: &QTensor, first_row: usize, parts: &[Part], sink: &mut Sink) -> Result<()> {
        in_order(q, self.name())?;
        encode_codes(q, first_row, &parts[QWEIGHT], sink)?;
        self.encode_zeros(q, first_row, &parts[QZEROS], sink)?;
        encode_scales(q, SCALES, first_row, &parts[SCALES], sink)?;
        match first_row {
            0 => sink(G_IDX, 0, &group_indices(q)),
            _ => Ok(()),
        }
    }

    fn files(&self, contents: &Contents, _checkpoint: &Checkpoint) -> Result<Vec<OutputFile>> {
        shards::files(contents)
    }

    fn side_files(&self, contents: &Contents, checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>> {
        let config = self.quantization_config(contents, checkpoint);
        let mut files = vec![
            ("quantize_config.json".into(), pretty(&config)),
            config_json(contents, checkpoint, Some(config)),
        ];
        files.extend(shards::index(contents)?);
        Ok(files)
    }
}

impl Gptq {
    fn encode_zeros(&self, q: &QTensor, first_row: usize, part: &Part, sink: &mut Sink) -> Result<()> {
        let bits = bits(&q.scheme());
        let less = if self.version == 1 { 1 } else { 0 };
        let zeros: Vec<u8> = zero_points(q, bits).iter().map(|zero| zero - less).collect();
        let [groups, stride] = [part.shape[0], part.shape[1]];
        let packed = packed_rows(&transpose(&zeros, q.rows, groups), q.rows, bits);
        write_columns(sink, QZEROS, &packed, groups, 4 * stride, 4 * words(first_row, bits))
    }

    fn quantization_config(&self, contents: &Contents, checkpoint: &Checkpoint) -> Value {
        let groups = modules::groups(contents);
        let base = groups.first().map(|group| group.scheme);
        let (bits, sym) = base.map_or((4, true), |scheme| (bits(&scheme), scheme.symmetric));
        let mut config = json!({
            "quant_method": "gptq",
            "checkpoint_format": if self.version == 1 { "gptq" } else { "gptq_v2" },
            "bits": bits,
            "group_size": base.map_or(-1, group_key),
            "desc_act": false,
            "sym": sym,
            "lm_head": groups.iter().any(|group| group.modules.contains(&"lm_head")),
            "pack_dtype": "int32",
            "meta": { "quantizer": [concat!("llmc:", env!("CARGO_PKG_VERSION"))] },
        });
        let dynamic = dynamic(&groups, &modules::stored_dense(contents, checkpoint));
        if !dynamic.is_empty() {
            config["dynamic"] = Value::Object(dynamic);
        }
        config
    }
}

fn admit_shape(scheme: Scheme, rows: usize, cols: usize) -> Admission {
    let with = |granularity| Scheme { granularity, ..scheme };
    if rows == 0 || cols == 0 || !rows.is_multiple_of(MULTIPLE) || !cols.is_multiple_of(MULTIPLE) {
        return Admission::Dense(format!(
            "{rows}×{cols} is not a multiple of {MULTIPLE} both ways, as gptq kernels ask"
        ));
    }
    match scheme.granularity {
        Granularity::Channel => Admission::As(scheme),
        Granularity::Group(size) if cols.is_multiple_of(size) => Admission::As(scheme),
        Granularity::Group(size) => {
            let (fitting, why) = fitting_group(cols, size);
            Admission::Instead(with(fitting), why)
        }
        Granularity::Tensor | Granularity::Block(..) => {
            Admission::Instead(with(Granularity::Channel), "gptq has scales per group or channel".into())
        }
    }
}

/// Bits per code of an admitted scheme.
fn bits(scheme: &Scheme) -> u8 {
    match scheme.number {
        Number::Int { bits } => bits,
        _ => unreachable!("only integers are admitted"),
    }
}

/// `group_size` as the config says it: −1 for one group per row.
pub(super) fn group_key(scheme: Scheme) -> i64 {
    match scheme.granularity {
        Granularity::Group(size) => size as i64,
        _ => -1,
    }
}

/// The rows' codes, packed along K and turned: [words of a row, N].
fn encode_codes(q: &QTensor, first_row: usize, part: &Part, sink: &mut Sink) -> Result<()> {
    let bits = bits(&q.scheme());
    let [lines, stride] = [part.shape[0], part.shape[1]];
    let packed = packed_rows(&q.as_scalar().codes, q.cols, bits);
    let turned = transpose(&to_words(&packed), q.rows, lines);
    write_columns(sink, QWEIGHT, &to_bytes(&turned), lines, 4 * stride, 4 * first_row)
}

/// The rows' scales in f16, turned: [G, N]. AWQ stores them alike.
pub(super) fn encode_scales(
    q: &QTensor,
    index: usize,
    first_row: usize,
    part: &Part,
    sink: &mut Sink,
) -> Result<()> {
    let [groups, stride] = [part.shape[0], part.shape[1]];
    let mut bytes = Vec::new();
    convert::from_f32(DType::F16, &transpose(&q.as_scalar().grid.scales, q.rows, groups), &mut bytes);
    write_columns(sink, index, &bytes, groups, 2 * stride, 2 * first_row)
}

fn group_indices(q: &QTensor) -> Vec<u8> {
    let size = group_size(&q.scheme(), q.cols).expect("admitted per group or channel");
    (0..q.cols).flat_map(|col| ((col / size) as i32).to_le_bytes()).collect()
}

/// Rules by module name: what differs from the first group, and what is not quantized.
fn dynamic(groups: &[Group], dense: &Ignored) -> Map<String, Value> {
    let mut rules = Map::new();
    let quantized = groups.iter().flat_map(|group| &group.modules);
    let whole = dense.whole.iter().map(|root| subtree(root));
    for pattern in whole.chain(with_fused(patterns(&dense.names, quantized))) {
        rules.insert(format!("-:{pattern}"), json!({}));
    }
    for group in groups.iter().skip(1) {
        let others = groups.iter().filter(|other| other.scheme != group.scheme);
        let others = others.flat_map(|other| &other.modules).chain(&dense.names);
        for pattern in with_fused(patterns(&group.modules, others)) {
            let rule = json!({ "bits": bits(&group.scheme), "group_size": group_key(group.scheme), "sym": group.scheme.symmetric });
            rules.insert(format!("+:{pattern}"), rule);
        }
    }
    rules
}

//! AWQ in its GEMM arrangement, the format of AutoAWQ: vLLM, SGLang and transformers (with gptqmodel) load it.
//! <https://github.com/casper-hansen/AutoAWQ/blob/main/awq/utils/packing_utils.py>.
//!
//! For a weight [N, K], G groups: `qweight` i32 [K, N/8], whose word c holds channels 8c + 0, 2, 4, 6, 1, 3, 5, 7, least
//! significant first; `qzeros` i32 [G, N/8] alike; `scales` f16 [G, N]. w = (code − zero)·scale. Symmetric schemes are
//! stored with zero points of 8.
//!
//! Limits: 4 bits; N a multiple of 8; one group size for the whole model, the largest that divides every K; where none does, a
//! linear whose K it does not divide stays dense, and is listed in `modules_to_not_convert`.

use serde_json::{Value, json};

use super::gptq::{encode_scales, group_key};
use super::layout::{in_order, part, transpose, write_columns, zero_points};
use super::model_config::config_json;
use super::{modules, shards};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::numerics::{Granularity, Number, QTensor, ScaleType, Scheme};
use crate::plan::{
    Admission, Capabilities, Contents, Engine, Format, LayoutContext, OutputFile, OutputTensor, Part, Sink,
};
use crate::tensor::{DType, rows_cols};

/// AWQ GEMM.
#[derive(Debug)]
pub(crate) struct Awq;

/// Channels per word.
const PACK: usize = 8;
/// The channel, of eight, in each nibble, from the least significant.
const ORDER: [usize; PACK] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Index of a part, in the order of [`Format::parts`].
const QWEIGHT: usize = 0;
const QZEROS: usize = 1;
const SCALES: usize = 2;

const CAPABILITIES: Capabilities = Capabilities {
    name: "awq",
    summary: "vLLM, SGLang, transformers with gptqmodel: 4 bits",
    engines: &[Engine::TransformersGptq, Engine::Vllm, Engine::Sglang],
    one_group_size: true,
    ..Capabilities::FOLDER
};

impl Format for Awq {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn admit(&self, scheme: &Scheme, shape: &[usize], _dtype: DType) -> Admission {
        let scheme = Scheme { scale: ScaleType::F16, ..*scheme };
        match (scheme.number, shape) {
            (Number::Int { bits: 4 }, &[rows, cols]) => admit_shape(scheme, rows, cols),
            (Number::Int { bits: 4 }, _) => {
                Admission::Dense(format!("the readers know linear modules, not stacks of shape {shape:?}"))
            }
            (Number::Ggml(_), _) => Admission::Never("GGUF block types go into GGUF: --format gguf".into()),
            _ => Admission::Never(
                "awq holds 4-bit integers (--scheme w4a16); --format compressed-tensors holds more".into(),
            ),
        }
    }

    fn parts(&self, output: &OutputTensor, scheme: &Scheme, _context: &LayoutContext) -> Vec<Part> {
        let [rows, cols] = rows_cols(&output.shape);
        let groups = scheme.grid_shape(rows, cols)[1];
        let part = |name, dtype, shape: &[usize]| part(&output.name, name, dtype, shape);
        vec![
            part("qweight", DType::I32, &[cols, rows / PACK]),
            part("qzeros", DType::I32, &[groups, rows / PACK]),
            part("scales", DType::F16, &[groups, rows]),
        ]
    }

    fn row_multiple(&self, _scheme: &Scheme) -> usize {
        PACK
    }

    fn encode(&self, q: &QTensor, first_row: usize, parts: &[Part], sink: &mut Sink) -> Result<()> {
        in_order(q, self.name())?;
        encode_nibbles(&q.as_scalar().codes, QWEIGHT, q.rows, first_row, &parts[QWEIGHT], sink)?;
        encode_nibbles(&zero_points(q, 4), QZEROS, q.rows, first_row, &parts[QZEROS], sink)?;
        encode_scales(q, SCALES, first_row, &parts[SCALES], sink)
    }

    fn files(&self, contents: &Contents, _checkpoint: &Checkpoint) -> Result<Vec<OutputFile>> {
        shards::files(contents)
    }

    fn side_files(&self, contents: &Contents, checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files =
            vec![config_json(contents, checkpoint, Some(quantization_config(contents, checkpoint)))];
        files.extend(shards::index(contents)?);
        Ok(files)
    }
}

fn admit_shape(scheme: Scheme, rows: usize, cols: usize) -> Admission {
    if rows == 0 || cols == 0 || !rows.is_multiple_of(PACK) {
        return Admission::Dense(format!("{rows} rows are not a multiple of {PACK}"));
    }
    match scheme.granularity {
        Granularity::Channel => Admission::As(scheme),
        Granularity::Group(size) if cols.is_multiple_of(size) => Admission::As(scheme),
        Granularity::Group(size) => Admission::Dense(format!(
            "{cols} columns are not a multiple of {size}, and awq has one group size for the whole model"
        )),
        Granularity::Tensor | Granularity::Block(..) => {
            let channel = Scheme { granularity: Granularity::Channel, ..scheme };
            Admission::Instead(channel, "awq has scales per group or channel".into())
        }
    }
}

/// Nibbles [rows, cols] → words [cols, rows/8] of a part [cols, N/8].
fn encode_nibbles(
    nibbles: &[u8],
    index: usize,
    rows: usize,
    first_row: usize,
    part: &Part,
    sink: &mut Sink,
) -> Result<()> {
    let [lines, stride] = [part.shape[0], part.shape[1]];
    let turned = transpose(nibbles, rows, lines);
    let bytes: Vec<u8> =
        turned.chunks_exact(PACK).flat_map(|eight| pack_eight(eight).to_le_bytes()).collect();
    write_columns(sink, index, &bytes, lines, 4 * stride, 4 * (first_row / PACK))
}

fn pack_eight(nibbles: &[u8]) -> u32 {
    let field = |(i, &channel): (usize, &usize)| u32::from(nibbles[channel]) << (4 * i);
    ORDER.iter().enumerate().map(field).fold(0, |word, nibble| word | nibble)
}

/// The names of the file, and those under which engines load the modules: transformers matches beginnings, vLLM any part of a
/// name.
fn not_converted(contents: &Contents, checkpoint: &Checkpoint) -> Vec<String> {
    let ignored = modules::ignored(contents, checkpoint);
    ignored.names.iter().map(|name| (*name).to_owned()).chain(ignored.aliases()).collect()
}

fn quantization_config(contents: &Contents, checkpoint: &Checkpoint) -> Value {
    let groups = modules::groups(contents);
    let dense = not_converted(contents, checkpoint);
    json!({
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": groups.first().map_or(-1, |group| group_key(group.scheme)),
        "zero_point": true,
        "modules_to_not_convert": if dense.is_empty() { Value::Null } else { json!(dense) },
    })
}

//! compressed-tensors, the format of llm-compressor: vLLM, SGLang and transformers (with the compressed-tensors package)
//! load it. <https://github.com/vllm-project/compressed-tensors>, to the letter of version 0.20.
//!
//! What the scheme is decides the layout:
//!
//! | layout | schemes | `weight…` |
//! |---|---|---|
//! | pack-quantized | integers of 2 to 8 bits, per group or channel | `_packed` i32 [N, ⌈K·b/32⌉], `_scale` [N, G], `_shape` i64 \[2\], `_zero_point` i32 [⌈N·b/32⌉, G] if asymmetric |
//! | int-quantized | W8A8: symmetric 8-bit integers per channel | (itself) i8 [N, K], `_scale` [N, 1] |
//! | float-quantized | FP8 E4M3, per channel, tensor or 128×128 block | (itself) f8 [N, K], `_scale` |
//! | nvfp4-pack-quantized | NVFP4 | `_packed` u8 [N, K/2], `_scale` f8 [N, K/16], `_global_scale` f32 \[1\] |
//! | mxfp4-pack-quantized | MXFP4 | `_packed` u8 [N, K/2], `_scale` u8 [N, K/32] |
//!
//! Scales that calibration has measured stand beside them, f32 \[1\]: `input_scale` of a quantized linear, and `k_scale` and
//! `v_scale` of the module that holds the projections of keys and values, fused or not, under which vLLM's
//! `maybe_remap_kv_scale_name` looks for them. Readers multiply codes by them.
//!
//! Limits: groups must divide K (kernels have no short last group); stacked experts [E, N, K] stay dense: the readers compress
//! linear modules, and which way round a stack lies, or how gate and up share it, differs from model to model;
//! transformers reads zero points only with `CompressedTensorsConfig(dequantize=True)` (as of 5.23).

mod config;
mod layouts;

use super::layout::{fitting_group, in_order, module, packed_rows, part, scale_type, words};
use super::model_config::config_json;
use super::shards;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::numerics::{Fp8, Granularity, Number, QTensor, ScalarCodes, ScaleType, Scheme, convert, pack};
use crate::plan::{
    Admission, Capabilities, Contents, Engine, Format, LayoutContext, Measured, OutputFile, OutputTensor,
    Part, Sink,
};
use crate::tensor::{DType, rows_cols};
use layouts::{FP8_BLOCK, Layout};

/// compressed-tensors.
#[derive(Debug)]
pub(crate) struct CompressedTensors;

const DENSE_HINT: &str = "--format dense stores the dequantized values, which every engine loads";
/// Index of a part, in the order of [`Format::parts`].
const WEIGHT: usize = 0;
const SCALE: usize = 1;
const SHAPE: usize = 2;
const GLOBAL_SCALE: usize = 2;
const ZERO_POINT: usize = 3;

const CAPABILITIES: Capabilities = Capabilities {
    name: "compressed-tensors",
    summary: "vLLM, SGLang, transformers: integers of 2 to 8 bits, W8A8, FP8, NVFP4, MXFP4",
    engines: &[Engine::TransformersCompressed, Engine::Vllm, Engine::Sglang],
    activations: true,
    kv_cache: true,
    adapter_note: Some(
        "PEFT needs the weights dequantized: load the model with \
         `quantization_config=CompressedTensorsConfig(dequantize=True)`.",
    ),
    ..Capabilities::FOLDER
};

impl Format for CompressedTensors {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn admit(&self, scheme: &Scheme, shape: &[usize], dtype: DType) -> Admission {
        if let Some(hint) = never(scheme) {
            return Admission::Never(hint);
        }
        let &[rows, cols] = shape else {
            return Admission::Dense(format!(
                "the readers compress linear modules, not stacks of shape {shape:?}"
            ));
        };
        let scheme = match scheme.number {
            Number::Fp4 => *scheme,
            _ => Scheme { scale: scale_type(dtype), ..*scheme },
        };
        match scheme.number {
            _ if rows == 0 || cols == 0 => Admission::Dense("it is empty".into()),
            Number::Int { .. } => admit_int(scheme, cols),
            Number::Fp8(_) => admit_fp8(scheme, rows, cols),
            _ => admit_fp4(scheme, cols),
        }
    }

    /// vLLM has kernels for integers of 4 and 8 bits alone, SGLang with no zero points either; transformers has none for zero
    /// points.
    fn engines(&self, scheme: &Scheme) -> &'static [Engine] {
        match (scheme.number, scheme.symmetric) {
            (Number::Int { bits: 4 | 8 } | Number::Fp8(_), true) => CAPABILITIES.engines,
            (Number::Int { bits: 4 | 8 }, false) => &[Engine::TransformersDequantizing, Engine::Vllm],
            (Number::Int { .. }, true) => &[Engine::TransformersCompressed],
            (Number::Int { .. }, false) => &[Engine::TransformersDequantizing],
            _ => &[Engine::TransformersCompressed, Engine::Vllm],
        }
    }

    fn parts(&self, output: &OutputTensor, scheme: &Scheme, context: &LayoutContext) -> Vec<Part> {
        let layout = Layout::of(scheme, context.activations).expect("admitted");
        let [rows, cols] = rows_cols(&output.shape);
        let (weight_dtype, width) = layout.weight(cols);
        let grid = match scheme.granularity {
            Granularity::Tensor => vec![1],
            _ => scheme.grid_shape(rows, cols).to_vec(),
        };
        let part = |name, dtype, shape: &[usize]| part(&output.name, name, dtype, shape);
        let mut parts = vec![
            part(layout.weight_name(), weight_dtype, &[rows, width]),
            part("weight_scale", scale_dtype(scheme), &grid),
        ];
        match layout {
            Layout::NvFp4 => parts.push(part("weight_global_scale", DType::F32, &[1])),
            Layout::Packed { .. } => parts.push(part("weight_shape", DType::I64, &[2])),
            Layout::Int8 | Layout::Fp8 | Layout::MxFp4 => {}
        }
        if let (Layout::Packed { bits }, false) = (layout, scheme.symmetric) {
            parts.push(part("weight_zero_point", DType::I32, &[words(rows, bits), grid[1]]));
        }
        parts
    }

    fn measured(&self, output: &OutputTensor, what: Measured) -> Option<Part> {
        let scale = |name| part(&output.name, name, DType::F32, &[1]);
        let attention = |name| {
            let (parent, _) = module(&output.name).rsplit_once('.')?;
            Some(Part { name: format!("{parent}.{name}"), ..scale(name) })
        };
        match what {
            Measured::Input => Some(scale("input_scale")),
            Measured::Key => attention("k_scale"),
            Measured::Value => attention("v_scale"),
        }
    }

    fn row_multiple(&self, scheme: &Scheme) -> usize {
        match scheme.symmetric {
            true => scheme.row_multiple(),
            // Zero points are packed along N: 32 codes fill whole words, whatever the bits.
            false => 32,
        }
    }

    fn encode(&self, q: &QTensor, first_row: usize, parts: &[Part], sink: &mut Sink) -> Result<()> {
        in_order(q, self.name())?;
        let layout = Layout::of_parts(&q.scheme(), parts).expect("admitted");
        let row_bytes = parts[WEIGHT].byte_len() / parts[WEIGHT].shape[0];
        sink(WEIGHT, (first_row * row_bytes) as u64, &encode_codes(q, layout))?;
        encode_scales(q, first_row, &parts[SCALE], sink)?;
        if first_row == 0 {
            encode_whole(q, layout, parts, sink)?;
        }
        match (layout, q.scheme().symmetric) {
            (Layout::Packed { bits }, false) => encode_zero_points(q, bits, first_row, sink),
            _ => Ok(()),
        }
    }

    fn files(&self, contents: &Contents, _checkpoint: &Checkpoint) -> Result<Vec<OutputFile>> {
        shards::files(contents)
    }

    fn side_files(&self, contents: &Contents, checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files =
            vec![config_json(contents, checkpoint, config::quantization_config(contents, checkpoint))];
        files.extend(shards::index(contents)?);
        Ok(files)
    }
}

fn never(scheme: &Scheme) -> Option<String> {
    match scheme.number {
        Number::Ggml(_) => Some("GGUF block types go into GGUF: --format gguf".into()),
        Number::Nf4 => Some(format!("no engine loads NF4 from compressed-tensors; {DENSE_HINT}")),
        Number::Fp8(Fp8::E5M2) => Some(format!("its FP8 is E4M3 (--scheme fp8); {DENSE_HINT}")),
        _ => None,
    }
}

fn admit_int(scheme: Scheme, cols: usize) -> Admission {
    let with = |granularity| Scheme { granularity, ..scheme };
    match scheme.granularity {
        Granularity::Group(size) if cols.is_multiple_of(size) => Admission::As(scheme),
        Granularity::Group(size) => {
            let (fitting, why) = fitting_group(cols, size);
            Admission::Instead(with(fitting), why)
        }
        Granularity::Channel => Admission::As(scheme),
        Granularity::Tensor | Granularity::Block(..) => Admission::Instead(
            with(Granularity::Channel),
            "engines load integers per group or channel".into(),
        ),
    }
}

fn admit_fp8(scheme: Scheme, rows: usize, cols: usize) -> Admission {
    let channel = Scheme { granularity: Granularity::Channel, ..scheme };
    match scheme.granularity {
        Granularity::Channel | Granularity::Tensor => Admission::As(scheme),
        Granularity::Block(FP8_BLOCK, FP8_BLOCK)
            if [rows, cols].iter().all(|n| n.is_multiple_of(FP8_BLOCK)) =>
        {
            Admission::As(scheme)
        }
        Granularity::Block(FP8_BLOCK, FP8_BLOCK) => {
            let why = format!("{rows}×{cols} is not a multiple of {FP8_BLOCK}×{FP8_BLOCK}: per channel");
            Admission::Instead(channel, why)
        }
        Granularity::Group(_) | Granularity::Block(..) => {
            let why =
                format!("engines load FP8 per channel, tensor or {FP8_BLOCK}×{FP8_BLOCK} block: per channel");
            Admission::Instead(channel, why)
        }
    }
}

fn admit_fp4(scheme: Scheme, cols: usize) -> Admission {
    match scheme.granularity {
        Granularity::Group(size) if cols.is_multiple_of(size) => Admission::As(scheme),
        Granularity::Group(size) => {
            Admission::Dense(format!("{cols} columns are not a multiple of {size}, the format's group"))
        }
        _ => Admission::Dense("FP4 has scales per group only".into()),
    }
}

/// The stored type of scales.
fn scale_dtype(scheme: &Scheme) -> DType {
    match scheme.scale {
        ScaleType::F32 => DType::F32,
        ScaleType::F16 => DType::F16,
        ScaleType::BF16 => DType::BF16,
        ScaleType::E4M3 => DType::F8E4M3,
        // The readers' own type for exponents; F8_E8M0 is not it.
        ScaleType::E8M0 => DType::U8,
    }
}

/// The rows' codes as the weight part stores them.
fn encode_codes(q: &QTensor, layout: Layout) -> Vec<u8> {
    let codes = &q.as_scalar().codes;
    match layout {
        // Two's complement from an offset of 128: only the sign bit differs.
        Layout::Int8 => codes.iter().map(|code| code ^ 0x80).collect(),
        Layout::Fp8 => codes.clone(),
        Layout::Packed { bits } => packed_rows(codes, q.cols, bits),
        Layout::NvFp4 | Layout::MxFp4 => {
            let mut pairs = vec![0; codes.len() / 2];
            pack::pack(codes, 4, &mut pairs);
            pairs
        }
    }
}

/// The grid's scales, at the place of the first of these rows. One scale for all is written with the first rows.
fn encode_scales(q: &QTensor, first_row: usize, part: &Part, sink: &mut Sink) -> Result<()> {
    let ScalarCodes { scheme, grid, .. } = q.as_scalar();
    let [_, per_row] = scheme.grid_shape(q.rows, q.cols);
    let first = match scheme.granularity {
        Granularity::Tensor if first_row > 0 => return Ok(()),
        Granularity::Tensor => 0,
        _ => first_row / scheme.row_multiple() * per_row,
    };
    let mut bytes = Vec::new();
    match part.dtype {
        DType::U8 => bytes.extend(grid.scales.iter().map(|&scale| e8m0(scale))),
        dtype => convert::from_f32(dtype, &grid.scales, &mut bytes),
    }
    sink(SCALE, (first * part.dtype.block_bytes()) as u64, &bytes)
}

/// The exponent of a power of two, biased by 127, which is f32's own bias: 2^−127, a subnormal, has exponent bits 0.
fn e8m0(scale: f32) -> u8 {
    (scale.to_bits() >> 23) as u8
}

/// The parts that a tensor has once, whatever its rows.
fn encode_whole(q: &QTensor, layout: Layout, parts: &[Part], sink: &mut Sink) -> Result<()> {
    match layout {
        Layout::Packed { .. } => {
            let shape = [parts[WEIGHT].shape[0], q.cols].map(|dim| (dim as i64).to_le_bytes());
            sink(SHAPE, 0, shape.as_flattened())
        }
        Layout::NvFp4 => {
            let global = q.as_scalar().grid.global_scale.expect("an NVFP4 grid has a global scale");
            sink(GLOBAL_SCALE, 0, &global.to_le_bytes())
        }
        Layout::Int8 | Layout::Fp8 | Layout::MxFp4 => Ok(()),
    }
}

/// Zero points, packed down the rows: [words, G].
fn encode_zero_points(q: &QTensor, bits: u8, first_row: usize, sink: &mut Sink) -> Result<()> {
    let zero_points = &q.as_scalar().grid.zero_points;
    let groups = zero_points.len() / q.rows;
    let mut packed = vec![0; pack::row_len(q.rows, bits) * groups];
    pack::pack_columns(zero_points, groups, bits, &mut packed);
    sink(ZERO_POINT, (4 * words(first_row, bits) * groups) as u64, &packed)
}

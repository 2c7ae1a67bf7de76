//! Formats: where the bytes of a quantized or dense tensor go. A format is pure: it says what it can hold, which parts
//! it stores, and how rows of codes become bytes; [`pipeline`](crate::pipeline) does the I/O. It never sees a method.
//!
//! # Adding a format
//! One file here that opens with the layout to the bit and a link to the readers' source, one line in [`FORMATS`]:
//! 1. [`Format::admit`] says, from what the readers check, what they load: the scheme as it is, another one, or none. The
//!    plan shows the reasons, and `--strict` turns them into errors, so that they should read well.
//! 2. [`Format::parts`] names the stored tensors; sizes follow from it before anything is computed.
//! 3. [`Format::encode`] lays out a range of rows. Ranges come in any order and from several threads; each byte of a part
//!    is written once. Where codes are packed along rows, [`Format::row_multiple`] keeps ranges on whole words.
//! 4. [`Format::side_files`] writes the config that engines read; `modules` says which modules it names.
//!
//! Then goldens that the engine's own code wrote (fixtures/formats), and the tests in tests/formats.rs hold the format:
//! they iterate [`FORMATS`]. Reading it back is [`crate::io::quantized`]'s.

pub mod adapter;
pub mod awq;
pub mod card;
pub mod compressed_tensors;
pub mod dense;
pub mod gguf;
pub mod gptq;
mod layout;
mod modules;
pub mod shards;

pub(crate) use layout::{KERNEL_GROUPS, slow_group};

use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use crate::error::Result;
use crate::io::Checkpoint;
use crate::model::Transform;
use crate::numerics::Scheme;
use crate::numerics::presets::Activations;
use crate::plan::Plan;
pub use crate::tensor::rows_cols;
use crate::tensor::{DType, QTensor};

/// Every format, in the order `--help` lists them.
pub const FORMATS: &[&dyn Format] = &[
    &compressed_tensors::CompressedTensors,
    &gptq::Gptq { version: 1 },
    &gptq::Gptq { version: 2 },
    &awq::Awq,
    &gguf::Gguf,
    &dense::Dense,
];

/// The file of a format whose output is one file, while it is being made.
pub const SINGLE_FILE_NAME: &str = "model.gguf";

/// A tensor as the output stores it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// Name in the output.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

impl Part {
    /// Bytes it takes.
    ///
    /// # Panics
    /// Where the shape overflows: parts come from shapes that a checkpoint backs.
    pub fn byte_len(&self) -> usize {
        self.dtype.byte_len(&self.shape).expect("parts are no larger than the checkpoint they come from")
    }
}

/// What calibration measures, and outputs store one scale of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Measured {
    /// The inputs of a linear.
    Input,
    /// The keys that attention caches.
    Key,
    /// The values that it caches.
    Value,
}

/// A range of rows of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Name of the [`crate::io::Source`].
    pub source: String,
    /// Its rows.
    pub rows: Range<usize>,
}

/// A logical tensor of the output: rows of one or several sources, one after the other (experts stacked or taken apart),
/// reordered or changed as the format's architecture asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The name in the output; of quantized tensors the module's name with `.weight`.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Where its rows come from.
    pub pieces: Vec<Piece>,
    /// What is done to them.
    pub transform: Transform,
}

/// What a format's readers load for a scheme on a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// As asked (scale type adapted to the format's).
    As(Scheme),
    /// Another scheme instead, and why: "576 columns are not a multiple of 128: group 64".
    Instead(Scheme, String),
    /// Only dense, and why.
    Dense(String),
    /// Not in this format, whatever the shape: an error before any work, with a hint.
    Never(String),
}

/// An output file: its header is written first, parts stream in at their offsets.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputFile {
    /// Name in the output folder.
    pub name: String,
    /// First bytes of the file.
    pub header: Vec<u8>,
    /// (step, part of the step) → offset in the file.
    pub parts: Vec<PartPlace>,
    /// Total length.
    pub len: u64,
}

/// Where a part begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartPlace {
    /// Index into [`Plan::steps`].
    pub step: usize,
    /// Index into that step's parts.
    pub part: usize,
    /// Offset of its first byte in the file.
    pub offset: u64,
}

/// What a tensor is stored for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The model's float type.
    pub dtype: DType,
    /// What engines do to the inputs of quantized layers: integers that they multiply with integers are laid out
    /// differently from integers that they dequantize first.
    pub activations: Option<Activations>,
}

/// A program that loads models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// transformers by itself.
    Transformers,
    /// transformers with the compressed-tensors package.
    TransformersCompressed,
    /// transformers with optimum and gptqmodel.
    TransformersGptq,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// llama.cpp, and what is built on it.
    LlamaCpp,
}

/// Receives (index of the part, offset within the part, bytes).
pub type Sink<'a> = dyn FnMut(usize, u64, &[u8]) -> Result<()> + 'a;

/// An engine's way of storing a model.
pub trait Format: Sync {
    /// As `--format` takes it.
    fn name(&self) -> &'static str;

    /// One line for `--help`: which engines load it.
    fn summary(&self) -> &'static str;

    /// What the readers load for `scheme` on a weight of this shape. `dtype` is the model's float type.
    fn admit(&self, scheme: &Scheme, shape: &[usize], dtype: DType) -> Admission;

    /// The tensors of the output. By default every source, under its own name.
    fn arrange(&self, checkpoint: &Checkpoint) -> Result<Vec<Output>> {
        Ok(checkpoint.tensors.values().map(Output::whole).collect())
    }

    /// The stored type of a tensor that is not quantized; `dtype` is that of the source, or what `--dtype` asks for.
    fn dense_dtype(&self, _output: &Output, dtype: DType) -> DType {
        dtype
    }

    /// The parts of a quantized tensor.
    fn parts(&self, output: &Output, scheme: &Scheme, target: &Target) -> Vec<Part>;

    /// The part that holds a measured scale, one number in f32, of a linear that is stored quantized or dense: it follows
    /// those of the tensor itself. `None` where the format has no place for it.
    fn measured(&self, _output: &Output, _what: Measured) -> Option<Part> {
        None
    }

    /// Row ranges handed to [`Format::encode`] start at a multiple of this (bits packed along rows).
    fn row_multiple(&self, scheme: &Scheme) -> usize;

    /// Lays out rows `first_row..first_row + q.rows` of a tensor; `parts` are what [`Format::parts`] gave for the whole.
    /// Every byte of every part is written once over the ranges of a tensor, in whatever order the ranges come.
    fn encode(&self, q: &QTensor, first_row: usize, parts: &[Part], sink: &mut Sink) -> Result<()>;

    /// Headers and offsets of the files: by default safetensors shards.
    fn files(&self, plan: &Plan, checkpoint: &Checkpoint) -> Result<Vec<OutputFile>> {
        let _ = checkpoint;
        shards::files(plan)
    }

    /// config.json and other files to write beside the weights: (name, content).
    fn side_files(&self, plan: &Plan, checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>>;

    /// Whether its readers take quantized embeddings and heads, so that they are quantized by default.
    fn quantizes_heads(&self) -> bool {
        false
    }

    /// Whether its readers know one group size for the whole model.
    fn one_group_size(&self) -> bool {
        false
    }

    /// Engines that load the output, for the model card.
    fn engines(&self) -> &'static [Engine] {
        match self.single_file() {
            true => &[Engine::LlamaCpp],
            false => &[Engine::Transformers, Engine::Vllm],
        }
    }

    /// Whether the output is one file rather than a folder.
    fn single_file(&self) -> bool {
        false
    }
}

impl Output {
    /// A source as it is.
    pub fn whole(source: &crate::io::Source) -> Output {
        let rows = rows_cols(&source.shape)[0];
        Output {
            name: source.name.clone(),
            shape: source.shape.clone(),
            pieces: vec![Piece { source: source.name.clone(), rows: 0..rows }],
            transform: Transform::None,
        }
    }
}

/// config.json: that of the checkpoint with its `quantization_config` replaced (or removed) and, where the recipe
/// changes the float type, with the new one.
pub fn config_json(plan: &Plan, checkpoint: &Checkpoint, quantization: Option<Value>) -> (String, Vec<u8>) {
    let mut config = checkpoint.config.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    config.remove("quantization_config");
    if plan.recipe.dtype.is_some() {
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), torch_name(plan.dtype).into());
    }
    if let Some(quantization) = quantization {
        config.insert("quantization_config".into(), quantization);
    }
    ("config.json".into(), pretty(&Value::Object(config)))
}

fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::F32 => "float32",
        _ => "bfloat16",
    }
}

/// JSON as people read it, with a final newline.
pub fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Where an output goes when the user names none: beside the working directory, named after model and scheme.
pub fn default_path(stem: &str, scheme: &str, format: &dyn Format) -> PathBuf {
    PathBuf::from(if format.single_file() {
        format!("{stem}-{scheme}.gguf")
    } else {
        format!("{stem}-{scheme}")
    })
}

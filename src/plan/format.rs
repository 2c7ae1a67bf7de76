//! Formats as plans and the pipeline use them: the schemes that a format holds, the parts that it stores, and the bytes of
//! rows of codes. A format is pure: the pipeline does the I/O. A format never sees a method.

use super::tensors::{Measured, OutputTensor, Part, TensorPlan};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::numerics::presets::ActivationScheme;
use crate::numerics::{EightBits, QTensor, Scheme};
use crate::tensor::DType;

/// Group sizes that the engines' fast kernels support, the largest first.
pub(crate) const KERNEL_GROUPS: &[usize] = &[128, 64, 32];

/// A warning about a group size that fast kernels do not support; `None` for the others.
pub(crate) fn slow_group(size: usize) -> Option<&'static str> {
    let known = KERNEL_GROUPS.contains(&size);
    (!known).then_some("engines' fast kernels know groups of 32, 64 and 128, and may not take this one")
}

/// File name of a single-file output while it is written.
pub(crate) const SINGLE_FILE_NAME: &str = "model.gguf";

/// The fixed properties of a format.
#[derive(Debug, Clone, Copy)]
pub struct Capabilities {
    /// Name, as `--format` takes it.
    pub name: &'static str,
    /// One line for `--help`: the engines that load it.
    pub summary: &'static str,
    /// Engines that load the output, for the model card.
    pub engines: &'static [Engine],
    /// True if the output is one file rather than a folder.
    pub single_file: bool,
    /// True if embeddings and heads are quantized by default.
    pub quantized_heads: bool,
    /// True if the whole model has one group size.
    pub one_group_size: bool,
    /// True if the output can record that engines quantize the inputs of linears.
    pub activations: bool,
    /// True if the output can hold scales of cached keys and values.
    pub kv_cache: bool,
    /// True if groups may be of columns that are not adjacent (`g_idx`).
    pub reordered_groups: bool,
    /// True if engines run its packed integers on kernels that support only [`KERNEL_GROUPS`].
    pub kernels: bool,
    /// A note for those who load an adapter beside the weights.
    pub adapter_note: Option<&'static str>,
}

impl Capabilities {
    /// A folder of safetensors files that transformers and vLLM load, without any of the optional properties.
    pub(crate) const FOLDER: Capabilities = Capabilities {
        name: "",
        summary: "",
        engines: &[Engine::Transformers, Engine::Vllm],
        single_file: false,
        quantized_heads: false,
        one_group_size: false,
        activations: false,
        kv_cache: false,
        reordered_groups: false,
        kernels: true,
        adapter_note: None,
    };
}

/// A program that loads models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// transformers by itself.
    Transformers,
    /// transformers with the compressed-tensors package.
    TransformersCompressed,
    /// The same, which has no kernel for the scheme, and dequantizes it when it loads.
    TransformersDequantizing,
    /// transformers with optimum and gptqmodel.
    TransformersGptq,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// llama.cpp and programs built on it.
    LlamaCpp,
}

impl Engine {
    /// The name, with what it needs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Engine::Transformers | Engine::TransformersCompressed => "transformers",
            Engine::TransformersDequantizing => "transformers with dequantize=True",
            Engine::TransformersGptq => "transformers with gptqmodel",
            Engine::Vllm => "vLLM",
            Engine::Sglang => "SGLang",
            Engine::LlamaCpp => "llama.cpp",
        }
    }
}

/// The answer of a format to a scheme on a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// The scheme as requested (scale type adapted to the format's).
    As(Scheme),
    /// Another scheme instead, and the reason: "576 columns are not a multiple of 128: group 64".
    Instead(Scheme, String),
    /// Dense only, and the reason.
    Dense(String),
    /// Not in this format, whatever the shape: an error before any work. The text is its hint.
    Never(String),
}

/// The planned contents of an output's files: all that a format needs of a plan.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// Every tensor of the output, in the order of the input.
    pub tensors: &'a [TensorPlan],
    /// The model's float type.
    pub dtype: DType,
    /// True if the recipe asks for this float type.
    pub dtype_requested: bool,
    /// Quantization of the inputs of linears.
    pub activations: Option<ActivationScheme>,
    /// The type in which engines cache keys and values; `None` leaves it to them.
    pub kv_cache: Option<EightBits>,
    /// Size of the largest shard, in bytes.
    pub max_shard_size: u64,
    /// String metadata for the files' headers.
    pub metadata: &'a [(String, String)],
}

/// An output file: its header is written first, parts stream in at their offsets.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputFile {
    /// Name in the output folder.
    pub name: String,
    /// First bytes of the file.
    pub header: Vec<u8>,
    /// The parts that it holds.
    pub parts: Vec<PartPlace>,
    /// Total length in bytes.
    pub len: u64,
}

/// The position of a part in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartPlace {
    /// Index into [`Contents::tensors`].
    pub tensor: usize,
    /// Index into that tensor's parts.
    pub part: usize,
    /// Offset of its first byte in the file.
    pub offset: u64,
}

/// Properties of the model that the layout of a quantized tensor depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayoutContext {
    /// The model's float type.
    pub dtype: DType,
    /// Quantization of the inputs of linears: integers that engines multiply with integers are laid out differently from
    /// integers that they dequantize first.
    pub activations: Option<ActivationScheme>,
}

/// Receives (index of the part, offset within the part, bytes).
pub(crate) type Sink<'a> = dyn FnMut(usize, u64, &[u8]) -> Result<()> + 'a;

/// An engine's way of storing a model.
pub trait Format: Sync {
    /// Its fixed properties.
    fn capabilities(&self) -> &'static Capabilities;

    /// Says in which form the readers load `scheme` on a weight of this shape. `dtype` is the model's float type.
    fn admit(&self, scheme: &Scheme, shape: &[usize], dtype: DType) -> Admission;

    /// The engines that load a scheme that it holds.
    fn engines(&self, _scheme: &Scheme) -> &'static [Engine] {
        self.capabilities().engines
    }

    /// Lists the tensors of the output. By default every source, under its own name.
    fn arrange(&self, checkpoint: &Checkpoint) -> Result<Vec<OutputTensor>> {
        Ok(checkpoint.tensors.values().map(OutputTensor::whole).collect())
    }

    /// The stored type of a tensor that is not quantized; `dtype` is that of the source, or of `--dtype`.
    fn dense_dtype(&self, _output: &OutputTensor, dtype: DType) -> DType {
        dtype
    }

    /// The parts of a quantized tensor.
    fn parts(&self, output: &OutputTensor, scheme: &Scheme, context: &LayoutContext) -> Vec<Part>;

    /// The part that holds a measured scale, one f32, of a quantized or dense linear: it follows the parts of the tensor
    /// itself. `None` if the format has no place for it.
    fn measured(&self, _output: &OutputTensor, _what: Measured) -> Option<Part> {
        None
    }

    /// The row ranges given to [`Format::encode`] start at a multiple of this (bits packed along rows).
    fn row_multiple(&self, scheme: &Scheme) -> usize;

    /// Lays out rows `first_row..first_row + q.rows` of a tensor; `parts` is the result of [`Format::parts`] for the whole.
    /// Every byte of every part is written once over the ranges of a tensor, in whatever order the ranges come.
    fn encode(&self, q: &QTensor, first_row: usize, parts: &[Part], sink: &mut Sink) -> Result<()>;

    /// Lays out the files: headers, and the offsets of all parts.
    fn files(&self, contents: &Contents, checkpoint: &Checkpoint) -> Result<Vec<OutputFile>>;

    /// config.json and other files to write beside the weights: (name, content).
    fn side_files(&self, contents: &Contents, checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>>;

    /// Its name, as `--format` takes it.
    fn name(&self) -> &'static str {
        self.capabilities().name
    }
}

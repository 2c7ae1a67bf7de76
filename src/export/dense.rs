//! Dense safetensors: the dequantized values, in the model's own type. Any engine loads them, so that what a scheme
//! costs can be looked at before any engine supports it.

use super::model_config::config_json;
use super::{gguf, shards};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::numerics::{Number, QTensor, Scheme, convert};
use crate::plan::{
    Admission, Capabilities, Contents, Format, LayoutContext, OutputFile, OutputTensor, Part, Sink,
};
use crate::tensor::DType;

/// Dense safetensors.
#[derive(Debug)]
pub(crate) struct Dense;

const CAPABILITIES: Capabilities = Capabilities {
    name: "dense",
    summary: "everything that loads safetensors: dequantized values, of any scheme",
    activations: true,
    reordered_groups: true,
    kernels: false,
    ..Capabilities::FOLDER
};

impl Format for Dense {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    /// Substitutes block types as GGUF does, so that the values are those of the GGUF.
    fn admit(&self, scheme: &Scheme, shape: &[usize], dtype: DType) -> Admission {
        match scheme.number {
            Number::Ggml(_) => gguf::Gguf.admit(scheme, shape, dtype),
            _ => Admission::As(*scheme),
        }
    }

    fn parts(&self, output: &OutputTensor, _scheme: &Scheme, context: &LayoutContext) -> Vec<Part> {
        vec![Part { name: output.name.clone(), dtype: context.dtype, shape: output.shape.clone() }]
    }

    fn row_multiple(&self, scheme: &Scheme) -> usize {
        scheme.row_multiple()
    }

    fn encode(&self, q: &QTensor, first_row: usize, parts: &[Part], sink: &mut Sink) -> Result<()> {
        let mut values = vec![0.0; q.rows * q.cols];
        q.dequantize(&mut values);
        let mut bytes = Vec::with_capacity(values.len() * parts[0].dtype.block_bytes());
        convert::from_f32(parts[0].dtype, &values, &mut bytes);
        sink(0, (first_row * q.cols * parts[0].dtype.block_bytes()) as u64, &bytes)
    }

    fn files(&self, contents: &Contents, _checkpoint: &Checkpoint) -> Result<Vec<OutputFile>> {
        shards::files(contents)
    }

    fn side_files(&self, contents: &Contents, checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        if checkpoint.config.is_some() {
            files.push(config_json(contents, checkpoint, None));
        }
        files.extend(shards::index(contents)?);
        Ok(files)
    }
}

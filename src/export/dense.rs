//! Dense safetensors: the dequantized values, in the model's own type. Any engine loads them, so that what a scheme
//! costs can be looked at before any engine supports it.

use super::{Admission, Format, Output, Part, Sink, Target, config_json, gguf, shards};
use crate::error::Result;
use crate::io::Checkpoint;
use crate::numerics::{Number, QTensor, Scheme, convert};
use crate::plan::Plan;
use crate::tensor::DType;

/// Dense safetensors.
#[derive(Debug)]
pub struct Dense;

impl Format for Dense {
    fn name(&self) -> &'static str {
        "dense"
    }

    fn summary(&self) -> &'static str {
        "everything that loads safetensors: dequantized values, of any scheme"
    }

    /// What GGUF substitutes is substituted here, so that the values are those that GGUF would hold.
    fn admit(&self, scheme: &Scheme, shape: &[usize], dtype: DType) -> Admission {
        match scheme.number {
            Number::Ggml(_) => gguf::Gguf.admit(scheme, shape, dtype),
            _ => Admission::As(*scheme),
        }
    }

    fn parts(&self, output: &Output, _scheme: &Scheme, target: &Target) -> Vec<Part> {
        vec![Part { name: output.name.clone(), dtype: target.dtype, shape: output.shape.clone() }]
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

    fn side_files(&self, plan: &Plan, checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        if checkpoint.config.is_some() {
            files.push(config_json(plan, checkpoint, None));
        }
        files.extend(shards::index(plan)?);
        Ok(files)
    }
}

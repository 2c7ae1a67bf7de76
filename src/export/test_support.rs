//! Planned contents for the formats' tests.

use crate::model::Transform;
use crate::plan::{Action, Contents, OutputTensor, Part, TensorPlan};
use crate::tensor::DType;

/// Contents of these tensors, in BF16, in shards of any size.
pub fn contents(tensors: &[TensorPlan]) -> Contents<'_> {
    Contents {
        tensors,
        dtype: DType::BF16,
        dtype_requested: false,
        activations: None,
        kv_cache: None,
        max_shard_size: 5_000_000_000,
        metadata: &[],
    }
}

/// An output tensor of a name and a shape.
pub fn output(name: &str, shape: &[usize]) -> OutputTensor {
    OutputTensor { name: name.into(), shape: shape.into(), pieces: Vec::new(), transform: Transform::None }
}

/// A tensor stored as it is.
pub fn stored(name: &str, dtype: DType, shape: &[usize]) -> TensorPlan {
    let part = Part { name: name.into(), dtype, shape: shape.into() };
    TensorPlan {
        output: output(name, shape),
        action: Action::Store(dtype),
        linear: false,
        note: None,
        substituted: false,
        parts: vec![part],
        measured: Vec::new(),
        fused: None,
    }
}

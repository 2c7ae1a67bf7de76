//! Helpers of the tests of several modules: random matrices, fixtures, and planned contents for the formats.

#[allow(unreachable_pub)] // The tests in tests/ include this file, too.
#[path = "../tests/common/numbers.rs"]
mod numbers;

use std::path::{Path, PathBuf};

use crate::engine::Tokenizer;
use crate::io::Checkpoint;
use crate::model::Transform;
use crate::numerics::random::SplitMix64;
use crate::plan::{Action, Contents, OutputTensor, Part, TensorPlan};
use crate::tensor::DType;

pub(crate) use numbers::{largest, normal, signed, uniform};

/// Returns the path of a fixture.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Opens a fixture that is a checkpoint.
pub(crate) fn checkpoint(name: &str) -> Checkpoint {
    let folder = fixture(name);
    Checkpoint::open(folder.to_str().expect("a path in UTF-8")).expect("a checkpoint among the fixtures")
}

/// Opens the tokenizer of a fixture.
pub(crate) fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::open(&checkpoint(name)).expect("a tokenizer among the fixtures")
}

/// Contents of these tensors, in BF16, in shards of any size.
pub(crate) fn contents(tensors: &[TensorPlan]) -> Contents<'_> {
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
pub(crate) fn output(name: &str, shape: &[usize]) -> OutputTensor {
    OutputTensor { name: name.into(), shape: shape.into(), pieces: Vec::new(), transform: Transform::None }
}

/// A tensor stored as it is.
pub(crate) fn stored(name: &str, dtype: DType, shape: &[usize]) -> TensorPlan {
    let part = Part { name: name.into(), dtype, shape: shape.into() };
    TensorPlan {
        output: output(name, shape),
        action: Action::Store(dtype),
        sparsity: None,
        linear: false,
        note: None,
        substituted: false,
        parts: vec![part],
        measured: Vec::new(),
        corrected: false,
        fused: None,
    }
}

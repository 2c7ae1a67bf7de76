//! What the tests of several modules share: random matrices, fixtures, and plans for the formats.

#[path = "../tests/common/numbers.rs"]
mod numbers;

use std::path::{Path, PathBuf};

use crate::engine::Tokenizer;
use crate::export::{Output, Part};
use crate::io::Checkpoint;
use crate::model::Transform;
use crate::numerics::random::SplitMix64;
use crate::plan::{Action, Plan, Step};
use crate::recipe::Recipe;
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

/// A plan of these steps, in BF16.
pub(crate) fn plan(steps: Vec<Step>) -> Plan {
    let recipe = Recipe { scheme: Some("w4a16".into()), ..Recipe::default() };
    let request = recipe.resolve().expect("w4a16 is a preset");
    Plan { recipe, request, steps, dtype: DType::BF16, metadata: vec![("version".into(), "1".into())] }
}

/// An output of a name and a shape.
pub(crate) fn output(name: &str, shape: &[usize]) -> Output {
    Output { name: name.into(), shape: shape.into(), pieces: Vec::new(), transform: Transform::None }
}

/// A tensor stored as it is.
pub(crate) fn stored(name: &str, dtype: DType, shape: &[usize]) -> Step {
    let part = Part { name: name.into(), dtype, shape: shape.into() };
    Step {
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

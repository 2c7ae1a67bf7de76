//! Plans for the formats' tests.

use super::{Output, Part};
use crate::model::Transform;
use crate::plan::{Action, Plan, Step};
use crate::recipe::Recipe;
use crate::tensor::DType;

/// A plan of these steps, in BF16.
pub fn plan(steps: Vec<Step>) -> Plan {
    let recipe = Recipe { scheme: Some("w4a16".into()), ..Recipe::default() };
    let request = recipe.resolve().expect("w4a16 is a preset");
    Plan { recipe, request, steps, dtype: DType::BF16, metadata: vec![("version".into(), "1".into())] }
}

/// An output of a name and a shape.
pub fn output(name: &str, shape: &[usize]) -> Output {
    Output { name: name.into(), shape: shape.into(), pieces: Vec::new(), transform: Transform::None }
}

/// A tensor stored as it is.
pub fn stored(name: &str, dtype: DType, shape: &[usize]) -> Step {
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

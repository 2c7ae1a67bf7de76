//! A resolved recipe: the methods, the scheme and the format that its names stand for.

use std::sync::Arc;

use super::format::Format;
use crate::numerics::presets::ActivationScheme;
use crate::numerics::{EightBits, Scheme};
use crate::stage::{Method, Scope};
use crate::statistics::Needs;
use crate::tensor::DType;

/// A recipe whose names have been looked up and found to go together.
#[derive(Clone)]
pub struct Request {
    /// What linears become; `None` to convert only.
    pub scheme: Option<Scheme>,
    /// What the engine is to do to activations.
    pub activations: Option<ActivationScheme>,
    /// What engines are to cache keys and values in; `None` leaves it to them.
    pub kv_cache: Option<EightBits>,
    /// What is done to weights before they are quantized, in order.
    pub rewriting: Vec<Arc<dyn Method>>,
    /// How they are quantized.
    pub method: Arc<dyn Method>,
    /// What makes up for the error of the codes, beside them.
    pub compensation: Option<Arc<dyn Method>>,
    /// How rows are quantized that no block has, and that the method has no statistics for: the method itself where it
    /// takes rows one by one.
    pub rowwise: Arc<dyn Method>,
    /// Where it goes.
    pub format: &'static dyn Format,
    /// Type of what is not quantized.
    pub dtype: Option<DType>,
    /// The schemes of [`Recipe::overrides`], in order; `None` for dense.
    pub overrides: Vec<Option<Scheme>>,
}

impl Request {
    /// Whether text, or what an earlier run has gathered of one, makes any difference.
    pub fn reads_text(&self) -> bool {
        let mut methods = self.rewriting.iter().chain([&self.method]).chain(&self.compensation);
        let mut schemes = self.scheme.iter().chain(self.overrides.iter().flatten());
        let by_rows = self.method.scope() == Scope::Rows;
        methods.any(|method| method.needs().any() || method.trains())
            || self.kv_cache.is_some()
            || self.activations.is_some_and(|activations| activations.measured().is_some())
            || by_rows && schemes.any(|scheme| self.method.weighs_columns(scheme))
    }

    /// Whether weights become others before they are rounded, or as they are.
    pub fn rewrites(&self) -> bool {
        !self.rewriting.is_empty() || self.method.scope() == Scope::Block
    }

    /// Whether rows are rounded by themselves, and nothing is made of what that loses.
    pub fn only_rows(&self) -> bool {
        self.method.scope() == Scope::Rows && self.compensation.is_none()
    }

    /// What compensation wants to know of the inputs.
    pub fn compensation_needs(&self) -> Needs {
        self.compensation.as_ref().map(|method| method.needs()).unwrap_or_default()
    }
}

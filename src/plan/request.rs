//! A resolved recipe, with its methods, scheme and format.

use std::sync::Arc;

use super::format::Format;
use crate::numerics::presets::ActivationScheme;
use crate::numerics::sparsity::described;
use crate::numerics::{EightBits, Scheme, Sparsity};
use crate::recipe::Recipe;
use crate::stage::{Allocation, Quantize, Scope, Shape, Stage};
use crate::tensor::DType;

/// A recipe with its names looked up and checked for compatibility.
#[derive(Clone)]
pub struct Request {
    /// The recipe itself.
    pub recipe: Recipe,
    /// The scheme of linears; `None` to convert only.
    pub scheme: Option<Scheme>,
    /// Quantization of the inputs of linears by the engine.
    pub activations: Option<ActivationScheme>,
    /// The type in which engines cache keys and values; `None` leaves it to them.
    pub kv_cache: Option<EightBits>,
    /// The stages that make the model smaller, in order. A plan is of the model that they leave.
    pub shapes: Vec<Shape>,
    /// The other stages in order: any number that edit dense weights, one that quantizes (none if the recipe only prunes), at most one
    /// that compensates.
    pub stages: Vec<Stage>,
    /// Quantizes rows that no block holds, or for which the quantizing stage has no statistics: that stage itself if it
    /// works row by row.
    pub rowwise: Arc<dyn Quantize>,
    /// The output format.
    pub format: &'static dyn Format,
    /// Type of tensors that are not quantized; `None` keeps their own.
    pub dtype: Option<DType>,
    /// The schemes of [`Recipe::overrides`], in order; `None` for dense.
    pub overrides: Vec<Option<Scheme>>,
    /// The zeros of [`Recipe::overrides`], in order; `None` for those of the pruning stage.
    pub zeros: Vec<Option<Sparsity>>,
}

impl Request {
    /// The quantizing stage.
    pub(crate) fn quantizer(&self) -> &dyn Quantize {
        let quantizing = self.stages.iter().find_map(|stage| match stage {
            Stage::Quantize(method) => Some(method),
            _ => None,
        });
        quantizing.unwrap_or(&self.rowwise).as_ref()
    }

    /// The zeros that the pruning stage makes, if there is one.
    pub(crate) fn sparsity(&self) -> Option<Sparsity> {
        self.stages.iter().find_map(|stage| match stage {
            Stage::Prune(method) => Some(method.sparsity()),
            _ => None,
        })
    }

    /// Returns true if blocks share the zeros out by what is measured of them.
    pub(crate) fn measures_zeros(&self) -> bool {
        self.stages.iter().any(|stage| stage.allocation() == Allocation::Owl)
    }

    /// Returns true if linears get zeros, and no codes.
    pub(crate) fn only_prunes(&self) -> bool {
        self.scheme.is_none() && self.sparsity().is_some()
    }

    /// Returns true if the model is made smaller.
    pub(crate) fn reshapes(&self) -> bool {
        !self.shapes.is_empty() || !self.recipe.surgery.is_empty()
    }

    /// The zeros and the scheme of linears, for people; `None` if they are only converted.
    pub(crate) fn aim(&self) -> Option<String> {
        described(self.sparsity(), self.scheme)
    }

    /// The rank of the compensating stage, if there is one.
    pub(crate) fn adapter_rank(&self) -> Option<usize> {
        self.stages.iter().find_map(|stage| match stage {
            Stage::Compensate(method) => Some(method.rank()),
            _ => None,
        })
    }

    /// Returns true if calibration text, or statistics of it, makes any difference.
    pub(crate) fn reads_text(&self) -> bool {
        self.measures_zeros() || self.calibrates()
    }

    /// Returns true if the work itself reads calibration text or statistics, not only a measurement before it.
    pub(crate) fn calibrates(&self) -> bool {
        let mut schemes = self.scheme.iter().chain(self.overrides.iter().flatten());
        self.stages.iter().any(|stage| stage.needs().any())
            || self.trains()
            || self.kv_cache.is_some()
            || self.activations.is_some_and(|activations| activations.measured().is_some())
            || schemes.any(|scheme| self.quantizer().weighs_columns(scheme))
    }

    /// Returns true if a stage needs blocks with gradients.
    pub(crate) fn trains(&self) -> bool {
        self.stages.iter().any(Stage::trains)
    }

    /// Returns true if a stage fits the last linear of each block to the original model's states.
    pub(crate) fn corrects(&self) -> bool {
        self.stages.iter().any(Stage::corrects)
    }

    /// Returns true if a stage may change weights, biases or norms that stay dense.
    pub(crate) fn edits(&self) -> bool {
        self.stages.iter().any(Stage::edits)
    }

    /// Returns true if rows are quantized by themselves as they are written, and there is no other stage.
    pub(crate) fn only_rows(&self) -> bool {
        matches!(self.stages.as_slice(), [Stage::Quantize(method)] if method.scope() == Scope::Rows)
    }
}

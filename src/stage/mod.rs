//! Stages of a recipe: one trait for each kind of method, and the block that they are given.
//!
//! A method returns its result and changes nothing; the pipeline applies the result. Begin with [`Stage`], then one of the
//! four traits; [`Block`] is their input. The list of methods is in [`registry`](crate::registry).

mod allocation;
mod block;
mod compensate;
mod edits;
mod error;
mod parameters;
mod per_input;
mod prune;
mod quantize;
mod rewrite;
mod scope;
mod shape;
mod trainable;

pub use allocation::Allocation;
pub use block::{Block, BlockLinear, Norm};
pub use compensate::Compensate;
pub use edits::{Editor, Edits};
pub(crate) use error::error_power;
pub use error::relative_error;
pub(crate) use parameters::{parse, parse_sparsity, sparsity};
pub(crate) use per_input::PerInput;
pub use prune::{Prune, PrunedWeight};
pub use quantize::{Quantization, Quantize, QuantizedLinear, quantize_linear};
pub use rewrite::{Ends, Rewrite};
pub use scope::Scope;
pub use shape::{
    Amount, ChannelScore, Depth, ExpertScore, Experts, LayerScore, Shape, Size, Vocabulary, Width,
};
pub use trainable::{Loss, Trainable};

use std::sync::Arc;

use crate::error::Result;
use crate::numerics::Scheme;
use crate::statistics::Needs;

/// A registry entry.
#[derive(Debug, Clone, Copy)]
pub struct Def {
    /// As `--method` takes it.
    pub name: &'static str,
    /// One line for `--help`: effect and cost.
    pub summary: &'static str,
    /// Returns the reason if the method cannot be used with a scheme.
    pub supports: fn(&Scheme) -> Result<(), &'static str>,
    /// Builds the method. Parameters that the table leaves out have their defaults.
    pub build: fn(&toml::Table) -> Result<Stage>,
}

/// A stage of a recipe.
#[derive(Debug, Clone)]
pub enum Stage {
    /// Makes the model smaller, before the blocks are worked on.
    Shape(Shape),
    /// Edits dense weights; the model computes the same.
    Rewrite(Arc<dyn Rewrite>),
    /// Sets weights to zero.
    Prune(Arc<dyn Prune>),
    /// Replaces weights by codes.
    Quantize(Arc<dyn Quantize>),
    /// Adds low-rank factors that correct the error of the codes.
    Compensate(Arc<dyn Compensate>),
}

impl Stage {
    /// The statistics of the inputs that it reads.
    pub(crate) fn needs(&self) -> Needs {
        match self {
            Stage::Shape(_) => Needs::default(),
            Stage::Rewrite(method) => method.needs(),
            Stage::Prune(method) => method.needs(),
            Stage::Quantize(method) => method.needs(),
            Stage::Compensate(method) => method.needs(),
        }
    }

    /// The part of a model that it is given at a time. A rewriting stage is given whole blocks, because what it moves out
    /// of one linear goes into another.
    pub(crate) fn scope(&self) -> Scope {
        match self {
            Stage::Shape(_) | Stage::Rewrite(_) => Scope::Block,
            Stage::Prune(method) => method.scope(),
            Stage::Quantize(method) => method.scope(),
            Stage::Compensate(_) => Scope::Input,
        }
    }

    /// The rule by which blocks share its zeros out.
    pub(crate) fn allocation(&self) -> Allocation {
        match self {
            Stage::Prune(method) => method.allocation(),
            _ => Allocation::Uniform,
        }
    }

    /// Returns true if it needs a block with gradients.
    pub(crate) fn trains(&self) -> bool {
        matches!(self, Stage::Quantize(method) if method.trains())
    }

    /// Returns true if it fits the last linear of each block to the original model's states.
    pub(crate) fn corrects(&self) -> bool {
        matches!(self, Stage::Prune(method) if method.corrects())
    }

    /// Returns true if it may change weights, biases or norms that stay dense.
    pub(crate) fn edits(&self) -> bool {
        match self {
            Stage::Rewrite(_) | Stage::Prune(_) => true,
            Stage::Quantize(method) => method.scope() == Scope::Block,
            Stage::Shape(_) | Stage::Compensate(_) => false,
        }
    }
}

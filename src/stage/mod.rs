//! `trait Method`, and the visible list of them.

mod block;
mod parameters;

pub use block::{Block, Linear, Norm, Trainable, error_power, relative_error};
pub use parameters::parse;

use ndarray::Array2;

use crate::error::Result;
use crate::numerics::{Scheme, Weight};
use crate::statistics::Needs;

/// A registry entry.
#[derive(Debug, Clone, Copy)]
pub struct Def {
    /// As `--method` takes it.
    pub name: &'static str,
    /// One line for `--help`: what it does and what it costs.
    pub summary: &'static str,
    /// Whether it can work with a scheme; if not, why.
    pub supports: fn(&Scheme) -> Result<(), &'static str>,
    /// What becomes of the weights.
    pub effect: Effect,
    /// The method with parameters: those of its struct that the table names, the rest by default.
    pub build: fn(&toml::Table) -> Result<Box<dyn Method>>,
}

/// What a stage of a recipe does to weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Rewrites them so that the model computes the same and what follows loses less: they stay dense.
    Rewrites,
    /// Replaces them by codes.
    Quantizes,
    /// Makes up for what the codes have lost: it is given the error W − Q in the place of each weight, and leaves
    /// [`Linear::compensation`].
    Compensates,
}

/// How much of a model a method sees at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Rows of one linear: what streams.
    Rows,
    /// The linears that read the same input, in the order of the forward pass: later ones see inputs that the compressed
    /// earlier ones made.
    Input,
    /// A whole decoder block.
    Block,
}

/// A compression method.
pub trait Method: Send + Sync + std::fmt::Debug {
    /// What it needs to know about the inputs.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// How much it sees at a time.
    fn scope(&self) -> Scope {
        Scope::Rows
    }

    /// Whether it needs [`Block::trainable`].
    fn trains(&self) -> bool {
        false
    }

    /// Of methods that take rows: whether the importance of columns changes what becomes of them.
    fn weighs_columns(&self, _scheme: &Scheme) -> bool {
        true
    }

    /// Whether groups are of columns that do not lie side by side, so that codes need a `g_idx`.
    fn reorders_groups(&self) -> bool {
        false
    }

    /// Of methods that [compensate](Effect::Compensates): the rank of what they leave.
    fn rank(&self) -> Option<usize> {
        None
    }

    /// Rewrites the block's weights, or replaces those that have a scheme by quantized ones, or finds
    /// what makes up for their errors.
    fn apply(&self, block: &mut Block) -> Result<()>;

    /// What it does outside the blocks, for methods that change the residual stream. Most do nothing.
    fn ends(&self) -> Option<&dyn Ends> {
        None
    }
}

/// What a method that changes the residual stream does to the matrices at its two ends.
pub trait Ends: Send + Sync {
    /// Rewrites rows of the token embedding, [tokens, hidden].
    fn embedding(&self, rows: &mut Array2<f32>) -> Result<()>;

    /// Rewrites rows of the output head, [tokens, hidden], which read the stream through the final norm, whose weight is
    /// given and becomes one.
    fn head(&self, rows: &mut Array2<f32>, final_norm: &[f32]) -> Result<()>;
}

/// Reduces a method that treats each linear by itself to one function of the linear and its scheme.
pub fn map_linears(block: &mut Block, quantize: impl Fn(&Linear, Scheme) -> Result<Weight>) -> Result<()> {
    for linear in &mut block.linears {
        if let Some(scheme) = linear.scheme {
            linear.weight = quantize(linear, scheme)?;
        }
    }
    Ok(())
}

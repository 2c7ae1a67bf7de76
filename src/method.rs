//! `trait Method`, and the visible list of them.

use ndarray::ArrayView2;

use crate::error::{Error, Result};
use crate::numerics::{Context, Extent, Scheme};
use crate::quant;
use crate::tensor::Weight;

/// Every method, in the order `--help` lists them. The CLI's choices, recipe validation and the conformance tests
/// iterate this list.
pub const METHODS: &[Def] = &[quant::rtn::DEF, quant::mse::DEF, quant::hqq::DEF];

/// A registry entry.
#[derive(Debug, Clone, Copy)]
pub struct Def {
    /// As `--method` takes it.
    pub name: &'static str,
    /// One line for `--help`: what it does and what it costs.
    pub summary: &'static str,
    /// Whether it can work with a scheme; if not, why.
    pub supports: fn(&Scheme) -> Result<(), &'static str>,
    /// The method with its default parameters.
    pub method: &'static dyn Method,
}

/// What a method asks calibration to gather. Data-free methods ask for nothing, and stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Second moments of the inputs, per column.
    pub second_moment: bool,
    /// The Hessian of each linear's inputs.
    pub hessian: bool,
}

/// A linear layer (or a range of its rows) on its way through a method.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Its weight's name.
    pub name: String,
    /// What it is to become.
    pub scheme: Scheme,
    /// Extent of the whole (fused) tensor, where the scheme needs one.
    pub extent: Option<Extent>,
    /// How much each column matters, where known.
    pub importance: Option<Vec<f32>>,
    /// Dense before, quantized after.
    pub weight: Weight,
}

impl Linear {
    /// The values to quantize, [rows, cols]. Of a weight that is quantized already: an error.
    pub fn dense(&self) -> Result<ArrayView2<'_, f32>> {
        match &self.weight {
            Weight::Dense(values) => Ok(values.view()),
            Weight::Quantized(_) => Err(Error::unsupported(
                format!("{}: quantized already", self.name),
                "quantize each linear in one step of the recipe only",
            )),
        }
    }

    /// What the scheme may know beyond the values.
    pub fn context(&self) -> Context<'_> {
        Context { extent: self.extent, importance: self.importance.as_deref() }
    }
}

/// What a method works on: the linears of a decoder block, or, for methods without data, a range of rows of one linear.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// In the order of the forward pass.
    pub linears: Vec<Linear>,
}

/// A compression method.
pub trait Method: Sync + std::fmt::Debug {
    /// What it needs to know about the inputs.
    fn needs(&self) -> Statistics {
        Statistics::default()
    }

    /// Replaces the dense weights of a block by quantized ones.
    fn apply(&self, block: &mut Block) -> Result<()>;
}

/// Reduces a method that treats each linear by itself to one function.
pub fn map_linears(block: &mut Block, quantize: impl Fn(&Linear) -> Result<Weight>) -> Result<()> {
    for linear in &mut block.linears {
        linear.weight = quantize(linear)?;
    }
    Ok(())
}

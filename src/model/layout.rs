//! The parts of a block, by name: its linears in the order of the forward pass, which of them read the same input, its
//! norms, and where a scale may be moved from one weight to another without changing what the block computes. [`Walk`]
//! gathers them; each mixer and feed-forward network walks through itself.

use ndarray::Array2;

use super::frame::Frame;
use super::weights::{Location, Tensors, Weights, misshapen};
use crate::error::Result;

/// A linear of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearPlace {
    /// Full name of its weight, `.weight` included.
    pub name: String,
    /// Full name of its bias, where it has one.
    pub bias: Option<String>,
    /// Depth in the forward pass: linears of one depth depend on those of earlier depths only (q, k and v; o; the router;
    /// gate and up; down).
    pub depth: usize,
    /// Linears with the same number read the same input.
    pub input: usize,
    /// The expert that it belongs to.
    pub expert: Option<usize>,
    /// True if its output is added to the residual stream.
    pub writes_residual: bool,
    /// True if its weight is stored [in, out] (GPT-2).
    pub transposed: bool,
}

impl LinearPlace {
    /// Turns its weight from the order in which it is stored to [out, in], or back.
    pub(crate) fn turned(&self, weight: Array2<f32>) -> Array2<f32> {
        if self.transposed { weight.t().as_standard_layout().into_owned() } else { weight }
    }
}

/// A norm whose outputs linears of the block read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NormPlace {
    /// Full name of its weight.
    pub weight: String,
    /// Full name of its bias, where it has one.
    pub bias: Option<String>,
    /// True if it subtracts the mean (LayerNorm).
    pub centered: bool,
    /// True if the file holds the weight less one (Gemma).
    pub plus_one: bool,
}

/// The tensor that makes the input of a [`Fold`]'s linears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feeder {
    /// Elements of the weight (and bias) of a norm of the block.
    Norm(usize),
    /// Rows of a linear of the block.
    Linear(usize),
}

/// A place where a positive scale can be moved: column j of every reader may be multiplied by s if element `columns[j]` of the
/// feeder (and of its bias) is divided by it. Nothing but the readers reads the feeder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    /// The tensor that makes the inputs.
    pub feeder: Feeder,
    /// The linears that read them: indices into the block's.
    pub readers: Vec<usize>,
    /// The feeder's element (row) that makes each column; several columns may share one (grouped-query attention).
    pub columns: Vec<u32>,
    /// Columns of an attention head, where the feeder is v and the reader o.
    pub head_dim: Option<usize>,
}

/// A block's parts; [`Fold`]s index them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockLayout {
    /// In the order of the forward pass.
    pub linears: Vec<LinearPlace>,
    /// Norms that linears read.
    pub norms: Vec<NormPlace>,
    /// The places where scales can be moved.
    pub folds: Vec<Fold>,
}

impl BlockLayout {
    /// The last linear, if its outputs are added to the residual stream as they are: what it computes can make up for what the
    /// stream lacks. None of a mixture's can: each expert sees some tokens only.
    pub(crate) fn last_writer(&self) -> Option<&LinearPlace> {
        let mixed = self.linears.iter().any(|linear| linear.expert.is_some());
        self.linears.last().filter(|last| last.writes_residual && !mixed)
    }
}

/// The input of linears.
#[derive(Debug, Clone, Copy)]
pub(super) struct InputPlace {
    pub depth: usize,
    /// Its number in the block.
    pub input: usize,
    /// The fold of its readers, where there is one.
    pub fold: Option<usize>,
}

/// Gathers the parts of a block in the order of its forward pass.
pub(super) struct Walk<'a> {
    frame: &'a Frame,
    tensors: Tensors<'a>,
    block: usize,
    /// Width of the residual stream.
    hidden: usize,
    /// Numbers of inputs given out.
    inputs: usize,
    layout: BlockLayout,
}

impl<'a> Walk<'a> {
    /// Makes a walk that begins before the block's first linear.
    pub(crate) fn new(weights: &'a dyn Weights, frame: &'a Frame, hidden: usize, block: usize) -> Self {
        let tensors = Tensors::new(weights, frame);
        Walk { frame, tensors, block, hidden, inputs: 0, layout: BlockLayout::default() }
    }

    /// Returns true if the file has such a weight.
    pub(crate) fn has(&self, pattern: &str) -> bool {
        self.tensors.has(pattern, Location { block: self.block, part: 0 })
    }

    /// Returns the rows of a linear that was added.
    pub(crate) fn rows(&self, linear: usize) -> Result<usize> {
        Ok(self.outputs_inputs(&self.layout.linears[linear].name)?[0])
    }

    /// Returns [outputs, inputs] of a linear.
    fn outputs_inputs(&self, name: &str) -> Result<[usize; 2]> {
        let [rows, cols] = self.tensors.matrix_shape(name)?;
        Ok(if self.frame.transposed { [cols, rows] } else { [rows, cols] })
    }

    /// Returns a new input.
    pub(crate) fn input(&mut self, depth: usize) -> InputPlace {
        self.inputs += 1;
        InputPlace { depth, input: self.inputs - 1, fold: None }
    }

    /// Returns a new input, made by a norm where there is one.
    pub(crate) fn normed(&mut self, norm: Option<&str>, depth: usize) -> InputPlace {
        let mut input = self.input(depth);
        if let Some(pattern) = norm {
            let name = self.tensors.name(pattern, Location { block: self.block, part: 0 });
            self.layout.norms.push(norm_place(&self.tensors, &name, self.frame));
            let feeder = Feeder::Norm(self.layout.norms.len() - 1);
            let columns = (0..self.hidden as u32).collect();
            self.layout.folds.push(Fold { feeder, readers: Vec::new(), columns, head_dim: None });
            input.fold = Some(self.layout.folds.len() - 1);
        }
        input
    }

    /// Adds a fold between rows of a linear and readers that will be added. Returns its number.
    pub(crate) fn fold(
        &mut self,
        feeder: usize,
        columns: Vec<u32>,
        head_dim: Option<usize>,
    ) -> Result<usize> {
        let (rows, needed) = (self.rows(feeder)?, columns.iter().max().map_or(0, |row| row + 1));
        if rows < needed as usize {
            let name = &self.layout.linears[feeder].name;
            return Err(misshapen(name, format!("{needed} rows or more"), format!("{rows}")));
        }
        let feeder = Feeder::Linear(feeder);
        self.layout.folds.push(Fold { feeder, readers: Vec::new(), columns, head_dim });
        Ok(self.layout.folds.len() - 1)
    }

    /// Adds a linear, to the readers of its input too. Returns its number.
    pub(crate) fn linear(
        &mut self,
        pattern: &str,
        expert: Option<usize>,
        from: InputPlace,
        writes_residual: bool,
    ) -> Result<usize> {
        let at = Location { block: self.block, part: expert.unwrap_or(0) };
        let module = self.tensors.name(pattern, at);
        let (name, bias) = (self.tensors.weight(&module), self.tensors.bias(&module));
        let (index, cols) = (self.layout.linears.len(), self.outputs_inputs(&name)?[1]);
        if let Some(fold) = from.fold {
            let fold = &mut self.layout.folds[fold];
            if cols != fold.columns.len() {
                return Err(misshapen(&name, format!("{} columns", fold.columns.len()), format!("{cols}")));
            }
            fold.readers.push(index);
        }
        let InputPlace { depth, input, .. } = from;
        let transposed = self.frame.transposed;
        let place = LinearPlace { name, bias, depth, input, expert, writes_residual, transposed };
        self.layout.linears.push(place);
        Ok(index)
    }

    /// Returns the layout with its linears in the order of their depths.
    pub(crate) fn finish(self) -> BlockLayout {
        let BlockLayout { linears, norms, mut folds } = self.layout;
        let mut order: Vec<usize> = (0..linears.len()).collect();
        order.sort_by_key(|&index| linears[index].depth);
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(new, &old)| place[old] = new);
        for fold in &mut folds {
            fold.readers.iter_mut().for_each(|reader| *reader = place[*reader]);
            if let Feeder::Linear(feeder) = &mut fold.feeder {
                *feeder = place[*feeder];
            }
        }
        BlockLayout { linears: order.iter().map(|&old| linears[old].clone()).collect(), norms, folds }
    }
}

/// Returns the place of a norm, of this name without `.weight`.
pub(super) fn norm_place(tensors: &Tensors, name: &str, frame: &Frame) -> NormPlace {
    NormPlace {
        weight: tensors.weight(name),
        bias: tensors.bias(name),
        centered: frame.norm.centered,
        plus_one: frame.norm.plus_one,
    }
}

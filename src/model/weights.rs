//! Weights of a model, and how they are fetched under an architecture's names: biases where there are any, fused projections
//! cut into their parts, shapes checked against the description.

use std::ops::Range;
use std::sync::Arc;

use ndarray::Array2;

use super::frame::Frame;
use crate::backend::{Backend, Matrix, NormWeights};
use crate::error::{CHECKPOINT, Error, Result};
use crate::numerics::Weight;
use crate::tensor::DType;

/// The tensors of a model, by full Hugging Face name.
pub trait Weights {
    /// Returns the shape of a tensor; `None` where there is none of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;
    /// Returns a matrix to be loaded.
    ///
    /// # Errors
    /// A matrix that is missing.
    fn matrix(&self, name: &str) -> Result<Arc<dyn Matrix>>;
    /// Reads all values of a small tensor, in f32.
    fn vector(&self, name: &str) -> Result<Vec<f32>>;
}

/// The numbers that a pattern is filled with.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Location {
    /// The decoder block, for `{b}`.
    pub block: usize,
    /// The expert or head, for `{e}`.
    pub part: usize,
}

/// Beginnings of full names instead of the architecture's own prefix: bare models, and text models within larger ones.
pub(super) const OTHER_BASES: &[&str] = &["", "decoder.", "language_model.model.", "model.language_model."];

/// The tensors of a model under the names that the architecture has for them.
#[derive(Clone, Copy)]
pub(super) struct Tensors<'a> {
    weights: &'a dyn Weights,
    base: &'a str,
}

impl<'a> Tensors<'a> {
    /// Finds the beginning of the file's names.
    pub(crate) fn new(weights: &'a dyn Weights, frame: &Frame) -> Self {
        let found =
            |base: &&str| weights.shape(&format!("{base}{}.weight", frame.embedding.tokens)).is_some();
        let other = || OTHER_BASES.iter().copied().find(found);
        let base = Some(frame.base).filter(found).or_else(other).unwrap_or(frame.base);
        Tensors { weights, base }
    }

    /// Returns the full name of a tensor, without `.weight`.
    pub(crate) fn name(&self, pattern: &str, at: Location) -> String {
        let filled = pattern.replace("{b}", &at.block.to_string()).replace("{e}", &at.part.to_string());
        format!("{}{filled}", self.base)
    }

    /// Returns true if the file has such a weight.
    pub(crate) fn has(&self, pattern: &str, at: Location) -> bool {
        self.weights.shape(&format!("{}.weight", self.name(pattern, at))).is_some()
    }

    /// Returns the full name of a weight. In the first BERTs, a norm's weight is `gamma`.
    pub(crate) fn weight(&self, name: &str) -> String {
        self.either(name, "weight", "gamma")
    }

    /// Returns the full name of a bias, where there is one. In the first BERTs, a norm's bias is `beta`.
    pub(crate) fn bias(&self, name: &str) -> Option<String> {
        let bias = self.either(name, "bias", "beta");
        self.weights.shape(&bias).is_some().then_some(bias)
    }

    /// Returns the name with one ending, or with the old one where only that exists.
    fn either(&self, name: &str, ending: &str, old: &str) -> String {
        let (name, old) = (format!("{name}.{ending}"), format!("{name}.{old}"));
        let is_old = self.weights.shape(&name).is_none() && self.weights.shape(&old).is_some();
        if is_old { old } else { name }
    }

    /// Returns [rows, columns] of a weight as the file has it.
    pub(crate) fn matrix_shape(&self, name: &str) -> Result<[usize; 2]> {
        Ok(self.weights.matrix(name)?.shape())
    }
}

/// Fetches the parts of a decoder.
pub(super) struct Loader<'a, B> {
    pub backend: &'a B,
    pub weights: &'a dyn Weights,
    pub frame: &'a Frame,
    /// Width of the residual stream.
    pub hidden: usize,
    pub tensors: Tensors<'a>,
}

impl<'a, B: Backend> Loader<'a, B> {
    /// Makes a loader of a model of this frame and width.
    pub(crate) fn new(backend: &'a B, weights: &'a dyn Weights, frame: &'a Frame, hidden: usize) -> Self {
        Loader { backend, weights, frame, hidden, tensors: Tensors::new(weights, frame) }
    }

    /// Returns a matrix that must be [rows, cols]. It is transposed if the architecture stores linears as [in, out].
    fn matrix(&self, name: &str, [rows, cols]: [usize; 2]) -> Result<Arc<dyn Matrix>> {
        let weight = format!("{name}.weight");
        let mut matrix = self.weights.matrix(&weight)?;
        if self.frame.transposed {
            matrix = Arc::new(Transposed::of(matrix.as_ref())?);
        }
        if matrix.shape() != [rows, cols] {
            return Err(misshapen(&weight, format!("{rows} x {cols}"), format!("{:?}", matrix.shape())));
        }
        Ok(matrix)
    }

    /// Reads a bias of so many elements; `None` where there is none.
    fn bias(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some(bias) = self.tensors.bias(name) else { return Ok(None) };
        let shape = self.weights.shape(&bias).unwrap_or_default();
        if shape != [len] {
            return Err(misshapen(&bias, format!("[{len}]"), format!("{shape:?}")));
        }
        self.weights.vector(&bias).map(Some)
    }

    /// Loads several linears that read the same input as one: (pattern, rows) each.
    pub(crate) fn linear(&self, parts: &[(&str, usize)], cols: usize, at: Location) -> Result<B::Linear> {
        let names: Vec<_> =
            parts.iter().map(|(pattern, rows)| (self.tensors.name(pattern, at), *rows)).collect();
        let matrices: Result<Vec<_>> =
            names.iter().map(|(name, rows)| self.matrix(name, [*rows, cols])).collect();
        let biases: Result<Vec<_>> = names.iter().map(|(name, rows)| self.bias(name, *rows)).collect();
        self.backend.load_linear(&matrices?, joined(&biases?, parts))
    }

    /// Loads a linear of this shape with its rows in another order, given as ranges of rows.
    pub(crate) fn reordered(
        &self,
        pattern: &str,
        shape: [usize; 2],
        order: &[Range<usize>],
        at: Location,
    ) -> Result<B::Linear> {
        let name = self.tensors.name(pattern, at);
        let whole = self.matrix(&name, shape)?;
        let slice = |rows: &Range<usize>| -> Arc<dyn Matrix> {
            Arc::new(Slice { of: Arc::clone(&whole), rows: rows.clone() })
        };
        let slices: Vec<_> = order.iter().map(slice).collect();
        let bias = self.bias(&name, shape[0])?;
        let bias = bias.map(|bias| order.iter().flat_map(|rows| bias[rows.clone()].to_vec()).collect());
        self.backend.load_linear(&slices, bias)
    }

    /// Returns the rows that a linear's weight has in the file.
    pub(crate) fn rows(&self, pattern: &str, at: Location) -> Result<usize> {
        let shape = self.tensors.matrix_shape(&format!("{}.weight", self.tensors.name(pattern, at)))?;
        Ok(shape[usize::from(self.frame.transposed)])
    }

    /// Returns [vocabulary, columns] of the token embedding.
    pub(crate) fn embedding_shape(&self) -> Result<[usize; 2]> {
        let name = self.tensors.name(self.frame.embedding.tokens, Location::default());
        self.tensors.matrix_shape(&format!("{name}.weight"))
    }

    /// Loads the output head: its own weights where the file has them and they are not tied, the embedding's otherwise.
    pub(crate) fn head(
        &self,
        tokens: &B::Table,
        [vocabulary, width]: [usize; 2],
    ) -> Result<Option<B::Linear>> {
        let Some(name) = self.frame.head else { return Ok(None) };
        let weight = format!("{name}.weight");
        if self.frame.tied || self.weights.shape(&weight).is_none() {
            return self.backend.tied_head(tokens).map(Some);
        }
        let matrix = self.weights.matrix(&weight)?;
        if matrix.shape() != [vocabulary, width] {
            return Err(misshapen(
                &weight,
                format!("{vocabulary} x {width}"),
                format!("{:?}", matrix.shape()),
            ));
        }
        let bias = self.bias(name, vocabulary)?;
        self.backend.load_linear(&[matrix], bias).map(Some)
    }

    /// Loads a table of `cols` columns.
    pub(crate) fn table(&self, pattern: &str, cols: usize) -> Result<B::Table> {
        let weight = format!("{}.weight", self.tensors.name(pattern, Location::default()));
        let matrix = self.weights.matrix(&weight)?;
        if matrix.shape()[1] != cols {
            return Err(misshapen(&weight, format!("{cols} columns"), format!("{:?}", matrix.shape())));
        }
        self.backend.load_table(matrix)
    }

    /// Loads a norm over the whole row of the residual stream.
    pub(crate) fn norm(&self, pattern: &str, at: Location) -> Result<B::Norm> {
        self.norm_over(pattern, self.hidden, at)
    }

    /// Loads a norm over runs of `width` columns.
    pub(crate) fn norm_over(&self, pattern: &str, width: usize, at: Location) -> Result<B::Norm> {
        let name = self.tensors.name(pattern, at);
        let weight = self.norm_weight(&name, width)?;
        let bias = self.bias(&name, width)?;
        self.load_norm(width, weight, bias)
    }

    /// Loads the norms of so many heads, each with a weight of its own (`{e}`), as one.
    pub(crate) fn norm_per_head(
        &self,
        pattern: &str,
        heads: usize,
        width: usize,
        at: Location,
    ) -> Result<B::Norm> {
        let head = |part| self.norm_weight(&self.tensors.name(pattern, Location { part, ..at }), width);
        let weights: Result<Vec<_>> = (0..heads).map(head).collect();
        self.load_norm(width, weights?.concat(), None)
    }

    fn norm_weight(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let weight = self.tensors.weight(name);
        let mut values = self.weights.vector(&weight)?;
        if values.len() != len {
            return Err(misshapen(&weight, format!("[{len}]"), format!("{} values", values.len())));
        }
        if self.frame.norm.plus_one {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        Ok(values)
    }

    fn load_norm(&self, width: usize, weight: Vec<f32>, bias: Option<Vec<f32>>) -> Result<B::Norm> {
        let kind = self.frame.norm;
        let (epsilon, centered) = (kind.epsilon, kind.centered);
        self.backend.load_norm(NormWeights { width, weight, bias, epsilon, centered })
    }
}

/// Joins the biases of all parts: zeros for those that have none; `None` where none has.
fn joined(biases: &[Option<Vec<f32>>], parts: &[(&str, usize)]) -> Option<Vec<f32>> {
    biases.iter().any(Option::is_some).then(|| {
        let zeros = |rows: usize| vec![0.0; rows];
        biases
            .iter()
            .zip(parts)
            .flat_map(|(b, (_, rows))| b.clone().unwrap_or_else(|| zeros(*rows)))
            .collect()
    })
}

/// Returns the error for a tensor of a wrong shape.
pub(super) fn misshapen(name: &str, expected: String, found: String) -> Error {
    let hint = "config.json does not belong to these weights, or the file is damaged";
    Error::malformed_tensor(CHECKPOINT, name, expected, found, hint)
}

/// Some rows of a matrix.
struct Slice {
    of: Arc<dyn Matrix>,
    rows: Range<usize>,
}

impl Matrix for Slice {
    fn name(&self) -> &str {
        self.of.name()
    }

    fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.of.shape()[1]]
    }

    fn first_row(&self) -> usize {
        self.rows.start
    }

    fn dtype(&self) -> DType {
        self.of.dtype()
    }

    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        self.of.read(self.rows.start + rows.start..self.rows.start + rows.end)
    }

    fn release(&self) {
        self.of.release();
    }
}

/// A matrix stored [cols, rows], turned round in memory.
struct Transposed {
    name: String,
    values: Array2<f32>,
    dtype: DType,
}

impl Transposed {
    fn of(stored: &dyn Matrix) -> Result<Self> {
        let values = stored.read(0..stored.shape()[0])?.into_values();
        stored.release();
        Ok(Transposed {
            name: stored.name().to_owned(),
            values: values.t().as_standard_layout().into_owned(),
            dtype: stored.dtype(),
        })
    }
}

impl Matrix for Transposed {
    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> [usize; 2] {
        [self.values.nrows(), self.values.ncols()]
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        Ok(Weight::Dense(self.values.slice(ndarray::s![rows, ..]).to_owned()))
    }

    fn release(&self) {}
}

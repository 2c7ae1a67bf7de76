//! Where a decoder's weights come from, and how they are fetched under an architecture's names: biases where there are
//! any, fused projections cut into their parts, shapes checked against the configuration.

use std::ops::Range;
use std::sync::Arc;

use ndarray::Array2;

use super::config::{Config, QkvOrder};
use crate::backend::{Backend, Matrix, NormWeights};
use crate::error::{Error, Result};
use crate::numerics::Weight;
use crate::tensor::DType;

/// The tensors of a model, by full Hugging Face name.
pub trait Weights {
    /// The shape of a tensor; `None` where there is none of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;
    /// A matrix to be loaded. Missing: an error that says where it was looked for.
    fn matrix(&self, name: &str) -> Result<Arc<dyn Matrix>>;
    /// All values of a small tensor, in f32.
    fn vector(&self, name: &str) -> Result<Vec<f32>>;
}

/// The number of a block and of an expert, for the patterns of [`super::config::Names`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub block: usize,
    pub part: usize,
}

/// What full names may begin with instead of the architecture's own prefix: bare models, and text models within larger ones.
const OTHER_BASES: &[&str] = &["", "decoder.", "language_model.model.", "model.language_model."];

/// The tensors of a model under the names that the architecture has for them.
#[derive(Clone, Copy)]
pub(super) struct Tensors<'a> {
    weights: &'a dyn Weights,
    base: &'a str,
}

impl<'a> Tensors<'a> {
    /// Finds out what the file's names begin with.
    pub fn new(weights: &'a dyn Weights, config: &'a Config) -> Self {
        let names = &config.names;
        let found = |base: &&str| weights.shape(&format!("{base}{}.weight", names.embedding)).is_some();
        let other = || OTHER_BASES.iter().copied().find(found);
        let base = Some(names.base).filter(found).or_else(other).unwrap_or(names.base);
        Tensors { weights, base }
    }

    /// The full name of a tensor, without `.weight`.
    pub fn name(&self, pattern: &str, place: Place) -> String {
        let filled = pattern.replace("{b}", &place.block.to_string()).replace("{e}", &place.part.to_string());
        format!("{}{filled}", self.base)
    }

    /// Whether the file has such a weight.
    pub fn has(&self, pattern: &str, place: Place) -> bool {
        self.weights.shape(&format!("{}.weight", self.name(pattern, place))).is_some()
    }

    /// The full name of a weight; of a norm of the first BERTs, `gamma`.
    pub fn weight(&self, name: &str) -> String {
        self.either(name, "weight", "gamma")
    }

    /// The full name of a bias, where there is one; of a norm of the first BERTs, `beta`.
    pub fn bias(&self, name: &str) -> Option<String> {
        let bias = self.either(name, "bias", "beta");
        self.weights.shape(&bias).is_some().then_some(bias)
    }

    /// The name with one ending, or with the other where only that exists.
    fn either(&self, name: &str, ending: &str, old: &str) -> String {
        let (name, old) = (format!("{name}.{ending}"), format!("{name}.{old}"));
        let is_old = self.weights.shape(&name).is_none() && self.weights.shape(&old).is_some();
        if is_old { old } else { name }
    }
}

/// Fetches what a decoder is made of.
pub(super) struct Loader<'a, B> {
    pub backend: &'a B,
    pub weights: &'a dyn Weights,
    pub config: &'a Config,
    pub tensors: Tensors<'a>,
}

impl<'a, B: Backend> Loader<'a, B> {
    /// From a file whose names begin as they will.
    pub fn new(backend: &'a B, weights: &'a dyn Weights, config: &'a Config) -> Self {
        Loader { backend, weights, config, tensors: Tensors::new(weights, config) }
    }

    /// A matrix that must be [rows, cols]; stored the other way round where the architecture's linears are.
    fn matrix(&self, name: &str, [rows, cols]: [usize; 2]) -> Result<Arc<dyn Matrix>> {
        let weight = format!("{name}.weight");
        let mut matrix = self.weights.matrix(&weight)?;
        if self.config.names.transposed {
            matrix = Arc::new(Transposed::of(matrix.as_ref())?);
        }
        if matrix.shape() != [rows, cols] {
            return Err(misshapen(&weight, format!("{rows} x {cols}"), format!("{:?}", matrix.shape())));
        }
        Ok(matrix)
    }

    /// A bias of so many elements; `None` where there is none.
    fn bias(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let Some(bias) = self.tensors.bias(name) else { return Ok(None) };
        let shape = self.weights.shape(&bias).unwrap_or_default();
        if shape != [len] {
            return Err(misshapen(&bias, format!("[{len}]"), format!("{shape:?}")));
        }
        self.weights.vector(&bias).map(Some)
    }

    /// A layer of several linears that read the same input: (pattern, rows) each.
    pub fn linear(&self, parts: &[(&str, usize)], cols: usize, place: Place) -> Result<B::Linear> {
        let names: Vec<_> =
            parts.iter().map(|(pattern, rows)| (self.tensors.name(pattern, place), *rows)).collect();
        let matrices: Result<Vec<_>> =
            names.iter().map(|(name, rows)| self.matrix(name, [*rows, cols])).collect();
        let biases: Result<Vec<_>> = names.iter().map(|(name, rows)| self.bias(name, *rows)).collect();
        self.backend.load_linear(&matrices?, joined(&biases?, parts))
    }

    /// The layer that makes q, k and v, in this order whatever the order in the file.
    pub fn qkv(&self, place: Place) -> Result<B::Linear> {
        let (config, names) = (self.config, &self.config.names);
        let (q, kv) = (config.q_width(), config.kv_width());
        match (names.attention.input, names.qkv) {
            ([fused], QkvOrder::Stacked) => self.linear(&[(fused, q + 2 * kv)], config.hidden, place),
            ([fused], QkvOrder::PerHead) => self.interleaved(fused, place),
            (separate, _) => {
                let parts: Vec<_> = separate.iter().copied().zip([q, kv, kv]).collect();
                self.linear(&parts, config.hidden, place)
            }
        }
    }

    /// Cuts a q/k/v that is fused head by head.
    fn interleaved(&self, pattern: &str, place: Place) -> Result<B::Linear> {
        let (name, dim) = (self.tensors.name(pattern, place), self.config.head_dim);
        let rows = 3 * self.config.heads * dim;
        let whole = self.matrix(&name, [rows, self.config.hidden])?;
        let starts = (0..3).flat_map(|part| (0..self.config.heads).map(move |head| (3 * head + part) * dim));
        let slices: Vec<Arc<dyn Matrix>> = starts
            .clone()
            .map(|start| {
                Arc::new(Slice { of: Arc::clone(&whole), rows: start..start + dim }) as Arc<dyn Matrix>
            })
            .collect();
        let bias = self.bias(&name, rows)?;
        let bias = bias.map(|bias| starts.flat_map(|start| bias[start..start + dim].to_vec()).collect());
        self.backend.load_linear(&slices, bias)
    }

    /// Rows that a linear's weight has in the file.
    pub fn rows(&self, pattern: &str, place: Place) -> Result<usize> {
        let matrix = self.weights.matrix(&format!("{}.weight", self.tensors.name(pattern, place)))?;
        Ok(matrix.shape()[usize::from(self.config.names.transposed)])
    }

    /// [vocabulary, columns] of the token embedding.
    pub fn embedding_shape(&self) -> Result<[usize; 2]> {
        let name = self.tensors.name(self.config.names.embedding, Place::default());
        Ok(self.weights.matrix(&format!("{name}.weight"))?.shape())
    }

    /// The output head: its own weights where the file has them and they are not tied, the embedding's otherwise.
    pub fn head(&self, tokens: &B::Table, [vocabulary, width]: [usize; 2]) -> Result<Option<B::Linear>> {
        let Some(name) = self.config.names.head else { return Ok(None) };
        let weight = format!("{name}.weight");
        if self.config.tied || self.weights.shape(&weight).is_none() {
            return self.backend.tied_head(tokens).map(Some);
        }
        let matrix = self.weights.matrix(&weight)?;
        let rows = vocabulary;
        if matrix.shape() != [rows, width] {
            return Err(misshapen(&weight, format!("{rows} x {width}"), format!("{:?}", matrix.shape())));
        }
        let bias = self.bias(name, rows)?;
        self.backend.load_linear(&[matrix], bias).map(Some)
    }

    /// A table of `cols` columns.
    pub fn table(&self, pattern: &str, cols: usize) -> Result<B::Table> {
        let weight = format!("{}.weight", self.tensors.name(pattern, Place::default()));
        let matrix = self.weights.matrix(&weight)?;
        if matrix.shape()[1] != cols {
            return Err(misshapen(&weight, format!("{cols} columns"), format!("{:?}", matrix.shape())));
        }
        self.backend.load_table(matrix)
    }

    /// A norm over the whole row.
    pub fn norm(&self, pattern: &str, place: Place) -> Result<B::Norm> {
        let name = self.tensors.name(pattern, place);
        self.norm_of(self.norm_weight(&name, self.config.hidden)?, self.config.hidden, &name)
    }

    /// The norm of q or k: over each head by a shared weight, over each by its own (`{e}`), or over all at once.
    pub fn head_norm(&self, pattern: &str, heads: usize, place: Place) -> Result<B::Norm> {
        let (dim, name) = (self.config.head_dim, self.tensors.name(pattern, place));
        if pattern.contains("{e}") {
            let head = |part| self.norm_weight(&self.tensors.name(pattern, Place { part, ..place }), dim);
            let weights: Result<Vec<_>> = (0..heads).map(head).collect();
            return self.norm_of(weights?.concat(), dim, "");
        }
        let width = match self.config.qk_norm {
            super::config::QkNorm::Head => dim,
            super::config::QkNorm::Whole => heads * dim,
        };
        self.norm_of(self.norm_weight(&name, width)?, width, &name)
    }

    fn norm_weight(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let weight = self.tensors.weight(name);
        let mut values = self.weights.vector(&weight)?;
        if values.len() != len {
            return Err(misshapen(&weight, format!("[{len}]"), format!("{} values", values.len())));
        }
        if self.config.norm.plus_one {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        Ok(values)
    }

    fn norm_of(&self, weight: Vec<f32>, width: usize, name: &str) -> Result<B::Norm> {
        let kind = self.config.norm;
        let bias = if name.is_empty() { None } else { self.bias(name, weight.len())? };
        let (epsilon, centered) = (kind.epsilon, kind.centered);
        self.backend.load_norm(NormWeights { width, weight, bias, epsilon, centered })
    }
}

/// One bias for all parts: zeros for those that have none; `None` where none has.
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

pub(super) fn misshapen(name: &str, expected: String, found: String) -> Error {
    let hint = "config.json does not belong to these weights, or the file is damaged";
    Error::malformed_tensor("the checkpoint", name, expected, found, hint)
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

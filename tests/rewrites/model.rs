//! A model of `fixtures/models` whose weights can be changed in memory: blocks are taken out as methods see them, and put
//! back.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llmc::backend::cpu::{Activations, Cpu};
use llmc::backend::{Backend, Matrix};
use llmc::engine::CheckpointWeights;
use llmc::io::Checkpoint;
use llmc::model::{self, Batch, BlockLayout, Decoder, LinearPlace, NormPlace, Weights};
use llmc::numerics::Weight;
use llmc::stage::{Block, BlockLinear, Ends, Norm};
use llmc::tensor::DType;
use ndarray::{Array2, s};

/// The fixtures' folders, in order.
pub fn folders() -> Vec<PathBuf> {
    crate::common::folders("models")
}

/// A checkpoint under changes to its tensors.
pub struct Model {
    pub name: String,
    pub config: model::Model,
    stored: CheckpointWeights,
    changed: HashMap<String, Array2<f32>>,
}

impl Model {
    pub fn open(folder: &Path) -> Model {
        let checkpoint = Checkpoint::open(folder.to_str().unwrap()).unwrap();
        let config = model::configure(checkpoint.config.as_ref().unwrap()).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        Model { name, config, stored: CheckpointWeights(Arc::new(checkpoint)), changed: HashMap::new() }
    }

    pub fn layout(&self, block: usize) -> llmc::Result<BlockLayout> {
        model::block_layout(&self.config, self, block)
    }

    /// The values of a matrix, changes included.
    pub fn values(&self, name: &str) -> Array2<f32> {
        if let Some(values) = self.changed.get(name) {
            return values.clone();
        }
        let matrix = self.stored.matrix(name).unwrap();
        match matrix.read(0..matrix.shape()[0]).unwrap() {
            Weight::Dense(values) => values,
            Weight::Quantized(_) => panic!("{name} is quantized"),
        }
    }

    pub fn set(&mut self, name: &str, values: Array2<f32>) {
        self.changed.insert(name.to_owned(), values);
    }

    fn set_vector(&mut self, name: &str, values: Vec<f32>) {
        self.set(name, Array2::from_shape_vec((1, values.len()), values).unwrap());
    }

    /// A block as methods see it, without statistics.
    pub fn block(&self, index: usize, layout: &BlockLayout) -> Block {
        let linear = |place: &LinearPlace| BlockLinear {
            bias: place.bias.as_ref().map(|bias| self.vector(bias).unwrap()),
            writes_residual: place.writes_residual,
            ..BlockLinear::dense_only(&place.name, Weight::Dense(self.values(&place.name)))
        };
        let norm = |place: &NormPlace| {
            let shift = if place.plus_one { 1.0 } else { 0.0 };
            let weight = self.vector(&place.weight).unwrap().into_iter().map(|w| w + shift).collect();
            let bias = place.bias.as_ref().map(|bias| self.vector(bias).unwrap());
            Norm { place: place.clone(), weight, bias }
        };
        Block {
            index,
            linears: layout.linears.iter().map(linear).collect(),
            norms: layout.norms.iter().map(norm).collect(),
            folds: layout.folds.clone(),
            ..Block::default()
        }
    }

    /// Puts the weights of a block back.
    pub fn put(&mut self, block: Block, layout: &BlockLayout) {
        for (linear, place) in block.linears.into_iter().zip(&layout.linears) {
            let Weight::Dense(values) = linear.weight else { panic!("{}: quantized", linear.name) };
            self.set(&place.name, values);
            linear.bias.into_iter().zip(&place.bias).for_each(|(bias, name)| self.set_vector(name, bias));
        }
        for Norm { place, weight, bias } in block.norms {
            let shift = if place.plus_one { 1.0 } else { 0.0 };
            self.set_vector(&place.weight, weight.into_iter().map(|w| w - shift).collect());
            bias.into_iter().zip(&place.bias).for_each(|(bias, name)| self.set_vector(name, bias));
        }
    }

    /// Rewrites the embedding, the final norm and the head, which is no longer the embedding.
    pub fn rewrite_ends(&mut self, ends: &dyn Ends) -> llmc::Result<()> {
        let shift = if self.config.frame.norm.plus_one { 1.0 } else { 0.0 };
        let base = if self.shape("model.embed_tokens.weight").is_some() { "model." } else { "" };
        let (embedding, norm) = (format!("{base}embed_tokens.weight"), format!("{base}norm.weight"));
        let mut rows = self.values(&embedding);
        let tied = self.config.frame.tied || self.shape("lm_head.weight").is_none();
        let mut head = if tied { rows.clone() } else { self.values("lm_head.weight") };
        let weight: Vec<f32> = self.vector(&norm)?.into_iter().map(|w| w + shift).collect();
        ends.embedding(&mut rows)?;
        ends.head(&mut head, &weight)?;
        self.set(&embedding, rows);
        self.set("lm_head.weight", head);
        self.set_vector(&norm, vec![1.0 - shift; weight.len()]);
        self.config.frame.tied = false;
        Ok(())
    }

    /// Logits of some tokens, or hidden states of an encoder.
    pub fn run(&self) -> Vec<f32> {
        let decoder = Decoder::load(Cpu::new(Activations::F32), self.config.clone(), self).unwrap();
        let tokens: Vec<u32> = (0..9).map(|i| (i * i * 7 + 3) % 50).collect();
        let hidden = decoder.hidden(&Batch::whole(&[tokens]), None).unwrap();
        let values = if self.config.frame.head.is_some() { decoder.logits(&hidden).unwrap() } else { hidden };
        decoder.backend().read(&values, <[f32]>::to_vec).unwrap()
    }
}

impl Weights for Model {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let changed = || self.changed.get(name).map(|values| values.shape().to_vec());
        self.stored.shape(name).or_else(changed)
    }

    fn matrix(&self, name: &str) -> llmc::Result<Arc<dyn Matrix>> {
        match self.changed.get(name) {
            Some(values) => Ok(Arc::new(Changed { name: name.to_owned(), values: values.clone() })),
            None => self.stored.matrix(name),
        }
    }

    fn vector(&self, name: &str) -> llmc::Result<Vec<f32>> {
        match self.changed.get(name) {
            Some(values) => Ok(values.iter().copied().collect()),
            None => self.stored.vector(name),
        }
    }
}

/// A matrix in memory.
struct Changed {
    name: String,
    values: Array2<f32>,
}

impl Matrix for Changed {
    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> [usize; 2] {
        [self.values.nrows(), self.values.ncols()]
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn read(&self, rows: Range<usize>) -> llmc::Result<Weight> {
        Ok(Weight::Dense(self.values.slice(s![rows, ..]).to_owned()))
    }

    fn release(&self) {}
}

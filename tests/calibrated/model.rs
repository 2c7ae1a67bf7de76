//! Copies of the tiny fixtures with other weights, or more blocks, in a folder beside a text to calibrate on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use llmc::io::Checkpoint;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

use crate::common::{fixture, json};

/// The model's name in the folder of a test.
pub const MODEL: &str = "model";
/// The text's name beside it.
pub const TEXT: &str = "text.txt";

/// A checkpoint in memory.
pub struct Model {
    fixture: PathBuf,
    config: Value,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Clone)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Model {
    /// Reads a fixture, of however many shards.
    pub fn of(name: &str) -> Model {
        let fixture = fixture(name);
        let mut tensors = BTreeMap::new();
        for path in files(&fixture).filter(|path| path.extension().is_some_and(|e| e == "safetensors")) {
            let bytes = fs::read(path).unwrap();
            let shard = SafeTensors::deserialize(&bytes).unwrap();
            tensors.extend(shard.iter().map(|(name, view)| (name.to_owned(), Tensor::of(&view))));
        }
        let config = fs::read(fixture.join("config.json")).unwrap();
        Model { config: serde_json::from_slice(&config).unwrap(), fixture, tensors }
    }

    /// With so many blocks: those that are there, over and over.
    pub fn with_blocks(mut self, count: usize) -> Model {
        let there = self.config["num_hidden_layers"].as_u64().unwrap() as usize;
        for block in there..count {
            let [from, to] = [block % there, block].map(|block| format!("model.layers.{block}."));
            let copies = self.tensors.iter().filter(|(name, _)| name.starts_with(&from));
            let copies: Vec<_> = copies.map(|(name, t)| (name.replace(&from, &to), t.clone())).collect();
            self.tensors.extend(copies);
        }
        self.config["num_hidden_layers"] = count.into();
        self
    }

    /// With other values of a tensor, which the change is given with its columns.
    pub fn edit(mut self, name: &str, change: impl FnOnce(&mut [f32], usize)) -> Model {
        let tensor = self.tensors.get_mut(name).unwrap();
        let cols = *tensor.shape.last().unwrap();
        change(&mut tensor.values, cols);
        self
    }

    /// A Qwen3 mixture of experts in the shape of Mixtral: the same weights under its names, without norms of q and k.
    pub fn into_mixtral(mut self) -> Model {
        let names =
            [("mlp.", "block_sparse_moe."), ("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")];
        let renamed = |name: String| names.iter().fold(name, |name, (from, to)| name.replace(from, to));
        let kept =
            self.tensors.into_iter().filter(|(name, _)| !name.contains("q_norm") && !name.contains("k_norm"));
        self.tensors = kept.map(|(name, tensor)| (renamed(name), tensor)).collect();
        self.config["model_type"] = "mixtral".into();
        self.config["architectures"] = serde_json::json!(["MixtralForCausalLM"]);
        self.config["num_local_experts"] = self.config["num_experts"].take();
        self.config["intermediate_size"] = self.config["moe_intermediate_size"].take();
        self
    }

    /// A folder with it and the text.
    pub fn folder(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path());
        folder
    }

    /// Writes it into a test's folder, and the text beside it.
    pub fn write(&self, folder: &Path) {
        let to = folder.join(MODEL);
        fs::create_dir_all(&to).unwrap();
        for path in files(&self.fixture) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if name != "config.json" && !name.contains("safetensors") {
                fs::copy(&path, to.join(name)).unwrap();
            }
        }
        fs::write(to.join("config.json"), self.config.to_string()).unwrap();
        let bytes: Vec<Vec<u8>> = self.tensors.values().map(Tensor::bytes).collect();
        let views = self.tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
            (name, TensorView::new(tensor.dtype, tensor.shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("LICENSE"), folder.join(TEXT)).unwrap();
    }
}

impl Tensor {
    fn of(view: &TensorView) -> Tensor {
        let halves = view.data().as_chunks().0.iter().copied();
        let values = match view.dtype() {
            Dtype::F16 => halves.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::BF16 => halves.map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            other => panic!("{other:?}"),
        };
        Tensor { dtype: view.dtype(), shape: view.shape().to_vec(), values }
    }

    fn bytes(&self) -> Vec<u8> {
        let bytes = |value: &f32| match self.dtype {
            Dtype::F16 => f16::from_f32(*value).to_le_bytes(),
            _ => bf16::from_f32(*value).to_le_bytes(),
        };
        self.values.iter().flat_map(bytes).collect()
    }
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())
}

/// Returns the report of `eval perplexity` for a model on the text beside it.
pub fn perplexity(folder: &Path, flags: &str) -> Value {
    let line = format!("eval perplexity {flags} --data {TEXT} --ctx 64 --json --quiet");
    json(folder, &line)
}

/// Returns the mean negative log-likelihood of a token, in f32.
pub fn nll(folder: &Path, model: &str) -> f64 {
    let report = perplexity(folder, &format!("{model} --chunks 8 --activations f32"));
    report["nll"]["value"].as_f64().unwrap()
}

/// A checkpoint of a test.
pub fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path.to_str().unwrap()).unwrap()
}

/// All values of a tensor.
pub fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let source = checkpoint.source(name).unwrap();
    let [rows, cols] = source.rows_cols();
    let mut values = vec![0.0; rows * cols];
    checkpoint.read_rows(source, 0..rows, &mut values).unwrap();
    values
}

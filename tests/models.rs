//! Every architecture on every backend against transformers: `fixtures/models`, whose README says what is awkward in each.
//! Logits (hidden states for encoders) of whole sequences, of batches that transformers computed with padding, and of the
//! same sequences fed piece by piece through a cache must agree to 1e-4 in f32.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::largest;
use llmc::backend::Backend;
use llmc::backend::candle::{Candle, Device};
use llmc::backend::cpu::{Activations, Cpu};
use llmc::engine::CheckpointWeights;
use llmc::io::Checkpoint;
use llmc::model::{self, Batch, Decoder};
use llmc::tensor::DType;
use safetensors::SafeTensors;

const TOLERANCE: f64 = 1e-4;

/// Models whose frequencies depend on the length of the sequence: transformers leaves the keys of a cache as they were
/// rotated when they came in, so nothing says what a cache should give beyond the trained length.
const LENGTH_DEPENDENT: &[&str] = &["llama-dynamic", "phi3-longrope"];

#[test]
fn the_cpu_backend_agrees_with_transformers() {
    check_all(|| Cpu::new(Activations::F32));
}

#[test]
fn the_candle_backend_agrees_with_transformers() {
    check_all(|| Candle::new(Device::Cpu, DType::F32).unwrap());
}

fn check_all<B: Backend>(backend: impl Fn() -> B) {
    let cases = cases();
    assert!(cases.len() >= 50, "only {} cases found", cases.len());
    let problems: Vec<String> = cases.iter().flat_map(|case| case.problems(backend())).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// A folder of fixtures/models under one of its configurations.
struct Case {
    folder: PathBuf,
    config: PathBuf,
}

fn cases() -> Vec<Case> {
    let both = |folder: PathBuf| {
        ["config.json", "config.v4.json"]
            .map(|name| Case { config: folder.join(name), folder: folder.clone() })
    };
    common::folders("models").into_iter().flat_map(both).filter(|case| case.config.exists()).collect()
}

/// Tokens, and what transformers computed for each of them.
struct Golden {
    tokens: Vec<u32>,
    types: Vec<u32>,
    values: Vec<f32>,
}

impl Case {
    fn name(&self) -> String {
        let end = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        format!("{}/{}", end(&self.folder), end(&self.config))
    }

    fn goldens(&self) -> BTreeMap<String, Golden> {
        let bytes = fs::read(self.folder.join("golden.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let read = |name: String| file.tensor(&name).ok().map(|view| view.data().to_vec());
        let ids = |name: String| -> Vec<u32> {
            let bytes = read(name).unwrap_or_default();
            bytes.chunks_exact(8).map(|id| i64::from_le_bytes(id.try_into().unwrap()) as u32).collect()
        };
        let prefixes = file.names().into_iter().filter_map(|name| name.strip_suffix("tokens"));
        let golden = |prefix: &str| {
            let values = read(format!("{prefix}logits")).or_else(|| read(format!("{prefix}hidden"))).unwrap();
            Golden {
                tokens: ids(format!("{prefix}tokens")),
                types: ids(format!("{prefix}token_types")),
                values: values.chunks_exact(4).map(|v| f32::from_le_bytes(v.try_into().unwrap())).collect(),
            }
        };
        prefixes.map(|prefix| (prefix.to_owned(), golden(prefix))).collect()
    }

    fn load<B: Backend>(&self, backend: B) -> llmc::Result<Decoder<B>> {
        let mut checkpoint = Checkpoint::open(self.folder.to_str().unwrap()).unwrap();
        checkpoint.config = Some(serde_json::from_slice(&fs::read(&self.config).unwrap()).unwrap());
        let config = model::configure(checkpoint.config.as_ref().unwrap())?;
        Decoder::load(backend, config, &CheckpointWeights(Arc::new(checkpoint)))
    }

    fn problems<B: Backend>(&self, backend: B) -> Vec<String> {
        let decoder = match self.load(backend) {
            Ok(decoder) => decoder,
            Err(error) => return vec![format!("{}: {error}", self.name())],
        };
        let goldens = self.goldens();
        let mut problems = Vec::new();
        let mut compare = |what: &str, found: &[f32], expected: &[f32]| {
            assert_eq!(found.len(), expected.len(), "{} {what}", self.name());
            assert!(largest(expected.iter().map(|e| e.abs())) > 100.0 * TOLERANCE, "{} {what}", self.name());
            let worst = largest(found.iter().zip(expected).map(|(f, e)| (f - e).abs()));
            if worst.is_nan() || worst > TOLERANCE {
                problems.push(format!("{}: {what} differs by {worst}", self.name()));
            }
        };
        for (prefix, golden) in &goldens {
            compare(&format!("`{prefix}`"), &run(&decoder, &whole(&[golden]), None), &golden.values);
        }
        let batch: Vec<&Golden> = (0..3).map(|i| &goldens[&format!("batch.{i}.")]).collect();
        let expected = batch.iter().flat_map(|golden| golden.values.clone()).collect::<Vec<_>>();
        compare("the batch", &run(&decoder, &whole(&batch), None), &expected);
        if decoder.model().frame.head.is_some()
            && !LENGTH_DEPENDENT.iter().any(|name| self.name().starts_with(name))
        {
            compare("the batch through a cache", &cached(&decoder, &batch), &expected);
        }
        problems
    }
}

fn whole(goldens: &[&Golden]) -> Batch {
    let tokens: Vec<_> = goldens.iter().map(|golden| &golden.tokens).collect();
    let types = goldens.iter().flat_map(|golden| golden.types.clone()).collect();
    Batch { types, ..Batch::whole(&tokens) }
}

/// Logits of a batch, or hidden states of an encoder.
fn run<B: Backend>(decoder: &Decoder<B>, batch: &Batch, cache: Option<&mut model::State<B>>) -> Vec<f32> {
    let hidden = decoder.hidden(batch, cache).unwrap();
    let values = if decoder.model().frame.head.is_some() { decoder.logits(&hidden).unwrap() } else { hidden };
    decoder.backend().read(&values, <[f32]>::to_vec).unwrap()
}

/// Runs sequences through a cache, in slots that are not in order: first all but the last three tokens of each, then one at
/// a time; the second sequence goes on from a copy of its slot.
fn cached<B: Backend>(decoder: &Decoder<B>, goldens: &[&Golden]) -> Vec<f32> {
    let mut cache = decoder.state(goldens.len() + 1).unwrap();
    let mut slots: Vec<usize> = (0..goldens.len()).rev().collect();
    let mut rows: Vec<Vec<f32>> = vec![Vec::new(); goldens.len()];
    let lengths: Vec<usize> = goldens.iter().map(|golden| golden.tokens.len()).collect();
    for left in [3, 2, 1, 0] {
        let mut batch = Batch::default();
        for (golden, slot) in goldens.iter().zip(&slots) {
            let past = cache.len(*slot);
            batch.push(*slot, past, &golden.tokens[past..golden.tokens.len() - left]);
        }
        let values = run(decoder, &batch, Some(&mut cache));
        let width = values.len() / batch.tokens.len();
        let mut values = values.as_slice();
        for (sequence, span) in batch.spans.iter().enumerate() {
            let (own, rest) = values.split_at(span.len * width);
            rows[sequence].extend_from_slice(own);
            values = rest;
        }
        if left == 2 {
            let spare = goldens.len();
            cache.copy(decoder.backend(), slots[1], spare, lengths[1] - left).unwrap();
            slots[1] = spare;
        }
    }
    rows.concat()
}

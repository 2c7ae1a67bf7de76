//! A LoRA adapter as PEFT writes it, and transformers, PEFT and vLLM read it: `adapter_config.json` beside
//! `adapter_model.safetensors`, in a folder of their own.
//!
//! Each linear has two tensors, `base_model.model.<module>.lora_A.weight` \[rank, in\] and `….lora_B.weight` \[out, rank\]; engines
//! add lora_alpha / r · B·A to its weight. Readers know one rank for all: factors of a smaller one, of matrices that have no
//! more rows or columns, are padded with zeros. The fields of the config are those of PEFT's LoraConfig
//! (<https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/config.py>) that readers ask for
//! (<https://github.com/vllm-project/vllm/blob/main/vllm/lora/peft_helper.py>).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use ndarray::{Array2, s};
use serde_json::{Value, json};

use super::shards;
use crate::json::pretty;
use crate::numerics::{LowRank, convert};
use crate::plan::{OutputFile, Part};
use crate::tensor::DType;

/// Its folder in the output.
pub(crate) const FOLDER: &str = "adapter";
/// The weights, in the output.
pub(crate) const WEIGHTS: &str = "adapter/adapter_model.safetensors";
/// The config, in the output.
pub(crate) const CONFIG: &str = "adapter/adapter_config.json";

/// The layout of an adapter, known before its first value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Adapter {
    rank: usize,
    dtype: DType,
    /// The bytes of the factors of each weight, by its name, `.weight` included, counted from the end of the header.
    places: BTreeMap<String, Range<u64>>,
    /// lora_A and lora_B of each.
    parts: Vec<Part>,
}

impl Adapter {
    /// For linears of these names and shapes [rows, cols], of a rank that no matrix needs more than.
    pub(crate) fn new(linears: Vec<(String, [usize; 2])>, rank: usize, dtype: DType) -> Adapter {
        let most = linears.iter().map(|(_, [rows, cols])| *rows.min(cols)).max().unwrap_or(0);
        let rank = rank.min(most);
        let parts = linears.iter().flat_map(|(name, [rows, cols])| {
            [("A", vec![rank, *cols]), ("B", vec![*rows, rank])].map(|(half, shape)| Part {
                name: format!("base_model.model.{}.lora_{half}.weight", module(name)),
                dtype,
                shape,
            })
        });
        let parts: Vec<Part> = parts.collect();
        let starts: Vec<u64> = offsets(&parts).step_by(2).collect();
        let len = |pair: &[Part]| pair.iter().map(|part| part.byte_len() as u64).sum::<u64>();
        let ranges = starts.iter().zip(parts.chunks(2)).map(|(&start, pair)| start..start + len(pair));
        let places = linears.into_iter().map(|(name, _)| name).zip(ranges).collect();
        Adapter { rank, dtype, places, parts }
    }

    /// The weights' file.
    pub(crate) fn file(&self, metadata: &[(String, String)]) -> OutputFile {
        let header = shards::encode_header(metadata, self.parts.iter().zip(offsets(&self.parts)));
        let len = header.len() + self.parts.iter().map(Part::byte_len).sum::<usize>();
        OutputFile { name: WEIGHTS.to_owned(), header, parts: Vec::new(), len: len as u64 }
    }

    /// The bytes of a linear's factors, one after the other, and where they begin behind the header; `None` of one that is
    /// not in the adapter.
    pub(crate) fn encode(&self, linear: &str, factors: &LowRank) -> Option<(u64, Vec<u8>)> {
        let offset = self.place(linear)?.start;
        let (rows, cols, rank) = (factors.b.nrows(), factors.a.ncols(), factors.a.nrows());
        let mut a = Array2::zeros((self.rank, cols));
        a.slice_mut(s![..rank, ..]).assign(&factors.a);
        let mut b = Array2::zeros((rows, self.rank));
        b.slice_mut(s![.., ..rank]).assign(&factors.b);
        let mut bytes = Vec::new();
        for factor in [&a, &b] {
            let values = factor.as_slice().expect("a new array is contiguous");
            convert::from_f32(self.dtype, values, &mut bytes);
        }
        Some((offset, bytes))
    }

    /// The places of the factors of a linear, counted from the end of the header; `None` of one that is not in the adapter.
    pub(crate) fn place(&self, linear: &str) -> Option<Range<u64>> {
        self.places.get(linear).cloned()
    }

    /// The config. `base` is where the compressed model is; `causal` whether it is a language model.
    pub(crate) fn config(&self, base: &str, causal: bool) -> Vec<u8> {
        let last = |name: &String| module(name).rsplit('.').next().unwrap_or_default().to_owned();
        let targets: BTreeSet<String> = self.places.keys().map(last).collect();
        pretty(&json!({
            "peft_type": "LORA",
            "task_type": if causal { Value::from("CAUSAL_LM") } else { Value::Null },
            "base_model_name_or_path": base,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "target_modules": targets,
            "bias": "none",
            "modules_to_save": null,
            "fan_in_fan_out": false,
            "use_rslora": false,
            "use_dora": false,
            "rank_pattern": {},
            "alpha_pattern": {},
            "init_lora_weights": true,
            "inference_mode": true,
        }))
    }
}

/// Offsets of the parts, one after the other.
fn offsets(parts: &[Part]) -> impl Iterator<Item = u64> {
    parts.iter().scan(0, |end, part| {
        let start = *end;
        *end += part.byte_len() as u64;
        Some(start)
    })
}

fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

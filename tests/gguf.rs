//! Opening GGUF files made by hand, byte by byte, and settings of every architecture there and back.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use llmc::io::gguf::{config, open, parse, side_files};
use llmc::io::{Checkpoint, Source, Stored};
use llmc::model::{ARCHITECTURES, Transform};
use serde_json::{Value, json};
use tempfile::TempDir;

/// GGUF bytes under construction.
#[derive(Default)]
struct Builder {
    keys: Vec<u8>,
    key_count: u64,
    infos: Vec<u8>,
    data: Vec<u8>,
    tensor_count: u64,
}

impl Builder {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        Self::text(&mut self.keys, key);
        self.keys.extend(kind.to_le_bytes());
        self.keys.extend(value);
        self.key_count += 1;
        self
    }

    fn int(self, key: &str, value: u32) -> Self {
        self.key(key, 4, &value.to_le_bytes())
    }

    fn float(self, key: &str, value: f32) -> Self {
        self.key(key, 6, &value.to_le_bytes())
    }

    fn string(self, key: &str, value: &str) -> Self {
        let mut bytes = Vec::new();
        Self::text(&mut bytes, value);
        self.key(key, 8, &bytes)
    }

    fn strings(self, key: &str, values: &[&str]) -> Self {
        let mut bytes = [8u32.to_le_bytes().as_slice(), &(values.len() as u64).to_le_bytes()].concat();
        values.iter().for_each(|value| Self::text(&mut bytes, value));
        self.key(key, 9, &bytes)
    }

    /// An F32 tensor of 0, 1, 2, …; the shape is row-major.
    fn tensor(self, name: &str, shape: &[usize]) -> Self {
        self.ramp(name, shape, 0)
    }

    /// Adds a tensor of F32 whose values count up from `first`.
    fn ramp(mut self, name: &str, shape: &[usize], first: usize) -> Self {
        Self::text(&mut self.infos, name);
        self.infos.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|dim| self.infos.extend((*dim as u64).to_le_bytes()));
        self.infos.extend(0u32.to_le_bytes());
        self.infos.extend((self.data.len() as u64).to_le_bytes());
        let count: usize = shape.iter().product();
        self.data.extend((first..first + count).flat_map(|i| (i as f32).to_le_bytes()));
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensor_count += 1;
        self
    }

    fn bytes(self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(self.tensor_count.to_le_bytes());
        out.extend(self.key_count.to_le_bytes());
        out.extend(self.keys);
        out.extend(self.infos);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(self.data);
        out
    }

    fn write(self, folder: &TempDir, name: &str) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }

    fn open(self) -> llmc::Result<Checkpoint> {
        let folder = tempfile::tempdir().unwrap();
        open(&self.write(&folder, "x.gguf"))
    }
}

/// A decoder's settings: two heads of four, one key/value head.
fn settings(arch: &str) -> Builder {
    let key = |name: &str| format!("{arch}.{name}");
    Builder::default()
        .string("general.architecture", arch)
        .int(&key("context_length"), 64)
        .int(&key("embedding_length"), 8)
        .int(&key("block_count"), 1)
        .int(&key("feed_forward_length"), 16)
        .int(&key("attention.head_count"), 2)
        .int(&key("attention.head_count_kv"), 1)
        .float(&key("attention.layer_norm_rms_epsilon"), 1e-5)
}

fn read(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let source: &Source = &checkpoint.tensors[name];
    let [rows, cols] = source.rows_cols();
    let mut out = vec![f32::NAN; rows * cols];
    checkpoint.read_rows(source, 0..rows, &mut out).unwrap();
    out
}

#[test]
fn a_llama_gets_its_names_its_rows_and_its_config() {
    let checkpoint = settings("llama")
        .float("llama.rope.freq_base", 5e5)
        .tensor("token_embd.weight", &[3, 8])
        .tensor("blk.0.attn_k.weight", &[4, 1])
        .tensor("blk.0.attn_k.bias", &[4])
        .tensor("output.weight", &[3, 8])
        .open()
        .unwrap();
    let names: Vec<&str> = checkpoint.tensors.keys().map(String::as_str).collect();
    let k = "model.layers.0.self_attn.k_proj";
    let expected =
        ["model.embed_tokens.weight", &format!("{k}.weight"), &format!("{k}.bias"), "lm_head.weight"];
    assert_eq!(names, expected);
    // Stored interleaved, 0 1 2 3: the first half of the head is 0 and 2, the second 1 and 3.
    assert_eq!(read(&checkpoint, &format!("{k}.weight")), [0.0, 2.0, 1.0, 3.0]);
    assert_eq!(read(&checkpoint, &format!("{k}.bias")), [0.0, 2.0, 1.0, 3.0]);
    let config = checkpoint.config.unwrap();
    assert_eq!(config["architectures"], json!(["LlamaForCausalLM"]));
    assert_eq!(config["rms_norm_eps"], json!(1e-5), "the shortest decimal, not the f32's");
    assert_eq!((&config["vocab_size"], &config["head_dim"]), (&json!(3), &json!(4)));
    assert_eq!((&config["rope_theta"], &config["tie_word_embeddings"]), (&json!(5e5), &json!(false)));
}

#[test]
fn experts_are_taken_apart() {
    let checkpoint = settings("qwen3moe")
        .int("qwen3moe.expert_count", 2)
        .int("qwen3moe.expert_used_count", 1)
        .int("qwen3moe.expert_feed_forward_length", 2)
        .tensor("blk.0.ffn_up_exps.weight", &[2, 2, 3])
        .open()
        .unwrap();
    let second = "model.layers.0.mlp.experts.1.up_proj.weight";
    assert_eq!(checkpoint.tensors[second].shape, [2, 3]);
    assert_eq!(read(&checkpoint, second), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    assert_eq!(checkpoint.config.unwrap()["num_experts"], json!(2));
}

#[test]
fn gemma_norms_lose_the_one_that_gguf_adds() {
    let checkpoint = settings("gemma").tensor("output_norm.weight", &[3]).open().unwrap();
    assert_eq!(read(&checkpoint, "model.norm.weight"), [-1.0, 0.0, 1.0]);
    assert_eq!(checkpoint.tensors["model.norm.weight"].transform, Transform::AddOne);
}

#[test]
fn unknown_architectures_keep_gguf_names() {
    let checkpoint = Builder::default()
        .string("general.architecture", "mamba")
        .tensor("blk.0.ssm_in.weight", &[2, 2])
        .open()
        .unwrap();
    assert!(checkpoint.config.is_none());
    assert!(checkpoint.tensors.contains_key("blk.0.ssm_in.weight"));
}

#[test]
fn a_gguf_is_known_by_how_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["x.GGUF", "blob", "v1.5"] {
        let path = settings("llama").tensor("output_norm.weight", &[8]).write(&folder, name);
        let checkpoint = Checkpoint::open(path.to_str().unwrap()).unwrap();
        assert!(checkpoint.tensors.contains_key("model.norm.weight"), "{name}");
    }
}

#[test]
fn parts_are_opened_together() {
    let folder = tempfile::tempdir().unwrap();
    let split = |builder: Builder| builder.key("split.count", 2, &2u16.to_le_bytes());
    let first = split(settings("llama")).tensor("output_norm.weight", &[8]);
    let first = first.write(&folder, "m-00001-of-00002.gguf");
    assert!(open(&first).unwrap_err().to_string().contains("m-00002-of-00002.gguf"));
    split(Builder::default()).tensor("token_embd.weight", &[3, 8]).write(&folder, "m-00002-of-00002.gguf");
    let checkpoint = open(&first).unwrap();
    let Stored::Dense(raw) = &checkpoint.tensors["model.embed_tokens.weight"].stored else { panic!("dense") };
    assert_eq!((checkpoint.files.len(), raw.file), (2, 1));
    assert_eq!(read(&checkpoint, "model.embed_tokens.weight").len(), 24);
    let renamed = folder.path().join("renamed.gguf");
    std::fs::rename(&first, &renamed).unwrap();
    assert!(open(&renamed).unwrap_err().hint().unwrap().contains("-00001-of-"));
}

#[test]
fn factors_of_no_known_rule_pass_through() {
    let folder = tempfile::tempdir().unwrap();
    let mut input = settings("llama").tensor("token_embd.weight", &[3, 8]).tensor("output_norm.weight", &[8]);
    for (name, shape) in [("attn_q", [8, 8]), ("attn_k", [4, 8]), ("attn_v", [4, 8]), ("attn_output", [8, 8])]
    {
        input = input.tensor(&format!("blk.0.{name}.weight"), &shape);
    }
    for (name, shape) in [("ffn_gate", [16, 8]), ("ffn_up", [16, 8]), ("ffn_down", [8, 16])] {
        input = input.tensor(&format!("blk.0.{name}.weight"), &shape);
    }
    let input = input.ramp("rope_freqs.weight", &[2], 1).write(&folder, "x.gguf");
    common::ok(folder.path(), "convert x.gguf -o y.gguf");
    let freqs = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        let tensors = parse(path, &bytes).unwrap().tensors;
        let raw = tensors.into_iter().find(|raw| raw.name == "rope_freqs.weight").expect("there are factors");
        (raw.dtype, raw.shape, bytes[raw.range].to_vec())
    };
    assert_eq!(freqs(&folder.path().join("y.gguf")), freqs(&input));
}

#[test]
fn heads_that_no_memory_holds_are_refused() {
    let llama3 = json!({ "rope_type": "llama3", "factor": 8.0 });
    let config = json!({ "hidden_size": 64, "num_attention_heads": 4, "rope_scaling": llama3 });
    assert_eq!(config::setting_tensors(&config).unwrap()[0].1.len(), 8);
    for (key, value) in [
        ("head_dim", json!(10u64.pow(18))),
        ("hidden_size", json!(10u64.pow(18))),
        ("partial_rotary_factor", json!(1e300)),
        ("partial_rotary_factor", json!(-1)),
    ] {
        let mut config = config.clone();
        config[key] = value;
        let error = config::setting_tensors(&config).unwrap_err();
        assert!(error.to_string().contains(&format!("config.json: {key}: expected")), "{error}");
        assert!(error.hint().is_some());
    }
}

fn refused(builder: Builder, part: &str) {
    let error = builder.open().and_then(|checkpoint| side_files(&checkpoint.files[0])).unwrap_err();
    assert!(error.to_string().contains(part), "{error} does not say {part}");
    assert!(error.hint().is_some());
}

#[test]
fn contradictions_are_named() {
    refused(Builder::default().string("general.architecture", "llama"), "llama.context_length");
    refused(settings("llama").tensor("blk.0.attn_q.weight", &[5, 1]), "self_attn.q_proj.weight");
    refused(settings("qwen3moe"), "qwen3moe.expert_count");
    let norms = settings("stablelm").float("stablelm.attention.layer_norm_epsilon", 1e-5);
    refused(norms.tensor("blk.0.attn_q_norm.weight", &[5000, 1]), "at most 4096 stacked");
    let tokens = settings("llama").string("tokenizer.ggml.model", "gpt2");
    let tokens = tokens.strings("tokenizer.ggml.tokens", &["a", "b"]);
    let types = [5u32.to_le_bytes().as_slice(), &1u64.to_le_bytes(), &1i32.to_le_bytes()].concat();
    refused(tokens.key("tokenizer.ggml.token_type", 9, &types), "token_type");
}

/// Settings that each architecture gives, by the key tables themselves: every number distinct.
fn sample_config(arch: &llmc::model::Arch) -> Value {
    let mut config = json!({ "model_type": arch.models[0].0, "hidden_size": 64, "num_attention_heads": 4,
        "rope_theta": 12345.0 });
    for (at, key) in arch.keys().enumerate() {
        let value = match key.kind {
            llmc::model::KeyType::Int => json!(8 * (at + 1)),
            llmc::model::KeyType::Float => json!(0.125 * (at + 1) as f64),
            llmc::model::KeyType::Bool => json!(true),
        };
        if !["hidden_size", "num_attention_heads", "head_dim"].contains(&key.hf) {
            config[key.hf] = value;
        }
    }
    config
}

#[test]
fn settings_of_every_architecture_survive_the_round_trip() {
    for arch in ARCHITECTURES.iter().filter(|arch| arch.has_gguf()) {
        let config = sample_config(arch);
        let metadata = config::to_metadata(arch, &config).unwrap();
        let mut builder = Builder::default();
        for (key, value) in &metadata {
            builder = match value {
                llmc::io::gguf::Value::U32(v) => builder.int(key, *v),
                llmc::io::gguf::Value::F32(v) => builder.float(key, *v),
                llmc::io::gguf::Value::Bool(v) => builder.key(key, 7, &[u8::from(*v)]),
                llmc::io::gguf::Value::String(v) => builder.string(key, v),
                other => panic!("{key}: {other:?}"),
            };
        }
        let back = builder.open().unwrap().config.unwrap();
        for (key, value) in config.as_object().unwrap() {
            assert_eq!(back[key], *value, "{}: {key}", arch.models[0].0);
        }
    }
}

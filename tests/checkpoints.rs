//! Checkpoints as people have them: names as training left them, files that downloads leave behind, configs that do not fit,
//! towers, packed weights of other tools. Each is made of the fixture tiny-llama.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Signal, assert_same, contents, fails, fixture, interrupted_at, json, ok, run};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tensor: type, shape, bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// A copy of tiny-llama in a folder of its own, in `m/`.
struct Model {
    folder: TempDir,
}

impl Model {
    fn new() -> Model {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("m");
        std::fs::create_dir(&model).unwrap();
        for (name, bytes) in contents(&fixture("tiny-llama")) {
            std::fs::write(model.join(name), bytes).unwrap();
        }
        Model { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join("m").join(name)
    }

    fn tensors(&self) -> BTreeMap<String, Tensor> {
        tensors(&self.file("model.safetensors"))
    }

    /// Changes config.json.
    fn configure(&self, change: impl FnOnce(&mut Value)) {
        let mut config = self.config("m");
        change(&mut config);
        std::fs::write(self.file("config.json"), config.to_string()).unwrap();
    }

    fn config(&self, folder: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path().join(folder).join("config.json")).unwrap()).unwrap()
    }

    /// Replaces the weights.
    fn store(&self, tensors: &BTreeMap<String, Tensor>) {
        let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        std::fs::write(self.file("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// Changes the weights.
    fn edit(&self, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
        let mut tensors = self.tensors();
        change(&mut tensors);
        self.store(&tensors);
    }

    fn rename(&self, name: impl Fn(&str) -> String) {
        self.edit(|tensors| {
            *tensors =
                std::mem::take(tensors).into_iter().map(|(old, tensor)| (name(&old), tensor)).collect();
        });
    }

    fn ignored(&self, output: &str) -> Vec<String> {
        let config = self.config(output);
        let ignore = config["quantization_config"]["ignore"].as_array().unwrap();
        ignore.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }
}

fn tensors(file: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    file.tensors().into_iter().map(|(name, view)| (name, tensor(view))).collect()
}

fn bf16(shape: &[usize]) -> Tensor {
    let values = common::normal(1, shape.iter().product(), 7);
    let bytes = values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect();
    (Dtype::BF16, shape.to_vec(), bytes)
}

const INT4: &str = "quantize m --scheme w4a16 --group-size 32 -o out";

/// Runs a line, expects success, returns what it says on stderr.
fn told(model: &Model, line: &str) -> String {
    let output = run(model.path(), line);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "llmc {line}\n{stderr}");
    stderr
}

#[test]
fn python_writes_numbers_that_json_does_not_have() {
    let model = Model::new();
    let config = std::fs::read_to_string(model.file("config.json")).unwrap();
    let config = config.replacen('{', "{\n  \"time_step_limit\": [0.0, Infinity],\n", 1);
    std::fs::write(model.file("config.json"), config).unwrap();
    ok(model.path(), INT4);
    let written = std::fs::read_to_string(model.path().join("out/config.json")).unwrap();
    assert!(written.contains("Infinity\n") && !written.contains("__float__"), "{written}");
}

#[test]
fn what_stands_in_for_a_file_is_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1396368\n";
    for (name, text, expected) in [
        ("model.safetensors", pointer, "a Git LFS pointer"),
        ("tokenizer.json", pointer, "a Git LFS pointer"),
        ("config.json", "<!DOCTYPE html><html><body>Access denied", "a web page"),
    ] {
        let model = Model::new();
        std::fs::write(model.file(name), text).unwrap();
        let message = fails(model.path(), "quantize m --scheme q8_0 -o out.gguf", 1);
        assert!(message.contains(expected) && message.contains(name), "{message}");
    }
}

#[test]
fn an_index_is_left_over_beside_whole_weights() {
    let model = Model::new();
    ok(model.path(), "convert m -o plain");
    let index = json!({ "weight_map": { "lm_head.weight": "model-00001-of-00002.safetensors" } });
    std::fs::write(model.file("model.safetensors.index.json"), index.to_string()).unwrap();
    let message = told(&model, "convert m -o out");
    assert!(message.contains("is read instead"), "{message}");
    assert_eq!(tensors(&model.path().join("out/model.safetensors")), model.tensors());
}

#[test]
fn wrappers_of_training_leave_no_trace() {
    for wrapped in ["_orig_mod.", "module.", "module._orig_mod."] {
        let model = Model::new();
        let plain = model.tensors();
        model.rename(|name| format!("{wrapped}{name}"));
        let message = told(&model, "convert m -o out");
        assert!(message.contains("training wrapped it"), "{message}");
        assert_eq!(tensors(&model.path().join("out/model.safetensors")), plain, "{wrapped}");
    }
}

#[test]
fn a_model_that_breaks_its_promise_is_refused() {
    let check = |change: fn(&Model), expected: &str| {
        let model = Model::new();
        change(&model);
        for line in [INT4, "quantize m --scheme q8_0 -o out.gguf", "plan m --scheme w4a16"] {
            let message = fails(model.path(), line, 1);
            assert!(message.contains(expected), "{line}: {message}");
        }
    };
    check(
        |model| model.edit(|tensors| drop(tensors.remove("model.layers.1.mlp.down_proj.weight").unwrap())),
        "model.layers.1.mlp.down_proj.weight",
    );
    check(|model| model.configure(|config| config["num_hidden_layers"] = 3.into()), "model.layers.2.");
    check(|model| model.configure(|config| config["hidden_size"] = 128.into()), "embed_tokens.weight");
    check(|model| model.configure(|config| config["num_key_value_heads"] = 5.into()), "k_proj.weight");
    check(
        |model| model.configure(|config| config["vocab_size"] = 9.into()),
        "embed_tokens.weight: expected 9 x",
    );
}

#[test]
fn layers_beyond_the_models_are_told() {
    let model = Model::new();
    model.configure(|config| config["num_hidden_layers"] = 1.into());
    let message = told(&model, INT4);
    assert!(message.contains("not of the model of 1 layers"), "{message}");
}

#[test]
fn adapters_are_no_models() {
    let model = Model::new();
    model.edit(|tensors| {
        tensors.insert("model.layers.0.self_attn.q_proj.lora_A.weight".into(), bf16(&[8, 64]));
    });
    let message = fails(model.path(), INT4, 1);
    assert!(message.contains("a LoRA adapter that is not merged"), "{message}");
    std::fs::rename(model.file("model.safetensors"), model.file("adapter_model.safetensors")).unwrap();
    let message = fails(model.path(), INT4, 1);
    assert!(message.contains("an adapter without its model"), "{message}");
}

#[test]
fn packed_weights_of_other_tools_are_named() {
    let model = Model::new();
    model.edit(|tensors| {
        let module = "model.layers.0.mlp.down_proj";
        tensors.insert(format!("{module}.weight"), (Dtype::U32, vec![64, 20], vec![0; 64 * 20 * 4]));
        tensors.insert(format!("{module}.scales"), bf16(&[64, 5]));
        tensors.insert(format!("{module}.biases"), bf16(&[64, 5]));
    });
    let message = fails(model.path(), INT4, 1);
    assert!(message.contains("packed by MLX"), "{message}");
    let listed = ok(model.path(), "inspect m");
    assert!(listed.contains("packed by MLX") && listed.contains("down_proj.scales"), "{listed}");
}

/// A stored head of other values than the embedding that config.json ties it to.
#[test]
fn a_head_of_its_own_stays() {
    let model = Model::new();
    model.configure(|config| config["tie_word_embeddings"] = true.into());
    model.edit(|tensors| {
        let shape = tensors["model.embed_tokens.weight"].1.clone();
        tensors.insert("lm_head.weight".into(), bf16(&shape));
    });
    let message = told(&model, INT4);
    assert!(message.contains("differs from model.embed_tokens.weight"), "{message}");
    assert_eq!(model.config("out")["tie_word_embeddings"], false);
    ok(model.path(), "quantize m --scheme q8_0 -o out.gguf");
    let listed = ok(model.path(), "inspect out.gguf --json");
    assert!(listed.contains("lm_head.weight"), "the head is in the GGUF");
}

/// A stored copy of the embedding is no head of its own, until it is quantized.
#[test]
fn a_quantized_copy_of_the_embedding_is_not_tied() {
    let model = Model::new();
    model.configure(|config| config["tie_word_embeddings"] = true.into());
    model.edit(|tensors| {
        let embedding = tensors["model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".into(), embedding);
    });
    ok(model.path(), INT4);
    assert_eq!(model.config("out")["tie_word_embeddings"], true);
    ok(model.path(), "quantize m --scheme w4a16 --group-size 32 --include lm_head* -o head");
    assert_eq!(model.config("head")["tie_word_embeddings"], false);
}

/// tiny-llama inside a larger model, with a tower whose layers have the names of the text's.
fn with_tower() -> Model {
    let model = Model::new();
    model.rename(|name| match name.strip_prefix("model.") {
        Some(inner) => format!("language_model.model.{inner}"),
        None => format!("language_model.{name}"),
    });
    model.edit(|tensors| {
        for module in [
            "vision_tower.layers.0.self_attn.q_proj",
            "vision_tower.head.fc",
            "multi_modal_projector.linear_1",
        ] {
            tensors.insert(format!("{module}.weight"), bf16(&[64, 64]));
        }
    });
    model.configure(|config| {
        let mut text = config.clone();
        text["torch_dtype"] = "bfloat16".into();
        text["quantization_config"] = json!({ "quant_method": "gptq", "bits": 4 });
        *config = json!({ "model_type": "some_vlm", "architectures": ["SomeForConditionalGeneration"], "text_config": text,
            "vision_config": { "torch_dtype": "bfloat16" } });
    });
    model
}

#[test]
fn towers_stay_as_they_are_under_every_name() {
    let model = with_tower();
    ok(model.path(), INT4);
    let (before, after) = (model.tensors(), tensors(&model.path().join("out/model.safetensors")));
    let towers = before.iter().filter(|(name, _)| !name.starts_with("language_model"));
    let mut checked = 0;
    for (name, tensor) in towers {
        assert_eq!(after.get(name), Some(tensor), "{name}");
        checked += 1;
    }
    assert_eq!(checked, 3);
    let ignored = model.ignored("out");
    let matched = |name: &str| {
        ignored.iter().any(|entry| match entry.strip_prefix("re:") {
            Some(pattern) => regex::Regex::new(&format!("^{pattern}")).unwrap().is_match(name),
            None => entry == name,
        })
    };
    for prefix in ["", "model."] {
        for module in [
            "vision_tower.layers.0.self_attn.q_proj",
            "vision_tower.layers.0.self_attn.qkv_proj",
            "multi_modal_projector.linear_1",
        ] {
            assert!(matched(&format!("{prefix}{module}")), "{prefix}{module} in {ignored:?}");
        }
    }
    assert!(matched("lm_head"), "{ignored:?}");
    for text in
        ["model.language_model.layers.0.self_attn.q_proj", "language_model.model.layers.1.mlp.up_proj"]
    {
        assert!(!matched(text), "{text} in {ignored:?}");
    }
}

/// Dense in one layer and quantized in another: the pattern of the first must not match the second.
#[test]
fn a_kind_that_is_partly_dense_is_ignored_in_part() {
    let model = with_tower();
    ok(model.path(), &format!("{INT4} --exclude *layers.0.mlp.up_proj*"));
    let ignored = model.ignored("out");
    let patterns = ignored.iter().filter_map(|entry| entry.strip_prefix("re:"));
    let patterns: Vec<_> = patterns.map(|p| regex::Regex::new(&format!("^{p}")).unwrap()).collect();
    let matched = |name: &str| patterns.iter().any(|pattern| pattern.is_match(name));
    for prefix in ["language_model.model.", "model.language_model."] {
        assert!(matched(&format!("{prefix}layers.0.mlp.up_proj")), "{ignored:?}");
        assert!(!matched(&format!("{prefix}layers.1.mlp.up_proj")), "{ignored:?}");
    }
    ok(
        model.path(),
        "quantize m --scheme w4a16-asym --group-size 32 --format awq --exclude *layers.0.mlp* -o awq",
    );
    let left = model.config("awq")["quantization_config"]["modules_to_not_convert"].to_string();
    for name in ["model.language_model.layers.0.mlp.up_proj", "model.vision_tower"] {
        assert!(left.contains(&format!("\"{name}\"")), "{name} in {left}");
    }
    assert!(!left.contains("layers.1.mlp"), "{left}");
}

/// Embedding models name the class that they were made from, and have no head.
#[test]
fn a_bare_model_needs_no_head() {
    let model = Model::new();
    model.configure(|config| config["tie_word_embeddings"] = false.into());
    model.rename(|name| name.replacen("model.", "", 1));
    ok(model.path(), INT4);
    ok(model.path(), "quantize m --scheme q8_0 -o out.gguf");
}

/// Adapters that a model brings along, one for each kind of input, are parts of it.
#[test]
fn adapters_of_a_models_own_stay() {
    let model = Model::new();
    model.edit(|tensors| {
        tensors.insert("model.layers.0.self_attn.q_proj.lora_A.vision.weight".into(), bf16(&[8, 160]));
    });
    ok(model.path(), INT4);
    let out = tensors(&model.path().join("out/model.safetensors"));
    assert!(out.contains_key("model.layers.0.self_attn.q_proj.lora_A.vision.weight"), "as it was");
}

/// From within the model's folder, the output is beside that.
#[test]
fn a_model_is_named_from_within() {
    let model = Model::new();
    ok(&model.path().join("m"), "quantize . --scheme w4a16 --group-size 32");
    assert!(model.path().join("m-w4a16/config.json").is_file());
    let inside = "quantize . --scheme w4a16 --group-size 32 -o out";
    assert!(fails(&model.path().join("m"), inside, 2).contains("lies inside the input"));
}

#[test]
fn configs_inside_a_config_change_with_it() {
    let model = with_tower();
    model.configure(|config| {
        drop(config["text_config"].as_object_mut().unwrap().remove("quantization_config"))
    });
    ok(model.path(), "convert m --dtype f16 -o out");
    let config = model.config("out");
    for inner in ["text_config", "vision_config"] {
        assert_eq!(config[inner]["torch_dtype"], "float16", "{inner}");
    }
    let model = with_tower();
    ok(model.path(), INT4);
    assert!(model.config("out")["text_config"].get("quantization_config").is_none());
}

/// Granite's stacks end in `.weight`; a format that cannot hold them says so.
#[test]
fn stacks_that_stay_dense_are_marked() {
    let model = Model::new();
    model.configure(|config| config["model_type"] = "granitemoehybrid".into());
    model.edit(|tensors| {
        tensors.insert("model.layers.0.block_sparse_moe.input_linear.weight".into(), bf16(&[4, 64, 64]));
        tensors.insert("model.layers.0.block_sparse_moe.router.layer.weight".into(), bf16(&[4, 64]));
    });
    let plan = json(model.path(), "plan m --scheme w4a16 --group-size 32 --json");
    let text = plan.to_string();
    assert!(text.contains("a router"), "{text}");
    let message = fails(model.path(), &format!("{INT4} --strict"), 1);
    assert!(message.contains("input_linear"), "{message}");
}

#[test]
fn a_gguf_keeps_what_the_folder_knows() {
    let model = Model::new();
    let config = std::fs::read(model.file("tokenizer_config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config.as_object_mut().unwrap().remove("chat_template");
    let rows = model.tensors()["model.embed_tokens.weight"].1[0];
    config["added_tokens_decoder"][(rows - 1).to_string()] =
        json!({ "content": "<|tool|>", "special": true });
    std::fs::write(model.file("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(
        model.file("chat_template.json"),
        json!({ "chat_template": "<{{ messages[0].content }}>" }).to_string(),
    )
    .unwrap();
    std::fs::create_dir(model.file("additional_chat_templates")).unwrap();
    std::fs::write(model.file("additional_chat_templates/tool_use.jinja"), "tools").unwrap();
    ok(model.path(), "quantize m --scheme q8_0 -o out.gguf");
    let bytes = std::fs::read(model.path().join("out.gguf")).unwrap();
    let text = String::from_utf8_lossy(&bytes[..200_000.min(bytes.len())]).into_owned();
    for expected in ["<|tool|>", "<{{ messages[0].content }}>", "tokenizer.chat_template.tool_use"] {
        assert!(text.contains(expected), "{expected}");
    }
    ok(model.path(), "convert m -o out");
    assert!(model.path().join("out/additional_chat_templates/tool_use.jinja").is_file());
}

/// Rope factors of no released model come back from a GGUF.
#[test]
fn rope_factors_survive_a_gguf() {
    let model = Model::new();
    model.configure(|config| {
        config["rope_parameters"] = json!({ "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32 });
    });
    ok(model.path(), "convert m --format gguf -o out.gguf");
    let tokens: String = (0..96).map(|i| (3 + i * 7 % 200).to_string()).collect::<Vec<_>>().join(",");
    let logits = |input: &str, output: &str| {
        ok(model.path(), &format!("eval logits {input} --tokens {tokens} -o {output} --activations f32"));
        let (_, _, bytes) = tensors(&model.path().join(output)).remove("logits").unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<f32>>()
    };
    let (folder, gguf) = (logits("m", "a.safetensors"), logits("out.gguf", "b.safetensors"));
    let largest = folder.iter().zip(&gguf).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < 1e-3 && folder.iter().any(|x| x.abs() > 0.1), "{largest}");
}

/// A run that was stopped after a block goes on only with the config.json that it began with.
#[test]
fn a_changed_config_is_another_input() {
    let model = Model::new();
    std::fs::copy(fixture("tokenizer_corpus.txt"), model.path().join("text.txt")).unwrap();
    let line = "quantize m --scheme w4a16 --group-size 32 --method gptq --data text.txt --samples 3 --seq-len 12 -o out";
    interrupted_at(model.path(), line, "block 0 done", 1, Signal::Kill);
    let config = std::fs::read(model.file("config.json")).unwrap();
    model.configure(|config| config["rms_norm_eps"] = 1e-3.into());
    let message = fails(model.path(), line, 1);
    assert!(message.contains("another input"), "{message}");
    std::fs::write(model.file("config.json"), config).unwrap();
    ok(model.path(), line);
    ok(model.path(), &line.replace("-o out", "-o whole"));
    assert_same(&model.path().join("out/model.safetensors"), &model.path().join("whole/model.safetensors"));
}

/// Statistics hold for the config.json with which they were gathered.
#[test]
fn statistics_are_of_one_config() {
    let model = Model::new();
    std::fs::copy(fixture("tokenizer_corpus.txt"), model.path().join("text.txt")).unwrap();
    ok(model.path(), "calibrate m --data text.txt --samples 3 --seq-len 12 --hessian -o stats");
    let line = "quantize m --scheme w4a16 --group-size 32 --method gptq --stats stats -o out";
    model.configure(|config| config["rms_norm_eps"] = 1e-3.into());
    fails(model.path(), line, 1);
}

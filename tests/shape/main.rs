//! Models made smaller, from outside: fewer layers, heads, channels, columns and experts of every architecture, alone and in
//! front of other stages; runs that are stopped; requests that cannot be met.
#![allow(clippy::unwrap_used)]

mod channels;
#[path = "../common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};

use common::{Signal, assert_same, fails, fixture, folders, interrupted_at, json, largest, ok, text_folder};
use llmc::io::Checkpoint;
use serde_json::{Value, json};

/// The flags of the calibration text.
const DATA: &str = "--data text.txt --samples 8 --seq-len 12";

/// A copy of a fixture's weights and config.json, with a tokenizer of one token for each letter.
fn with_tokenizer(model: &Path, here: &Path) -> PathBuf {
    let copy = here.join("model");
    let _ = std::fs::remove_dir_all(&copy);
    std::fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(model.join(name), copy.join(name)).unwrap();
    }
    let letters = ('a'..='z').enumerate().map(|(index, letter)| (letter.to_string(), json!(index + 1)));
    let vocabulary: serde_json::Map<String, Value> =
        [("<unk>".into(), json!(0))].into_iter().chain(letters).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "." }, "behavior": "Isolated", "invert": false },
        "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    });
    std::fs::write(copy.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    copy
}

fn config(model: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(model.join("config.json")).unwrap()).unwrap()
}

/// The numbers of `0-19,26`.
fn numbers(text: &str) -> Vec<usize> {
    text.split(',')
        .flat_map(|run| {
            let (first, last) = run.split_once('-').unwrap_or((run, run));
            first.parse().unwrap()..=last.parse().unwrap()
        })
        .collect()
}

/// The logits of a model for a few tokens; `None` for an encoder.
fn logits(here: &Path, model: &str) -> Option<Vec<f32>> {
    logits_of(here, model, "1,2,3,7,9,4")
}

fn logits_of(here: &Path, model: &str, tokens: &str) -> Option<Vec<f32>> {
    let output = common::run(here, &format!("eval logits {model} --tokens {tokens} -o logits.safetensors"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        assert!(said.contains("encoder") || said.contains("no output head"), "{model}: {said}");
        return None;
    }
    let bytes = std::fs::read(here.join("logits.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = file.tensor("logits").unwrap();
    Some(values.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect())
}

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let scale = largest(a.iter().map(|x| x.abs()));
    let error = largest(a.iter().zip(b).map(|(a, b)| (a - b).abs()));
    assert!(error <= 1e-4 * scale, "{what}: {error} of {scale}");
}

fn shape(model: &Path, name: &str) -> Vec<usize> {
    Checkpoint::open(model.to_str().unwrap()).unwrap().source(name).unwrap().shape.clone()
}

/// Each architecture loses a layer, then channels and heads, where its class has settings for them; what is left is verified, and
/// runs.
#[test]
fn every_architecture_becomes_smaller_runs_and_holds() {
    let folder = text_folder();
    let here = folder.path();
    let run = |line: &str, refusals: &[&str]| {
        let output = common::run(here, &format!("prune model {line} {DATA} -o out --overwrite"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            ok(here, "verify out --against model");
            logits(here, "out");
            return true;
        }
        assert!(refusals.iter().any(|words| said.contains(words)), "{line}: {said}");
        false
    };
    let (mut shallow, mut narrow, mut fewer_heads) = (0, 0, 0);
    let models = folders("models");
    for model in &models {
        let copy = with_tokenizer(model, here);
        let layers = |model: &Path| {
            let config = config(model);
            config.get("num_hidden_layers").or(config.get("n_layer")).unwrap().as_u64().unwrap()
        };
        let kind = config(&copy)["model_type"].as_str().unwrap().to_owned();
        let by = if kind == "bert" { "influence" } else { "greedy" };
        if run(&format!("--method depth --layers 1 --set depth.by={by}"), &["by its number"]) {
            assert_eq!(layers(&here.join("out")), layers(&copy) - 1, "{}", model.display());
            shallow += 1;
        }
        let by_width: &[&str] = if kind == "bloom" { &["as four times its width"] } else { &[] };
        narrow += usize::from(run("--method width --set width.ffn=0.5 --set width.multiple=1", by_width));
        let by_heads: &[&str] = match kind.as_str() {
            "bert" | "bloom" | "gpt2" | "gpt_neox" | "opt" => {
                &["the size of a head as its width over its heads"]
            }
            _ => &["a model with one key/value head"],
        };
        fewer_heads += u32::from(run("--method width --set width.heads=0.34", by_heads));
    }
    assert!(shallow >= 32 && fewer_heads >= 5, "{shallow} {fewer_heads}");
    assert_eq!(narrow, models.len() - 1, "all but BLOOM");
}

/// Writes zeros into a matrix of a safetensors file, where `goes` says so of its row and column.
fn zero(bytes: &mut [u8], name: &str, goes: impl Fn(usize, usize) -> bool) {
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let entry = &text[name];
    let [rows, cols] = [0, 1].map(|at| entry["shape"][at].as_u64().unwrap() as usize);
    let [start, end] = [0, 1].map(|at| 8 + header + entry["data_offsets"][at].as_u64().unwrap() as usize);
    for (index, value) in bytes[start..end].chunks_mut((end - start) / rows / cols).enumerate() {
        if goes(index / cols, index % cols) {
            value.fill(0);
        }
    }
}

/// The first surgery that an output's recipe says.
fn surgery(model: &Path) -> toml::Table {
    let recipe = Checkpoint::open(model.to_str().unwrap()).unwrap().metadata["llmc.recipe"].clone();
    recipe.parse::<toml::Table>().unwrap()["surgery"][0].as_table().unwrap().clone()
}

/// What is cut out computes as what is set to zero, and what is left of depth as the layers one after the other.
#[test]
fn what_goes_is_what_would_be_zero() {
    let folder = text_folder();
    let here = folder.path();
    let model = with_tokenizer(&fixture("models/qwen3"), here);
    let set = "--set width.ffn=20 --set width.heads=3 --set width.multiple=1 --set width.correct=false";
    ok(here, &format!("prune model --method width {set} {DATA} -o narrow"));
    let surgery = surgery(&here.join("narrow"));
    let kept = |key: &str, layer: usize| numbers(surgery[key][layer].as_str().unwrap());
    // The columns of the linears behind what goes become zero in a copy of the file.
    let path = model.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    for layer in 0..2 {
        let channels = kept("channels", layer);
        let down = format!("model.layers.{layer}.mlp.down_proj.weight");
        zero(&mut bytes, &down, |_, col| !channels.contains(&col));
        let kv_heads = kept("kv_heads", layer);
        // Two key/value heads of three query heads of 14 columns each.
        let output = format!("model.layers.{layer}.self_attn.o_proj.weight");
        zero(&mut bytes, &output, |_, col| !kv_heads.contains(&(col / 42)));
        assert_eq!((channels.len(), kv_heads.len()), (20, 1));
    }
    let narrow = logits(here, "narrow").unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_close(&logits(here, "model").unwrap(), &narrow, "zeros against cuts");
    assert_eq!(shape(&here.join("narrow"), "model.layers.1.mlp.up_proj.weight"), [20, 36]);
    assert_eq!(shape(&here.join("narrow"), "model.layers.1.self_attn.o_proj.weight"), [36, 42]);
    let config = config(&here.join("narrow"));
    let expected =
        [("intermediate_size", 20), ("num_attention_heads", 3), ("num_key_value_heads", 1), ("head_dim", 14)];
    expected.iter().for_each(|(key, value)| assert_eq!(config[*key], *value, "{key}"));
}

#[test]
fn corrected_weights_lose_less_and_are_held_by_their_record() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    let line = |more: &str| {
        format!(
            "prune {model} --method width --set width.ffn=0.5 --set width.multiple=8 {more} \
             --data text.txt --samples 60 --seq-len 32 --overwrite -o out"
        )
    };
    let distance = |more: &str| {
        ok(here, &line(more));
        ok(here, &format!("verify out --against {model}"));
        let score =
            format!("eval perplexity out --against {model} --data text.txt --ctx 64 --chunks 8 --json");
        json(here, &score)["against"]["kld"]["mean"]["value"].as_f64().unwrap()
    };
    let (plain, corrected) = (distance("--set width.correct=false"), distance(""));
    assert!(corrected < plain, "{corrected} {plain}");
    assert!(!here.join("out.cut-0").exists());
    let path = here.join("out/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let offset = text["model.layers.0.mlp.down_proj.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + offset] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let output = common::run(here, &format!("verify out --against {model}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(3) && said.contains("down_proj"), "{said}");
}

#[test]
fn experts_go_with_their_rows_of_the_router() {
    let folder = text_folder();
    let here = folder.path();
    for (name, key, keep) in [
        ("models/mixtral", "num_local_experts", 3),
        ("models/olmoe-norm", "num_experts", 3),
        ("models/qwen2_moe", "num_experts", 2),
        ("models/qwen3_moe", "num_local_experts", 4),
    ] {
        let model = with_tokenizer(&fixture(name), here);
        for by in ["reap", "frequency"] {
            let set = format!("--set experts.keep={keep} --set experts.by={by}");
            ok(here, &format!("prune model --method experts {set} {DATA} -o out --overwrite"));
            ok(here, "verify out --against model");
            let found = config(&here.join("out"));
            assert_eq!(found.get(key).unwrap_or(&found["num_experts"]), &json!(keep), "{name}");
            assert!(logits(here, "out").is_some());
        }
        let said = fails(here, &format!("prune model --method experts --set experts.keep=1 {DATA} -o x"), 2);
        assert!(said.contains("1 experts would stay"), "{said}");
        drop(model);
    }
}

/// Tokens that stay have the logits that they had, under new numbers; the text becomes the same tokens.
#[test]
fn tokens_that_a_text_never_uses_go() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    ok(here, &format!("prune {model} --method vocabulary --set vocabulary.multiple=8 {DATA} -o out"));
    ok(here, &format!("verify out --against {model}"));
    let recipe =
        Checkpoint::open(here.join("out").to_str().unwrap()).unwrap().metadata["llmc.recipe"].clone();
    let kept = numbers(recipe.parse::<toml::Table>().unwrap()["surgery"][0]["vocabulary"].as_str().unwrap());
    assert!(kept.len() < 400 && kept.len().is_multiple_of(8), "{}", kept.len());
    assert_eq!(config(&here.join("out"))["vocab_size"], kept.len());
    let tokens = |ids: &[usize]| ids.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let (old, new) =
        (logits_of(here, &model, &tokens(&kept[40..46])), logits_of(here, "out", "40,41,42,43,44,45"));
    let (old, new) = (old.unwrap(), new.unwrap());
    let picked: Vec<f32> = old.chunks(512).flat_map(|row| kept.iter().map(|id| row[*id])).collect();
    assert_close(&picked, &new, "logits of the tokens that stay");
    let tokens_of = |model: &str| {
        json(here, &format!("eval perplexity {model} --data text.txt --ctx 64 --json"))["tokens"].clone()
    };
    assert_eq!(tokens_of(&model), tokens_of("out"));
    ok(here, "convert out -o out.gguf");
    assert_close(&new, &logits_of(here, "out.gguf", "40,41,42,43,44,45").unwrap(), "GGUF");
    let set = "--set vocabulary.multiple=8 --set depth.layers=1 --scheme w4a16 --group-size 16";
    ok(here, &format!("quantize {model} --method vocabulary,depth,gptq {set} {DATA} -o four"));
    ok(here, &format!("verify four --against {model}"));
    std::fs::write(here.join("cut.toml"), "format = \"dense\"\n[[surgery]]\nvocabulary = \"5-300\"\n")
        .unwrap();
    let said = fails(here, &format!("run cut.toml --model {model} -o x"), 2);
    assert!(said.contains("would lose token 0"), "{said}");
}

/// Of a GGUF, settings and tokenizer pass through, but for what is cut.
#[test]
fn a_gguf_is_cut_into_a_gguf() {
    let folder = text_folder();
    let here = folder.path();
    ok(here, &format!("convert {} -o whole.gguf", fixture("tiny-llama").display()));
    for (method, set) in
        [("depth", "--layers 1"), ("width", ""), ("vocabulary", "--set vocabulary.multiple=8")]
    {
        ok(here, &format!("prune whole.gguf --method {method} {set} {DATA} -o out.gguf --overwrite"));
        ok(here, &format!("prune whole.gguf --method {method} {set} {DATA} -o out --overwrite"));
        ok(here, "verify out.gguf --against whole.gguf");
        let (gguf, folder) = (logits(here, "out.gguf").unwrap(), logits(here, "out").unwrap());
        assert_close(&folder, &gguf, method);
        let tokens = |model: &str| ok(here, &format!("generate {model} --prompt abc -n 4"));
        assert_eq!(tokens("out.gguf"), tokens("out"), "{method}");
    }
}

/// GGUF has no place for the kind of each layer, and its readers count; a recipe has none for corrected weights.
#[test]
fn what_would_be_another_model_is_refused() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("models/gemma3").display().to_string();
    let cut = |layers: &str, format: &str| {
        std::fs::write(
            here.join("cut.toml"),
            format!("format = \"{format}\"\n[[surgery]]\nlayers = \"{layers}\"\n"),
        )
        .unwrap();
        let out = if format == "gguf" { "out.gguf" } else { "out" };
        common::run(here, &format!("run cut.toml --model {model} -o {out} --overwrite"))
    };
    assert!(cut("0,2-3", "dense").status.success());
    assert_eq!(config(&here.join("out"))["layer_types"].as_array().unwrap().len(), 3);
    let refused = cut("0,2-3", "gguf");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("by their numbers"), "{said}");
    let model = fixture("tiny-llama").display().to_string();
    ok(here, &format!("prune {model} --method depth --layers 1 {DATA} -o corrected"));
    let written = Checkpoint::open(here.join("corrected").to_str().unwrap()).unwrap();
    let recipe = &written.metadata["llmc.recipe"];
    std::fs::write(here.join("again.toml"), recipe).unwrap();
    if recipe.contains("corrected") {
        let said = fails(here, &format!("run again.toml --model {model} -o again"), 2);
        assert!(said.contains("corrected weights"), "{said}");
    }
    std::fs::write(here.join("path.toml"), "[[surgery]]\nmethod = \"../x\"\nlayers = \"0\"\n").unwrap();
    let said = fails(here, &format!("run path.toml --model {model} -o again"), 2);
    assert!(said.contains("method of a surgery"), "{said}");
}

/// Ways to a size are tried, and the best is carried out.
#[test]
fn a_size_is_reached_in_the_best_of_a_few_ways() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    let line = format!("prune {model} --target-params 0.6 {DATA} -o out");
    let output = common::run(here, &line);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let tried: Vec<f64> = said
        .lines()
        .filter(|line| line.contains("tried: "))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(tried.len() >= 2, "{said}");
    let weights = |model: &str| {
        let checkpoint = Checkpoint::open(model).unwrap();
        checkpoint.tensors.values().map(|source| source.shape.iter().product::<usize>()).sum::<usize>()
    };
    let share = weights(here.join("out").to_str().unwrap()) as f64 / weights(&model) as f64;
    assert!(share <= 0.6 && share > 0.4, "{share}");
    ok(here, &format!("verify out --against {model}"));
    assert_eq!(std::fs::read_dir(here).unwrap().count(), 2, "{said}");
    let said = fails(here, &format!("prune {model} --target-params 0.05 {DATA} -o x"), 2);
    assert!(said.contains("leaves 0.05 of the weights"), "{said}");
    let said = fails(here, &format!("prune {model} --target-params 1.2 {DATA} -o x"), 2);
    assert!(said.contains("give a share of the weights"), "{said}");
}

#[test]
fn stages_follow_in_one_run_and_one_recipe() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    let line = format!(
        "quantize {model} --scheme w4a16 --group-size 16 --method depth,width,sparsegpt,gptq --set depth.layers=1 \
         --set width.ffn=0.5 --set width.hidden=0.5 --set width.multiple=16 --set sparsegpt.pattern=2:4 {DATA}"
    );
    let record = json(here, &format!("{line} -o out --json"));
    assert_eq!(record["method"], "depth, width, sparsegpt, gptq");
    ok(here, &format!("verify out --against {model}"));
    with_tokenizer(&fixture("models/qwen3"), here);
    let set = "--layers 1 --set width.heads=3 --set width.ffn=20 --set width.multiple=1";
    ok(here, &format!("prune model --method depth,width {set} {DATA} -o small"));
    std::fs::remove_file(here.join("small/tokenizer.json")).unwrap();
    ok(here, "convert small -o small.gguf");
    let folder = logits(here, "small").unwrap();
    assert_close(&folder, &logits(here, "small.gguf").unwrap(), "GGUF against the folder");
    let said = ok(here, &format!("prune {model} --method depth --layers 1 {DATA} --dry-run"));
    assert!(said.contains("1 of 2 layers") && said.contains("weights"), "{said}");
}

#[test]
fn a_stopped_run_ends_with_the_same_bytes() {
    for (model, method, set) in [
        ("tiny-llama", "width", "--set width.ffn=0.5 --set width.multiple=16"),
        ("tiny-qwen3-moe", "width", "--set width.ffn=0.5 --set width.multiple=16"),
        ("tiny-llama", "depth", "--layers 1 --set depth.by=influence"),
        ("tiny-llama", "width,sparsegpt", "--set width.ffn=0.5 --set width.multiple=16"),
    ] {
        let model = fixture(model).display().to_string();
        let (whole, stopped) = (text_folder(), text_folder());
        let line = format!("prune {model} --method {method} {set} {DATA} -o out");
        ok(whole.path(), &line);
        interrupted_at(stopped.path(), &line, "block 0 done", 1, Signal::Kill);
        interrupted_at(stopped.path(), &line, "block 1 done", 1, Signal::Kill);
        interrupted_at(stopped.path(), &line, "publish", 1, Signal::Kill);
        ok(stopped.path(), &line);
        assert_same(&whole.path().join("out"), &stopped.path().join("out"));
        let left: Vec<_> =
            std::fs::read_dir(stopped.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}

/// A recipe may say what stays, without any text.
#[test]
fn a_recipe_can_say_what_stays() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    std::fs::write(
        here.join("cut.toml"),
        "format = \"dense\"\n[[surgery]]\nlayers = \"1\"\nhidden = \"0-39\"\n",
    )
    .unwrap();
    ok(here, &format!("run cut.toml --model {model} -o out"));
    ok(here, &format!("verify out --against {model}"));
    assert_eq!(config(&here.join("out"))["num_hidden_layers"], 1);
    let whole = Checkpoint::open(&model).unwrap();
    let cut = Checkpoint::open(here.join("out").to_str().unwrap()).unwrap();
    let read = |checkpoint: &Checkpoint, name: &str| {
        let source = checkpoint.source(name).unwrap();
        let [rows, cols] = source.rows_cols();
        let mut values = vec![0.0; rows * cols];
        checkpoint.read_rows(source, 0..rows, &mut values).unwrap();
        (values, cols)
    };
    let (found, cols) = read(&cut, "model.layers.0.mlp.up_proj.weight");
    let (before, all) = read(&whole, "model.layers.1.mlp.up_proj.weight");
    assert_eq!(cols, 40);
    found.chunks(cols).zip(before.chunks(all)).for_each(|(found, before)| assert_eq!(found, &before[..40]));
    for (surgery, words) in [
        ("layers = \"2\"", "layers 2, of a model that has 2"),
        ("layers = \"\"", "no layers stay"),
        ("layers = \"1-0\"", "expected ascending numbers"),
        ("channels = [\"0-7\", \"0-15\"]", "differ in number"),
        ("channels = [\"0-7\"]", "name them for each layer"),
        ("experts = [\"0\", \"0\"]", "have experts"),
        ("expert_channels = [[\"0\"], [\"0\"]]", "of a model without any"),
        ("channels = [\"0-7\", \"0-9999999\"]", "expected ascending numbers"),
        ("layer = \"0\"", "did you mean layers?"),
    ] {
        std::fs::write(here.join("wrong.toml"), format!("format = \"dense\"\n[[surgery]]\n{surgery}\n"))
            .unwrap();
        let output = common::run(here, &format!("run wrong.toml --model {model} -o x"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{surgery}: {said}");
    }
}

#[test]
fn impossible_requests_are_errors_before_any_work() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    let check = |flags: &str, words: &str| {
        let output = common::run(here, &format!("prune {model} {flags} {DATA} -o out"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{flags}: {said}");
        assert!(std::fs::read_dir(here).unwrap().count() == 1, "{flags}");
    };
    check("--method depth --layers 2", "none of 2 layers would stay");
    check("--method depth --layers 9", "none of 2 layers would stay");
    check("--method depth --layers 0", "layers is 0");
    check("--method depth --set depth.keep=3", "3 layers would stay, of a model that has 2");
    check("--method depth --set depth.keep=1.5", "give a share between 0 and 1");
    check("--method depth --layers 1 --set depth.keep=1", "give one of them");
    check("--method depth --set depth.by=best", "greedy");
    check("--method width --set width.heads=3", "a model with one key/value head");
    check("--method width --set width.ffn=0", "give a share between 0 and 1");
    check("--method width --set width.ffn=100000", "all 512 channels would stay");
    check("--method experts", "no experts");
    check("--method sparsegpt,depth --layers 1", "put depth in front");
    check("--method width --layers 1", "--layers without a method that takes it");
    check("--method depth --layers 1 --sparsity 0.5", "--sparsity without a method that takes it");
    let said = fails(here, &format!("prune {model} --method depth --layers 1 -o out"), 2);
    assert!(said.contains("needs text"), "{said}");
    ok(here, &format!("quantize {model} --scheme w8a16 -o eight"));
    let said = fails(here, &format!("prune eight --method depth --layers 1 {DATA} -o out"), 1);
    assert!(said.contains("quantized already"), "{said}");
}

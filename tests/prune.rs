//! Pruned models, from outside: every method and pattern on every architecture, later stages that keep the zeros, runs that are
//! stopped, and requests that cannot be met.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Signal, assert_same, fails, fixture, folders, interrupted_at, json, ok, text_folder};
use llmc::io::Checkpoint;

const METHODS: [&str; 5] = ["magnitude", "wanda", "ria", "sparsegpt", "alps"];

/// The flags of the calibration text, for methods that take it.
fn data(method: &str) -> &'static str {
    if method == "magnitude" { "" } else { "--data text.txt --samples 8 --seq-len 32" }
}

/// The values of a tensor, and its columns.
fn values(model: &Path, name: &str) -> (Vec<f32>, usize) {
    let checkpoint = Checkpoint::open(model.to_str().unwrap()).unwrap();
    let source = checkpoint.source(name).unwrap();
    let [rows, cols] = source.rows_cols();
    let mut values = vec![0.0; rows * cols];
    checkpoint.read_rows(source, 0..rows, &mut values).unwrap();
    (values, cols)
}

/// The zeros of each group of columns.
fn zeros(values: &[f32], group: usize) -> Vec<usize> {
    values.chunks(group).map(|group| group.iter().filter(|value| **value == 0.0).count()).collect()
}

#[test]
fn every_method_makes_the_zeros_that_were_asked_for() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    for method in METHODS {
        let line = |flags: &str, out: &str| {
            format!("prune {model} --method {method} {flags} {} -o {out} --overwrite --json", data(method))
        };
        let record = json(here, &line("--sparsity 0.5", "half"));
        assert_eq!(record["method"], method);
        assert!(record["blocks"][0]["linears"][0]["relative_error"].as_f64().unwrap() > 0.0);
        let (found, cols) = values(&here.join("half"), "model.layers.1.mlp.down_proj.weight");
        let total: usize = zeros(&found, cols).iter().sum();
        assert_eq!(total, found.len() / 2, "{method}");
        assert!(found.iter().all(|value| *value != 0.0 || value.is_sign_positive()), "{method}");
        ok(here, &line("--pattern 2:4", "pairs"));
        let (found, _) = values(&here.join("pairs"), "model.layers.0.self_attn.q_proj.weight");
        assert!(zeros(&found, 4).iter().all(|zeros| *zeros == 2), "{method}");
        let (found, _) = values(&here.join("pairs"), "model.embed_tokens.weight");
        assert!(
            found.iter().any(|value| *value != 0.0)
                && found == values(Path::new(&model), "model.embed_tokens.weight").0
        );
        let said = ok(here, &format!("verify pairs --against {model}"));
        assert!(said.contains("2:4 zeros"), "{said}");
    }
}

#[test]
fn the_last_linear_of_a_block_makes_up_for_what_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let mut state = 1_u64;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + ((state >> 33) % 23) as u8)
    };
    std::fs::write(here.join("text.txt"), (0..30_000).map(|_| letter()).collect::<String>()).unwrap();
    let model = fixture("tiny-llama").display().to_string();
    for method in ["sparsegpt", "alps"] {
        let loss = |correct: bool| {
            let flags = format!("--set {method}.correct={correct} --data text.txt --samples 64 --seq-len 64");
            ok(here, &format!("prune {model} --method {method} --sparsity 0.7 {flags} -o out --overwrite"));
            ok(here, &format!("verify out --against {model}"));
            let flags = "--data text.txt --ctx 64 --chunks 64 --json";
            let scores = json(here, &format!("eval perplexity out --against {model} {flags}"));
            scores["against"]["kld"]["mean"]["value"].as_f64().unwrap()
        };
        let [with, without] = [true, false].map(loss);
        assert!(with < 0.95 * without, "{method}: {with} {without}");
    }
}

#[test]
fn verification_finds_a_zero_that_is_missing() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    for (method, word) in [("magnitude", "zeros"), ("wanda", "recorded")] {
        ok(
            here,
            &format!("prune {model} --method {method} --pattern 2:4 {} -o out --overwrite", data(method)),
        );
        ok(here, &format!("verify out --against {model}"));
        let path = here.join("out/model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let text: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let offsets = &text["model.layers.0.mlp.up_proj.weight"]["data_offsets"];
        let [start, end] = [0, 1].map(|at| 8 + header + offsets[at].as_u64().unwrap() as usize);
        let zero = (start..end).step_by(2).find(|at| bytes[*at..*at + 2] == [0, 0]).unwrap();
        bytes[zero + 1] = 0x3c;
        std::fs::write(&path, &bytes).unwrap();
        let output = common::run(here, &format!("verify out --against {model}"));
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(word) && said.contains("up_proj"), "{said}");
        let alone = common::run(here, "verify out");
        let said = String::from_utf8_lossy(&alone.stdout).into_owned();
        assert!(alone.status.code() == Some(3) && said.contains("fewer than 2 zeros"), "{said}");
    }
}

#[test]
fn every_architecture_is_pruned_runs_and_holds() {
    let folder = text_folder();
    let here = folder.path();
    for model in folders("models") {
        let name = model.display().to_string();
        if name.contains("gpt2") {
            // Its matrices are stored the other way round, and no method works on them.
            let said = fails(here, &format!("prune {name} --method magnitude -o out"), 1);
            assert!(said.contains("none of the"), "{said}");
            continue;
        }
        // Some of their matrices have 30 columns.
        ok(here, &format!("prune {name} --method magnitude --pattern 1:2 -o out --overwrite"));
        ok(here, &format!("verify out --against {name}"));
        let logits = common::run(here, "eval logits out --tokens 1,2,3 -o logits.safetensors");
        let said = String::from_utf8_lossy(&logits.stderr).into_owned();
        assert!(
            logits.status.success() || said.contains("no decoder") || said.contains("encoder"),
            "{name}: {said}"
        );
    }
}

#[test]
fn later_stages_keep_the_zeros() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    let stages = [
        ("wanda,rtn", "--scheme w4a16 --group-size 16"),
        ("sparsegpt,rtn", "--scheme w4a16-asym --group-size 16"),
        ("wanda,mse", "--scheme w4a16 --group-size 16"),
        ("wanda,mse", "--scheme w3a16 --asymmetric --group-size 16"),
        ("wanda,hqq", "--scheme w4a16-asym --group-size 16"),
        ("sparsegpt,gptq", "--scheme w4a16 --group-size 16"),
        ("sparsegpt,gptq", "--scheme w4a16-asym --group-size 16"),
        ("sparsegpt,awq", "--scheme w4a16-asym --group-size 16"),
        ("wanda,awq-scale,gptq", "--scheme w4a16 --group-size 16"),
        ("wanda,autoround", "--scheme w4a16-asym --group-size 16 --set autoround.iters=20"),
        ("wanda,smoothquant,rtn", "--scheme w8a8"),
        ("wanda,rtn", "--scheme fp8"),
        ("wanda,rtn", "--scheme nf4"),
        ("wanda,rtn", "--scheme q8_0"),
        ("wanda,mse", "--scheme q4_0"),
        ("wanda,rtn", "--scheme q5_0"),
        ("rotate,sparsegpt,gptq", "--scheme w4a16 --group-size 16"),
        ("sparsegpt,gptq", "--scheme nvfp4"),
        ("sparsegpt,gptq", "--scheme fp8"),
    ];
    for (method, scheme) in stages {
        let gguf = scheme.contains(" q");
        let out = if gguf { "out.gguf" } else { "out" };
        let flags = format!("--method {method} {scheme} {}", data("wanda"));
        let pruning = if method.starts_with("sparsegpt") || method.starts_with("rotate") {
            "sparsegpt"
        } else {
            "wanda"
        };
        let line = format!("quantize {model} {flags} --set {pruning}.pattern=2:4 -o {out} --overwrite");
        ok(here, &line);
        let (found, _) = values(&here.join(out), "model.layers.1.mlp.gate_proj.weight");
        let fewest = zeros(&found, 4).into_iter().min().unwrap();
        assert!(fewest >= 2, "{method} {scheme}: {fewest} zeros of 4");
        ok(here, &format!("verify {out} --against {model}"));
    }
}

#[test]
fn a_stopped_run_ends_with_the_same_bytes() {
    let model = fixture("tiny-llama").display().to_string();
    for method in ["sparsegpt", "magnitude"] {
        let (whole, stopped) = (text_folder(), text_folder());
        let line = format!("prune {model} --method {method} {} -o out", data(method));
        ok(whole.path(), &line);
        interrupted_at(stopped.path(), &line, "block 0 done", 1, Signal::Kill);
        interrupted_at(stopped.path(), &line, "block 1 written", 1, Signal::Kill);
        ok(stopped.path(), &line);
        assert_same(&whole.path().join("out"), &stopped.path().join("out"));
    }
}

#[test]
fn overrides_have_zeros_of_their_own() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    ok(
        here,
        &format!(
            "prune {model} --method magnitude --sparsity 0.25 --override *.down_proj*=2:4 \
             --override *.layers.0.*=0 -o out"
        ),
    );
    let share = |name: &str| {
        let (values, _) = values(&here.join("out"), name);
        zeros(&values, values.len())[0] as f64 / values.len() as f64
    };
    assert_eq!(share("model.layers.1.mlp.up_proj.weight"), 0.25);
    assert_eq!(share("model.layers.1.mlp.down_proj.weight"), 0.5);
    assert_eq!(share("model.layers.0.mlp.up_proj.weight"), 0.0);
    ok(here, &format!("verify out --against {model}"));
    let said = fails(
        here,
        &format!("quantize {model} --bits 4 --set overrides=[{{match=\"*\",sparsity=0.5}}] -o x"),
        2,
    );
    assert!(said.contains("no stage prunes"), "{said}");
}

/// The share of zeros of each block, from one of its linears.
fn shares(model: &Path, linear: &str) -> [f64; 2] {
    [0, 1].map(|block| {
        let (values, _) = values(model, &format!("model.layers.{block}.{linear}.weight"));
        zeros(&values, values.len())[0] as f64 / values.len() as f64
    })
}

/// The recipe in an output's metadata.
fn recipe(model: &Path) -> String {
    Checkpoint::open(model.to_str().unwrap()).unwrap().metadata["llmc.recipe"].clone()
}

#[test]
fn blocks_share_their_zeros_out_by_outliers() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    for method in METHODS {
        let text = data("wanda");
        ok(
            here,
            &format!(
                "prune {model} --method {method} --sparsity 0.6 --allocation owl {text} \
                 --override *.o_proj*=0.25 -o {method}"
            ),
        );
        let out = here.join(method);
        let [first, second] = shares(&out, "mlp.up_proj");
        let off = 1.0 / 64.0; // rows are whole weights
        assert!((first + second - 1.2).abs() < 2.0 * off, "{method}: {first}, {second}");
        assert!(((first - second).abs() - 0.16).abs() < 2.0 * off, "{method}: {first}, {second}");
        assert!(shares(&out, "self_attn.o_proj").iter().all(|share| *share == 0.25), "{method}");
        ok(here, &format!("verify {method} --against {model}"));
        let recipe = recipe(&out);
        let at = |text: &str| recipe.find(text).unwrap_or_else(|| panic!("{method}: no {text} in {recipe}"));
        assert!(at("\"*.o_proj*\"") < at("\"model.layers.0.*\""), "{recipe}");
        assert!(
            at("sparsity = 0.52") > 0 && at("sparsity = 0.68") > 0 && !recipe.contains("owl"),
            "{recipe}"
        );
        // The recipe makes the same weights again, without measuring.
        std::fs::write(here.join("again.toml"), &recipe).unwrap();
        ok(here, &format!("run again.toml --model {model} -o again --overwrite"));
        for name in ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"] {
            assert!(values(&here.join("again"), name) == values(&out, name), "{method}: {name}");
        }
        assert!(!here.join("again.outliers.json").exists());
    }
}

#[test]
fn measured_outliers_are_used_again_and_stopped_runs_end_with_the_same_bytes() {
    let model = fixture("tiny-llama").display().to_string();
    let (whole, stopped) = (text_folder(), text_folder());
    let line = |share: f64| {
        let method = "--method wanda --allocation owl";
        format!("prune {model} {method} --sparsity {share} {} -o out --overwrite", data("wanda"))
    };
    ok(whole.path(), &line(0.5));
    let kept = std::fs::read(whole.path().join("out.outliers.json")).unwrap();
    interrupted_at(stopped.path(), &line(0.5), "block 0 done", 1, Signal::Kill);
    assert!(!stopped.path().join("out.outliers.json").exists(), "stopped while it measures");
    interrupted_at(stopped.path(), &line(0.5), "block 0 done", 1, Signal::Kill);
    assert!(stopped.path().join("out.outliers.json").exists(), "stopped while it prunes");
    ok(stopped.path(), &line(0.5));
    assert_same(&whole.path().join("out"), &stopped.path().join("out"));
    // Another share needs no other measurement.
    ok(whole.path(), &line(0.7));
    assert_eq!(std::fs::read(whole.path().join("out.outliers.json")).unwrap(), kept);
    std::fs::write(whole.path().join("out.outliers.json"), "notes of mine").unwrap();
    assert!(fails(whole.path(), &line(0.7), 2).contains("in the way"));
}

#[test]
fn shares_follow_from_statistics_and_a_dry_run_measures_nothing() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    ok(here, &format!("calibrate {model} --hessian {} -o stats", data("wanda")));
    for method in ["magnitude", "wanda", "sparsegpt"] {
        let line = format!("prune {model} --method {method} --allocation owl");
        ok(here, &format!("{line} {} -o text --overwrite", data("wanda")));
        ok(here, &format!("{line} --stats stats -o known --overwrite"));
        let of = |out: &str| shares(&here.join(out), "mlp.up_proj");
        assert!(of("text") == of("known") && of("text")[0] != of("text")[1], "{method}");
        assert!(!here.join("known.outliers.json").exists(), "{method}");
    }
    let output = common::run(
        here,
        &format!("prune {model} --method wanda --allocation owl {} -o dry --dry-run", data("wanda")),
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("the run itself measures the share"), "{said}");
    assert!(!here.join("dry.outliers.json").exists() && !here.join("dry.outliers.json.partial").exists());
}

#[test]
fn zeros_are_shared_out_in_front_of_codes_in_several_formats() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    ok(
        here,
        &format!(
            "quantize {model} --scheme w4a16 --group-size 16 --method wanda,gptq --set wanda.allocation=owl \
             --override *.down_proj*=w8a16 --format compressed-tensors,gptq {} -o out",
            data("wanda")
        ),
    );
    for format in ["compressed-tensors", "gptq"] {
        let out = here.join("out").join(format);
        ok(here, &format!("verify out/{format} --against {model}"));
        for linear in ["mlp.up_proj", "mlp.down_proj"] {
            let [first, second] = shares(&out, linear);
            assert!((first - second).abs() > 0.1, "{format}, {linear}: {first}, {second}");
        }
    }
}

#[test]
fn statistics_take_the_place_of_text() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    ok(here, &format!("calibrate {model} --hessian {} -o stats", data("wanda")));
    for method in ["wanda", "ria", "sparsegpt", "alps"] {
        ok(here, &format!("prune {model} --method {method} --pattern 2:4 --stats stats -o out --overwrite"));
        let (found, _) = values(&here.join("out"), "model.layers.1.mlp.down_proj.weight");
        assert!(zeros(&found, 4).iter().all(|zeros| *zeros >= 2), "{method}");
    }
}

#[test]
fn zeros_that_a_later_run_would_fill_are_told() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    ok(here, &format!("prune {model} --method magnitude --sparsity 50% -o pruned"));
    let said = |line: &str| String::from_utf8_lossy(&common::run(here, line).stderr).into_owned();
    assert!(said("quantize pruned --scheme q4_1 -o a.gguf").contains("not all of its zeros will stay"));
    let gptq = format!("quantize pruned --scheme w4a16 --group-size 16 --method gptq {} -o b", data("gptq"));
    assert!(said(&gptq).contains("not all of its zeros will stay"));
    assert!(
        !said("quantize pruned --scheme w4a16 --group-size 16 --method rtn -o c").contains("zeros will stay")
    );
    let (found, _) = values(&here.join("c"), "model.layers.1.mlp.up_proj.weight");
    assert!(zeros(&found, found.len())[0] >= found.len() / 2);
}

#[test]
fn impossible_requests_are_errors_before_any_work() {
    let folder = text_folder();
    let here = folder.path();
    let model = fixture("tiny-llama").display().to_string();
    let check = |flags: &str, code: i32, words: &str| {
        let said = fails(here, &format!("prune {model} {flags} -o out"), code);
        assert!(said.contains(words), "{flags}: {said}");
        assert!(!here.join("out").exists() && !here.join("out.partial").exists(), "{flags}");
    };
    for share in ["0", "1", "-0.1", "1.2", "NaN"] {
        check(&format!("--method magnitude --sparsity {share}"), 2, "more than 0 and less than 1");
    }
    check("--method magnitude --pattern 3:2", 2, "3:2");
    check("--method magnitude --pattern 2:4 --sparsity 0.3", 2, "leave one of them out");
    check("--method magnitude --pattern 2:7", 2, "no whole groups of 2:7");
    check("--method magnitude --format gptq", 2, "a format for codes");
    let output = common::run(here, &format!("prune {model} --sparsity half"));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("such as 0.5 or 50%")
            && output.status.code() == Some(2)
    );
    check("--method wanda", 2, "needs text");
    check("--method wonda", 2, "did you mean wanda?");
    check("--method gptq --data text.txt", 2, "gptq prunes nothing");
    check("--method wanda,magnitude --data text.txt", 2, "both set weights to zero");
    check("--method wanda,rotate --data text.txt", 2, "put rotate in front of wanda");
    check("--method magnitude --data text.txt", 2, "does not look at text");
    let owl = "--method wanda --data text.txt --allocation owl";
    check("--method magnitude --allocation owl", 2, "needs text to measure outliers on");
    check(&format!("{owl} --pattern 2:4"), 2, "2:4 has the same share everywhere");
    check(&format!("{owl} --sparsity 0.05"), 2, "more than 0 and less than 1");
    check(&format!("{owl} --sparsity 0.95"), 2, "more than 0 and less than 1");
    check("--method depth --layers 1 --data text.txt --allocation owl", 2, "without a method that takes it");
    check("--method wanda --data text.txt --set wanda.allocation=fair", 2, "owl");
    check("--method magnitude --exclude * ", 1, "pruned by rule");
    let said = fails(
        here,
        &format!("quantize {model} --scheme q4_k --method wanda,rtn --data text.txt -o out.gguf"),
        2,
    );
    assert!(said.contains("no code for zero") || said.contains("q5_0"), "{said}");
    ok(here, &format!("quantize {model} --scheme w8a16 -o eight"));
    let said = fails(here, "prune eight --method magnitude -o out", 1);
    assert!(said.contains("quantized already"), "{said}");
}

//! Statistics that an earlier run has gathered, in the place of text.

use crate::common::{fails, ok, run};
use crate::model::{Model, open, values};

const TEXT: &str = "--data text.txt --samples 6 --seq-len 64";

fn quantized() -> impl Iterator<Item = String> {
    let linears = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"];
    (0..2).flat_map(move |block| linears.map(|linear| format!("model.layers.{block}.{linear}.weight")))
}

#[test]
fn what_needs_no_later_inputs_is_the_same_as_from_text() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    ok(here, &format!("calibrate model {TEXT} --hessian -o stats --imatrix imatrix.gguf"));
    let with = |flags: &str, out: &str| ok(here, &format!("quantize model {flags} -o {out}"));
    // Importance: of the model as it was, either way.
    with(&format!("--scheme q4_0 {TEXT}"), "text.gguf");
    with("--scheme q4_0 --stats stats", "stats.gguf");
    with("--scheme q4_0 --stats imatrix.gguf", "imatrix-made.gguf");
    with("--scheme q4_0", "without.gguf");
    for name in quantized() {
        let [text, stats, imatrix, without] = ["text", "stats", "imatrix-made", "without"]
            .map(|file| values(&open(&here.join(format!("{file}.gguf"))), &name));
        assert!(text == stats, "{name}");
        let same = text.iter().zip(&imatrix).filter(|(a, b)| a == b).count();
        assert!(same * 1000 >= text.len() * 999, "{name}: sums in f32 change next to nothing");
        assert!(text != without, "{name}: importance counts");
    }
    // Hessians: the first linears of the first block read the same inputs either way, later ones what compressed ones made.
    let gptq = "--scheme w4a16 --group-size 32 --method gptq";
    with(&format!("{gptq} {TEXT}"), "text");
    with(&format!("{gptq} --stats stats"), "stats-made");
    let [first, later] = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"];
    for (name, same) in [(first, true), (later, false)] {
        let [text, stats] = ["text", "stats-made"].map(|out| values(&open(&here.join(out)), name));
        assert_eq!(text == stats, same, "{name}");
    }
    ok(here, "verify stats-made --against model");
    ok(here, "quantize model --scheme w8a8 --method smoothquant,rtn --stats stats -o smooth");
}

#[test]
fn linears_that_an_importance_matrix_leaves_out_are_told() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    ok(here, &format!("calibrate model {TEXT} -o stats --imatrix whole.gguf"));
    let mut bytes = std::fs::read(here.join("whole.gguf")).unwrap();
    let renamed = (0..bytes.len() - 6).filter(|at| bytes[*at..].starts_with(b"blk.1.")).collect::<Vec<_>>();
    assert_eq!(renamed.len(), 14, "sums and counts of seven linears");
    renamed.iter().for_each(|at| bytes[at + 4] = b'7');
    std::fs::write(here.join("half.gguf"), bytes).unwrap();
    let told = |stats: &str, out: &str| {
        let output = run(here, &format!("quantize model --scheme q4_0 --stats {stats} -o {out}"));
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let half = told("half.gguf", "half-made.gguf");
    assert!(half.contains("leaves out 7 of 14 linears, which are rounded without"), "{half}");
    assert!(half.contains("model.layers.1.") && !half.contains("model.layers.0."), "{half}");
    assert!(!told("whole.gguf", "whole-made.gguf").contains("leaves out"));
}

#[test]
fn folders_add_up() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    ok(here, &format!("calibrate model {TEXT} -o one"));
    ok(here, &format!("calibrate model {TEXT} --seed 1 -o two"));
    for (flags, out) in
        [("--stats one", "a"), ("--stats one --stats two", "b"), ("--stats one --stats one", "c")]
    {
        ok(here, &format!("quantize model --scheme q4_0 {flags} -o {out}.gguf"));
    }
    let name = "model.layers.1.mlp.down_proj.weight";
    let [a, b, c] = ["a", "b", "c"].map(|file| values(&open(&here.join(format!("{file}.gguf"))), name));
    assert!(a == c, "twice the same weighs the same");
    assert!(a != b);
}

#[test]
fn what_statistics_cannot_tell_is_refused() {
    let folder = Model::of("tiny-llama").folder();
    let here = folder.path();
    ok(here, &format!("calibrate model {TEXT} -o stats --imatrix imatrix.gguf"));
    let check = |flags: &str, code: i32, expected: &str| {
        let stderr =
            fails(here, &format!("quantize model --scheme w4a16 --group-size 32 {flags} -o out"), code);
        assert!(stderr.contains(expected), "{flags}\n{stderr}");
        assert!(!here.join("out").exists() && !here.join("out.partial").exists(), "{flags}");
    };
    check("--stats nowhere", 1, "nowhere");
    check("--stats stats --method gptq", 1, "--hessian");
    check("--stats imatrix.gguf --method gptq", 1, "second moments of columns only");
    check("--stats stats --method autoround", 2, "--data");
    check("--stats stats --method smoothquant,gptq", 2, "after the first stage");
    check("--stats stats --method rotate,mse", 2, "before any of them could be used");
    check("--stats stats --samples 9", 2, "--samples");
    check("--stats stats --min-coverage 3", 2, "--data");
    check("--stats text.txt --method mse", 1, "text.txt");
    Model::of("tiny-llama").edit("model.norm.weight", |values, _| values[0] += 1.0).write(here);
    check("--stats stats --method mse", 1, "of the model");
}

//! Cases that run the model over a text: methods in every scheme and format, chains of them, recipes, statistics, budgets.

use llmc::recipe::SHIPPED;
use llmc::registry::pruning;

use super::{MODELS, folders, formats, is_block, methods, schemes, slug};
use crate::case::Case;
use crate::letters::LETTERS;
use crate::machine::Level;

/// A few short sequences.
const TEXT: &str = "--data fixtures/tokenizer_corpus.txt --samples 3 --seq-len 24";
/// For models of few positions.
const SHORT: &str = "--data fixtures/tokenizer_corpus.txt --samples 3 --seq-len 12";
/// Little training.
const BRIEF: &str = "--set autoround.iters=3";

/// Chains of methods, and their parameters.
const CHAINS: &[&str] = &[
    "--scheme w4a16 --group-size 32 --method awq-scale,gptq",
    "--scheme w4a16 --group-size 32 --method rotate,gptq",
    "--scheme w8a8 --method smoothquant,gptq",
    "--scheme w8a8-static --method smoothquant,gptq",
    "--scheme w4a16-asym --group-size 32 --method gptq,eora",
    "--scheme w4a16 --group-size 32 --method rotate,gptq,eora",
    "--scheme w3a16 --group-size 32 --method gptq,lorc",
    "--scheme w4a16 --group-size 32 --method awq-scale,mse,eora",
    "--scheme w4a16 --group-size 32 --method autoround,eora --set autoround.iters=3",
    "--scheme w4a16 --group-size 32 --method gptq --set gptq.act_order=dynamic --format gptq",
    "--scheme w4a16 --group-size 32 --method gptq --set gptq.act_order=none --set gptq.block_size=16",
    "--scheme w4a16 --group-size 32 --method gptq --set gptq.clip=false --set gptq.damping=0.1",
    "--scheme w4a16 --group-size 32 --method awq --set awq.n_grid=3 --set awq.duo_scaling=false",
    "--scheme w4a16 --group-size 32 --method rotate,mse --set rotate.seed=3 --kv-cache int8",
    "--scheme w4a16 --group-size 32 --method gptq --kv-cache fp8",
    "--scheme fp8-static --kv-cache int8",
    "--scheme w4a16 --group-size 32 --method gptq --override *.v_proj*=w8a16 --exclude *down_proj* --dtype f32",
    "--scheme w4a16 --group-size 32 --method gptq --format compressed-tensors,gptq,gguf",
    "--scheme w8a16 --asymmetric --group-size 32 --method gptq --format gguf,compressed-tensors",
    "--scheme w4a16 --group-size 32 --method gptq --expert-tokens 5 --min-coverage 30",
    "--bits 4 --group-size 32",
];

/// Chains that begin with a pruning stage.
const PRUNED: &[&str] = &[
    "--scheme w4a16 --group-size 32 --method sparsegpt,gptq --set sparsegpt.pattern=2:4",
    "--scheme w4a16-asym --group-size 32 --method wanda,awq-scale,mse",
    "--scheme q4_0 --method wanda,rtn --set wanda.sparsity=0.3",
];

/// Mixed precision.
const BUDGETS: &[&str] = &[
    "--group-size 32 --method rtn --target-bpw 4.9",
    "--group-size 32 --method gptq --target-bpw 5.5 --scheme w4a16-asym",
    "--scheme q4_k --method rtn --target-bpw 6",
    "--group-size 32 --method mse --target-size 145KB --choices w3a16,w4a16,w8a16",
];

/// Texts, and ways to cut them.
const DATA: &[&str] = &[
    "self --samples 3 --seq-len 24",
    "fixtures/text/none.parquet --samples 1 --seq-len 16",
    "fixtures/text/snappy.parquet --samples 3 --seq-len 4",
    "fixtures/tokenizer_corpus.txt --samples 1 --seq-len 24 --no-packing",
    "fixtures/tokenizer_corpus.txt --samples 5 --seq-len 24 --seed 3",
    "0.7*fixtures/tokenizer_corpus.txt --data 0.3*self --samples 6 --seq-len 24",
];

/// Every case of this file.
pub fn cases() -> Vec<Case> {
    let all = methods().flat_map(|method| {
        schemes().flat_map(move |scheme| formats().map(move |format| alone(method, scheme, format)))
    });
    let mut cases: Vec<Case> = all.collect();
    cases.extend(schemes().filter(|scheme| is_block(scheme)).flat_map(weighed));
    for model in &MODELS[..2] {
        cases.extend(CHAINS.iter().map(|flags| quantized("chain", model, flags)));
        cases.extend(PRUNED.iter().map(|flags| quantized("pruned", model, flags)));
        cases.extend(pruning().into_iter().flat_map(|method| pruned(model, method)));
        cases.extend(BUDGETS.iter().map(|flags| quantized("budget", model, flags)));
        cases.extend(SHIPPED.iter().map(|(recipe, _)| shipped(recipe, model)));
        cases.extend(DATA.iter().map(|data| gathered(model, data)));
    }
    cases.extend(MODELS.iter().map(|model| known(model)));
    cases.extend(["dense.gguf", "dense.dat"].map(|file| imatrix("tiny-llama", file)));
    cases.push(imatrix("tiny-qwen3-moe", "experts.gguf"));
    cases.extend(folders("models").iter().flat_map(|model| architecture(model)));
    cases
}

fn case(name: String, lines: &str) -> Case {
    Case::new(Level::Avx2, name, lines)
}

/// A method by itself, or with what it needs before or behind it; on text where it needs that.
fn alone(method: &str, scheme: &str, format: &str) -> Case {
    let (chain, reads) = match method {
        "rtn" | "mse" | "hqq" => (method.to_owned(), false),
        "rotate" => ("rotate,rtn".to_owned(), false),
        "awq-scale" | "smoothquant" => (format!("{method},rtn"), true),
        "lorc" => ("rtn,lorc".to_owned(), false),
        "eora" => ("rtn,eora".to_owned(), true),
        "autoround" => (format!("autoround {BRIEF}"), true),
        other => (other.to_owned(), true),
    };
    let text = if reads || scheme.ends_with("static") { TEXT } else { "" };
    let model = "fixtures/tiny-qwen2-sharded";
    case(
        format!("method/{method}/{scheme}/{format}"),
        &format!("quantize {model} --scheme {scheme} --method {chain} --format {format} {text} -o out"),
    )
}

/// A share of zeros, and a pattern.
fn pruned(model: &str, method: &str) -> [Case; 2] {
    let text = if method == "magnitude" { "" } else { TEXT };
    ["--sparsity 0.4", "--pattern 2:4"].map(|zeros| {
        let line = format!("prune fixtures/{model} --method {method} {zeros} {text} --json -o out");
        case(format!("prune/{model}/{method}/{}", slug(zeros)), &line)
    })
}

/// A block type with the importance of columns.
fn weighed(scheme: &str) -> Vec<Case> {
    let make = |(model, method): (&str, &str)| {
        let line = format!("quantize fixtures/{model} --scheme {scheme} --method {method} {TEXT} -o out");
        case(format!("weighed/{model}/{method}/{scheme}"), &line)
    };
    [("tiny-llama", "rtn"), ("tiny-qwen3-moe", "rtn"), ("tiny-qwen3-moe", "mse")].map(make).into()
}

/// An output and its report.
fn quantized(kind: &str, model: &str, flags: &str) -> Case {
    let plan = format!("plan fixtures/{model} {flags} {TEXT} --threads 2 --json");
    let lines = format!("quantize fixtures/{model} {flags} {TEXT} --json -o out");
    // A plan measures nothing, so it knows no budget.
    let lines = if kind == "budget" { lines } else { format!("{plan}; {lines}") };
    case(format!("{kind}/{model}/{}", slug(flags)), &lines)
}

fn shipped(recipe: &str, model: &str) -> Case {
    let lines = format!(
        "run {recipe} --model fixtures/{model} {TEXT} --json -o out; \
         verify out --against fixtures/{model} --json"
    );
    case(format!("recipe/{model}/{recipe}"), &lines)
}

fn gathered(model: &str, data: &str) -> Case {
    let line = format!("calibrate fixtures/{model} --data {data} --hessian --imatrix i.gguf --json -o stats");
    case(format!("calibrate/{model}/{}", slug(data)), &line)
}

/// Statistics of an earlier run.
fn known(model: &str) -> Case {
    let lines = format!(
        "calibrate fixtures/{model} {TEXT} --hessian --imatrix i.gguf -o stats; \
         quantize fixtures/{model} --scheme w4a16 --group-size 32 --method gptq --stats stats -o gptq; \
         quantize fixtures/{model} --scheme w8a8 --method smoothquant,rtn --stats stats -o smooth; \
         quantize fixtures/{model} --scheme q4_0 --stats i.gguf -o q4_0.gguf"
    );
    case(format!("stats/{model}"), &lines)
}

/// An importance matrix that another program has written.
fn imatrix(model: &str, file: &str) -> Case {
    let line = format!("quantize fixtures/{model} --scheme q4_0 --stats fixtures/imatrix/{file} -o out");
    case(format!("imatrix/{file}"), &line)
}

/// Methods on an architecture: its blocks are read, folded, rotated, trained and measured.
fn architecture(model: &str) -> Vec<Case> {
    let path = format!("{LETTERS}/{model}");
    let int4 = format!("quantize {path} --scheme w4a16 --group-size 32");
    let named = |what: &str, lines: &str| case(format!("architecture/{model}/{what}"), lines);
    vec![
        named("calibrate", &format!("calibrate {path} {SHORT} --hessian --json -o stats")),
        named("imatrix", &format!("calibrate {path} {SHORT} -o i.gguf")),
        named("rotate", &format!("{int4} --method rotate,rtn -o out")),
        named("awq-gptq", &format!("{int4} --method awq-scale,gptq {SHORT} -o out")),
        named(
            "smoothquant",
            &format!("quantize {path} --scheme w8a8 --method smoothquant,rtn {SHORT} -o out"),
        ),
        named("autoround-eora", &format!("{int4} --method autoround,eora {BRIEF} {SHORT} -o out")),
        named("static", &format!("quantize {path} --scheme fp8-static --kv-cache fp8 {SHORT} -o out")),
        named("budget", &format!("{int4} --target-bpw 6 {SHORT} --method rtn -o out")),
    ]
}

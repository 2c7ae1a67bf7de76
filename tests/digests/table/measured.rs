//! Cases that run a model: logits, perplexity, tasks, embeddings, generated text. The first two at every level.

use super::{MODELS, folders, is_block, schemes, slug};
use crate::case::Case;
use crate::letters::LETTERS;
use crate::machine::Level;

const TEXT: &str = "--data fixtures/tokenizer_corpus.txt";

/// Ways to generate.
const GENERATED: &[&str] = &[
    "-p capital -n 24 --json",
    "-p capital -n 24 --activations f32",
    "-p capital -n 24 --chat --system Short.",
    "-p a -n 24 --temperature 1 --top-p 0.95 --top-k 50 --seed 1",
    "-p a -n 24 --temperature 0.7 --seed 2 --stop e",
];

/// Ways to measure perplexity.
const PERPLEXITIES: &[&str] = &[
    "--ctx 64 --chunks 4",
    "--ctx 64 --chunks 4 --activations f32 --per-position p.safetensors",
    "--protocol hf --ctx 50 --stride 30 --batch 3",
];

/// Every case of this file.
pub fn cases() -> Vec<Case> {
    let levels = [Level::Plain, Level::Avx2, Level::Avx512, Level::Best];
    let mut cases: Vec<Case> = levels.into_iter().flat_map(at_each_level).collect();
    for model in MODELS {
        cases.extend(PERPLEXITIES.iter().map(|flags| perplexity(model, flags)));
        cases.extend(GENERATED.iter().map(|flags| generated(model, flags)));
        cases.push(beside_base(model));
        cases.push(adapted(model));
    }
    cases.extend(tasks());
    cases.extend(folders("models").iter().map(|model| embeddings(model)));
    cases
}

/// Tokens in the vocabulary of every fixture.
fn tokens(count: usize) -> String {
    let ids: Vec<String> = (1..=count).map(|id| (id * 7 % 90 + 1).to_string()).collect();
    ids.join(",")
}

/// Logits of each architecture and of each scheme, with both roundings of inputs.
fn at_each_level(level: Level) -> Vec<Case> {
    let dense = folders("models").into_iter().map(|model| {
        let lines = logits(&format!("fixtures/models/{model}"), 12);
        Case::new(level, format!("logits/{model}"), &lines)
    });
    // The last model has rows that blocks of 256 fit in.
    let packed = MODELS.iter().flat_map(move |model| {
        let kept = move |scheme: &&str| match (level, *model) {
            (_, "tiny-qwen3-moe") | (Level::Best, _) => true,
            (Level::Avx2, "tiny-llama") => is_block(scheme),
            _ => false,
        };
        schemes().filter(kept).map(move |scheme| quantized(level, model, scheme))
    });
    dense.chain(packed).collect()
}

fn logits(model: &str, count: usize) -> String {
    format!(
        "eval logits {model} --tokens {0} -o auto.safetensors; \
         eval logits {model} --tokens {0} -o f32.safetensors --activations f32",
        tokens(count)
    )
}

/// Logits of a quantized model.
fn quantized(level: Level, model: &str, scheme: &str) -> Case {
    let text = format!("{TEXT} --samples 2 --seq-len 12");
    let text = if scheme.ends_with("static") { text.as_str() } else { "" };
    let lines = format!("quantize fixtures/{model} --scheme {scheme} {text} -o out; {}", logits("out", 19));
    Case::new(level, format!("logits/{model}/{scheme}"), &lines)
}

fn perplexity(model: &str, flags: &str) -> Case {
    let line = format!("eval perplexity fixtures/{model} {TEXT} {flags} --json");
    Case::new(Level::Avx2, format!("perplexity/{model}/{}", slug(flags)), &line)
}

fn generated(model: &str, flags: &str) -> Case {
    Case::new(
        Level::Avx2,
        format!("generate/{model}/{}", slug(flags)),
        &format!("generate fixtures/{model} {flags}"),
    )
}

/// A model of 4 bits beside its base, in both precisions of the base.
fn beside_base(model: &str) -> Case {
    let measured =
        format!("eval perplexity out {TEXT} --ctx 64 --chunks 3 --against fixtures/{model} --json");
    let lines = format!(
        "quantize fixtures/{model} --scheme w4a16 --group-size 32 -o out; {measured} --base-cache cache --base-precision f32; \
         {measured} --no-base-cache --base-precision 16bit; generate out -p capital -n 12"
    );
    Case::new(Level::Avx2, format!("against/{model}"), &lines)
}

/// A model with an adapter.
fn adapted(model: &str) -> Case {
    let lines = format!(
        "quantize fixtures/{model} --scheme w4a16 --group-size 32 --method rtn,lorc -o out; \
         eval perplexity out {TEXT} --ctx 64 --chunks 3 --adapter out/adapter --json"
    );
    Case::new(Level::Avx2, format!("adapter/{model}"), &lines)
}

/// All tasks that there are rows of.
fn tasks() -> Vec<Case> {
    let named = [
        "hellaswag",
        "arc_easy",
        "arc_challenge",
        "piqa",
        "winogrande",
        "mmlu_high_school_physics",
        "gsm8k",
        "ceval-valid_law",
        "cmmlu_agronomy",
        "truthfulqa_mc1",
        "truthfulqa_mc2",
        "toxigen",
    ];
    let case = |task: &str| {
        let line = format!(
            "eval tasks fixtures/tiny-llama --tasks {task} --data fixtures/tasks --limit 2 --fewshot 1 --json \
             --samples samples.jsonl"
        );
        Case::new(Level::Avx2, format!("task/{task}"), &line)
    };
    named.map(case).into()
}

fn embeddings(model: &str) -> Case {
    let lines = format!(
        "quantize {LETTERS}/{model} --scheme w8a8 -o out; \
         eval embeddings out --against {LETTERS}/{model} {TEXT} --limit 6 --json"
    );
    Case::new(Level::Avx2, format!("embeddings/{model}"), &lines)
}

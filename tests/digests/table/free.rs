//! Cases without calibration: rounding to nearest in every scheme and format, plans, conversions, what is read back.

use super::{MODELS, folders, formats, is_block, schemes, slug};
use crate::case::Case;
use crate::machine::Level;

/// Choices of a recipe, one or several at a time.
const FLAGS: &[&str] = &[
    "--bits 2",
    "--bits 3",
    "--bits 4",
    "--bits 5",
    "--bits 6",
    "--bits 8",
    "--bits 4 --asymmetric --group-size 16",
    "--scheme w4a16 --group-size 0 --dtype f32",
    "--scheme w8a8 --include *embed* --dtype f16",
    "--scheme w4a16 --group-size 32 --override *down_proj*=w8a16 --override *.0.*=dense",
    "--scheme w4a16 --group-size 32 --exclude *self_attn* --format gptq-v2",
    "--scheme w4a16-asym --group-size 32 --format awq,gptq-v2,compressed-tensors,dense",
    "--scheme w4a16 --group-size 32 --max-shard-size 100KB",
    "--scheme q4_k --override *v_proj*=q6_k --dtype f16",
    "--scheme q4_k --override *v_proj*=q6_k --strict",
    "--scheme fp8-block --format dense --max-shard-size 100KB",
];

/// Every case of this file.
pub fn cases() -> Vec<Case> {
    let rounded = MODELS[1..].iter().flat_map(|model| {
        schemes().flat_map(move |scheme| formats().map(move |format| rounded(model, scheme, format)))
    });
    let chosen = MODELS.iter().flat_map(|model| FLAGS.iter().map(|flags| chosen(model, flags)));
    let blocks = schemes().filter(|scheme| is_block(scheme)).map(back_from_blocks);
    let models = folders("models").into_iter().flat_map(|model| architecture(&model));
    let tiny = MODELS.iter().map(|model| there_and_back(model));
    let quantized = folders("quantized").into_iter().flat_map(|model| quantized(&model));
    rounded.chain(chosen).chain(blocks).chain(models).chain(tiny).chain(quantized).collect()
}

fn case(name: String, lines: &str) -> Case {
    Case::new(Level::Any, name, lines)
}

/// Rounded to nearest, its plan, its report, and what `verify` finds.
fn rounded(model: &str, scheme: &str, format: &str) -> Case {
    let flags = format!("fixtures/{model} --scheme {scheme} --format {format}");
    case(
        format!("rtn/{model}/{scheme}/{format}"),
        &format!(
            "plan {flags} --threads 2 --json; quantize {flags} --json -o out; \
             verify out --against fixtures/{model} --json"
        ),
    )
}

fn chosen(model: &str, flags: &str) -> Case {
    let lines =
        format!("plan fixtures/{model} {flags} --threads 2 --json; quantize fixtures/{model} {flags} -o out");
    case(format!("flags/{model}/{}", slug(flags)), &lines)
}

/// A GGUF of a block type, dequantized and read.
fn back_from_blocks(scheme: &str) -> Case {
    let lines = format!(
        "quantize fixtures/tiny-llama --scheme {scheme} -o q.gguf; inspect q.gguf --json; \
         convert q.gguf --dtype f32 -o back"
    );
    case(format!("back/{scheme}"), &lines)
}

/// Into GGUF and back.
fn there_and_back(model: &str) -> Case {
    let path = format!("fixtures/{model}");
    let lines = format!(
        "inspect {path} --json; convert {path} -o out.gguf; inspect out.gguf --json; \
         convert out.gguf -o back; verify back --json"
    );
    case(format!("gguf/{model}"), &lines)
}

/// The fixtures of an architecture.
fn architecture(model: &str) -> Vec<Case> {
    let path = format!("fixtures/models/{model}");
    let named = |what: &str, lines: &str| case(format!("{what}/models/{model}"), lines);
    vec![
        named("inspect", &format!("inspect {path} --json")),
        named("int4", &format!("quantize {path} --scheme w4a16 --group-size 32 --json -o out")),
        named("fp8", &format!("quantize {path} --scheme fp8 --json -o out")),
        named("dense", &format!("convert {path} --dtype bf16 -o out")),
        named(
            "gguf",
            &format!("convert {path} -o out.gguf; inspect out.gguf --json; convert out.gguf -o back"),
        ),
    ]
}

/// A checkpoint that another program has quantized.
fn quantized(model: &str) -> Vec<Case> {
    let path = format!("fixtures/quantized/{model}");
    let named = |what: &str, lines: &str| case(format!("{what}/quantized/{model}"), lines);
    vec![
        named("inspect", &format!("inspect {path} --json; verify {path} --json")),
        named("dense", &format!("convert {path} --dtype f32 -o out")),
        named("again", &format!("quantize {path} --dequantize --scheme w8a16 -o out")),
    ]
}

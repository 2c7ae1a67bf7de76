//! Rewritings of a model's weights that must leave what it computes as it was, over every architecture of
//! `fixtures/models`.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod model;

use std::sync::Arc;

use common::largest;
use llmc::model::{BlockLayout, Feeder, Fold, LinearPlace};
use llmc::numerics::random::SplitMix64;
use llmc::numerics::{Granularity, ScaleType, Scheme};
use llmc::quant::{awq, rotate, rtn, scaling, smoothquant};
use llmc::stage::{Block, BlockLinear, Def, Editor, Rewrite, Stage, quantize_linear, relative_error};
use llmc::statistics::{Needs, Statistics};
use model::{Model, folders};
use ndarray::Array2;

/// The largest distance between logits of two models that should be the same.
const TOLERANCE: f64 = 1e-4;

/// A random scale for each element of a fold's feeder, given to all columns that it makes.
fn random_scales(fold: &Fold, random: &mut SplitMix64) -> Vec<f32> {
    let elements = fold.columns.iter().max().map_or(0, |max| *max as usize + 1);
    let by_element: Vec<f32> = (0..elements).map(|_| 0.25 + 2.0 * random.unit() as f32).collect();
    fold.columns.iter().map(|&element| by_element[element as usize]).collect()
}

#[track_caller]
fn check_same(name: &str, before: &[f32], after: &[f32]) {
    assert_eq!(before.len(), after.len());
    assert!(largest(before.iter().map(|x| x.abs())) > 100.0 * TOLERANCE, "{name}: all logits are near zero");
    let worst = largest(before.iter().zip(after).map(|(a, b)| (a - b).abs()));
    assert!(worst <= TOLERANCE, "{name}: {worst}");
}

#[test]
fn scales_pass_every_fold_of_every_architecture() {
    let mut random = SplitMix64(7);
    for folder in folders() {
        let mut model = Model::open(&folder);
        if model.config.frame.transposed {
            assert!(model.layout(0).unwrap_err().to_string().contains("[in, out]"));
            continue;
        }
        let said = model.run();
        for index in 0..model.config.layers.len() {
            let layout = model.layout(index).unwrap();
            let mut block = model.block(index, &layout);
            let before = block.clone();
            let mut editor = Editor::new(&block);
            for fold in &block.folds {
                scaling::scale(&mut editor, fold, &random_scales(fold, &mut random)).unwrap();
            }
            let edits = editor.finish();
            block.edit(edits);
            assert!(changed(&before, &block) > 0, "{}: block {index} has no fold", model.name);
            model.put(block, &layout);
        }
        check_same(&model.name, &said, &model.run());
    }
}

/// The linears of a block as "step input name", `+` before those that write to the residual stream, and its folds as
/// "feeder => readers".
fn described(layout: &BlockLayout) -> Vec<String> {
    let end = |name: &str| name.trim_end_matches(".weight").rsplit_once('.').unwrap().1.to_owned();
    let expert = |linear: &LinearPlace| linear.expert.map_or(String::new(), |expert| format!("{expert}."));
    let short = |&i: &usize| format!("{}{}", expert(&layout.linears[i]), end(&layout.linears[i].name));
    let linear = |(i, linear): (usize, &LinearPlace)| {
        let writes = if linear.writes_residual { "+" } else { "" };
        format!("{} {} {writes}{}", linear.depth, linear.input, short(&i))
    };
    let fold = |fold: &Fold| {
        let feeder = match fold.feeder {
            Feeder::Norm(norm) => end(&layout.norms[norm].weight),
            Feeder::Linear(linear) => short(&linear),
        };
        format!("{feeder} => {}", fold.readers.iter().map(short).collect::<Vec<_>>().join(" "))
    };
    layout.linears.iter().enumerate().map(linear).chain(layout.folds.iter().map(fold)).collect()
}

#[track_caller]
fn check_layout(name: &str, block: usize, expected: &[&str]) {
    let folder = folders().into_iter().find(|folder| folder.ends_with(name)).unwrap();
    assert_eq!(described(&Model::open(&folder).layout(block).unwrap()), expected, "{name}");
}

#[test]
fn norms_before_sublayers_feed_what_reads_them() {
    let expected = [
        "0 0 q_proj",
        "0 0 k_proj",
        "0 0 v_proj",
        "1 1 +o_proj",
        "2 2 gate_proj",
        "2 2 up_proj",
        "3 3 +down_proj",
        "input_layernorm => q_proj k_proj v_proj",
        "v_proj => o_proj",
        "post_attention_layernorm => gate_proj up_proj",
        "up_proj => down_proj",
    ];
    check_layout("llama", 0, &expected);
    check_layout("qwen3", 1, &expected);
    // The second of Gemma 2's four norms stands between o and the residual stream.
    let own = expected.map(|line| line.replace('+', "").replace("post_attention", "pre_feedforward"));
    check_layout("gemma2", 0, &own.each_ref().map(String::as_str));
}

#[test]
fn fused_projections_are_linears_and_feeders_themselves() {
    let phi3 = [
        "0 0 qkv_proj",
        "1 1 +o_proj",
        "2 2 gate_up_proj",
        "3 3 +down_proj",
        "input_layernorm => qkv_proj",
        "qkv_proj => o_proj",
        "post_attention_layernorm => gate_up_proj",
        "gate_up_proj => down_proj",
    ];
    check_layout("phi3", 0, &phi3);
}

#[test]
fn parallel_blocks_have_two_steps() {
    let neox = [
        "0 0 query_key_value",
        "0 2 dense_h_to_4h",
        "1 1 +dense",
        "1 3 +dense_4h_to_h",
        "input_layernorm => query_key_value",
        "query_key_value => dense",
        "post_attention_layernorm => dense_h_to_4h",
    ];
    check_layout("gpt_neox", 0, &neox);
    let one_norm = [
        "0 0 q_proj",
        "0 0 k_proj",
        "0 0 v_proj",
        "0 0 gate_proj",
        "0 0 up_proj",
        "1 1 +o_proj",
        "1 2 +down_proj",
        "input_layernorm => q_proj k_proj v_proj gate_proj up_proj",
        "v_proj => o_proj",
        "up_proj => down_proj",
    ];
    check_layout("stablelm-parallel", 0, &one_norm);
}

#[test]
fn norms_after_sublayers_feed_nothing_and_relu_lets_scales_pass() {
    let bert =
        ["0 0 query", "0 0 key", "0 0 value", "1 1 +dense", "2 2 dense", "3 3 +dense", "value => dense"];
    check_layout("bert", 0, &bert);
    let opt = [
        "0 0 q_proj",
        "0 0 k_proj",
        "0 0 v_proj",
        "1 1 +out_proj",
        "2 2 fc1",
        "3 3 +fc2",
        "v_proj => out_proj",
        "fc1 => fc2",
    ];
    check_layout("opt-post-norm", 0, &opt);
}

#[test]
fn experts_have_inputs_of_their_own_and_one_norm() {
    let expert = |e: usize, [own, active]: [usize; 2]| {
        [format!("3 {own} {e}.w1"), format!("3 {own} {e}.w3"), format!("4 {active} +{e}.w2")]
    };
    let experts = (0..4).map(|e| expert(e, [3 + 2 * e, 4 + 2 * e])).collect::<Vec<_>>();
    let attention = ["0 0 q_proj", "0 0 k_proj", "0 0 v_proj", "1 1 +o_proj", "2 2 gate"].map(str::to_owned);
    let inputs = experts.iter().flat_map(|[gate, up, _]| [gate.clone(), up.clone()]);
    let outputs = experts.iter().map(|[.., down]| down.clone());
    let folds = [
        "input_layernorm => q_proj k_proj v_proj",
        "v_proj => o_proj",
        "post_attention_layernorm => gate 0.w1 0.w3 1.w1 1.w3 2.w1 2.w3 3.w1 3.w3",
    ];
    let own = (0..4).map(|e| format!("{e}.w3 => {e}.w2"));
    let lines: Vec<String> = attention
        .into_iter()
        .chain(inputs)
        .chain(outputs)
        .chain(folds.map(str::to_owned))
        .chain(own)
        .collect();
    check_layout("mixtral", 0, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let shared = [
        "post_attention_layernorm => gate 0.gate_proj 0.up_proj 1.gate_proj 1.up_proj 2.gate_proj 2.up_proj \
         3.gate_proj 3.up_proj 4.gate_proj 4.up_proj gate_proj up_proj shared_expert_gate",
        "up_proj => down_proj",
    ];
    let folder = folders().into_iter().find(|folder| folder.ends_with("qwen2_moe")).unwrap();
    let found = described(&Model::open(&folder).layout(0).unwrap());
    assert!(shared.iter().all(|line| found.iter().any(|found| found == line)), "{found:?}");
}

/// OLMoE clips q, k and v: a scale of v would be clipped elsewhere.
#[test]
fn nothing_is_folded_through_a_clip() {
    let folder = folders().into_iter().find(|folder| folder.ends_with("olmoe")).unwrap();
    let found = described(&Model::open(&folder).layout(0).unwrap());
    assert!(!found.iter().any(|line| line.starts_with("v_proj =>")), "{found:?}");
}

const INT4: Scheme = Scheme::int(4, Granularity::Group(16), false, ScaleType::F16);

/// Returns statistics of inputs. Every tenth column is far larger than the others.
fn uneven(cols: usize, needs: Needs, random: &mut SplitMix64) -> Statistics {
    let size = |col: usize| if col % 10 == 3 { 20.0 } else { 1.0 };
    let mut statistics = Statistics::new(cols, needs);
    statistics.observe(
        Array2::from_shape_fn((3 * cols, cols), |(_, c)| size(c) * (random.unit() as f32 - 0.4)).view(),
    );
    statistics
}

/// Gives every linear a scheme and statistics of its input.
fn calibrate(block: &mut Block, layout: &BlockLayout, needs: Needs) {
    let mut random = SplitMix64(11);
    for (linear, place) in block.linears.iter_mut().zip(&layout.linears) {
        let cols = linear.dense().unwrap().ncols();
        if block.inputs.len() <= place.input {
            block.inputs.resize(place.input + 1, Statistics::default());
        }
        if block.inputs[place.input].tokens == 0 {
            block.inputs[place.input] = uneven(cols, needs, &mut random);
        }
        (linear.scheme, linear.input) = (Some(INT4), Some(place.input));
    }
}

fn rewriting(def: &Def, parameters: &str) -> Arc<dyn Rewrite> {
    let Stage::Rewrite(method) = (def.build)(&parameters.parse().unwrap()).unwrap() else {
        panic!("{} does not rewrite", def.name)
    };
    method
}

/// Returns the number of linears whose weights differ.
fn changed(before: &Block, after: &Block) -> usize {
    let pairs = before.linears.iter().zip(&after.linears);
    pairs.filter(|(before, after)| before.dense().unwrap() != after.dense().unwrap()).count()
}

/// Rewrites all blocks and both ends of a model, as the pipeline does. Weights of every block must change.
fn rewrite(model: &mut Model, def: &Def, parameters: &str) -> llmc::Result<()> {
    let method = rewriting(def, parameters);
    for index in 0..model.config.layers.len() {
        let layout = model.layout(index)?;
        let mut block = model.block(index, &layout);
        calibrate(&mut block, &layout, method.needs());
        let before = block.clone();
        let edits = method.rewrite(&block)?;
        block.edit(edits);
        assert!(changed(&before, &block) > 0, "{} {}: block {index} is unchanged", def.name, model.name);
        model.put(block, &layout);
    }
    match method.ends() {
        Some(ends) => model.rewrite_ends(ends),
        None => Ok(()),
    }
}

/// The families with RMSNorm before their sub-layers and nowhere else.
const ROTATED: &[&str] = &[
    "gemma",
    "llama",
    "llama3",
    "mistral",
    "mixtral",
    "olmoe",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
];

#[test]
fn rotations_change_no_logit_where_they_are_possible_and_are_refused_elsewhere() {
    for folder in folders() {
        let mut model = Model::open(&folder);
        let before = model.run();
        let family = model.name.split('-').next().unwrap().to_owned();
        let found = rewrite(&mut model, &rotate::DEF, "");
        match ROTATED.contains(&family.as_str()) {
            true => {
                found.unwrap();
                check_same(&model.name, &before, &model.run());
            }
            false => {
                let error = found.unwrap_err().to_string();
                assert!(
                    error.contains("rotate cannot") || error.contains("[in, out]"),
                    "{}: {error}",
                    model.name
                );
            }
        }
    }
}

#[test]
fn smoothing_and_scaling_change_no_logit() {
    for folder in folders().iter().filter(|folder| !folder.to_string_lossy().contains("gpt2")) {
        for (def, parameters) in [(smoothquant::DEF, "folds = \"all\""), (awq::SCALE, "n_grid = 3")] {
            let mut model = Model::open(folder);
            let before = model.run();
            rewrite(&mut model, &def, parameters).unwrap();
            check_same(&format!("{} {}", def.name, model.name), &before, &model.run());
        }
    }
}

/// The scales that a rewriting has moved into the columns of each linear, \[cols\]: its first reader shows those of a fold.
fn moved(before: &Block, after: &Block) -> Vec<Vec<f32>> {
    let mut scales: Vec<Vec<f32>> =
        before.linears.iter().map(|linear| vec![1.0; linear.dense().unwrap().ncols()]).collect();
    for fold in &before.folds {
        let [old, new] = [before, after].map(|block| block.linears[fold.readers[0]].dense().unwrap());
        let largest = |column: usize| {
            let row =
                (0..old.nrows()).max_by(|a, b| old[[*a, column]].abs().total_cmp(&old[[*b, column]].abs()));
            new[[row.unwrap(), column]] / old[[row.unwrap(), column]]
        };
        let of_fold: Vec<f32> = (0..old.ncols()).map(largest).collect();
        fold.readers.iter().for_each(|&reader| scales[reader] = of_fold.clone());
    }
    scales
}

/// The error of the outputs of a block's linears as `rtn` rounds them, after a rewriting method.
fn errors(first: Option<&Def>) -> Vec<f64> {
    let folder = folders().into_iter().find(|folder| folder.ends_with("qwen3")).unwrap();
    let model = Model::open(&folder);
    let layout = model.layout(0).unwrap();
    let mut block = model.block(0, &layout);
    calibrate(
        &mut block,
        &layout,
        Needs { mean_abs: true, hessian: true, absmax: true, second_moment: true },
    );
    let before = block.clone();
    if let Some(def) = first {
        let edits = rewriting(def, "").rewrite(&block).unwrap();
        block.edit(edits);
    }
    let scales = moved(&before, &block);
    let error = |((old, linear), scales): ((&BlockLinear, &BlockLinear), &Vec<f32>)| {
        let q = quantize_linear(&rtn::Rtn::default(), linear.clone()).unwrap();
        let input = scaling::divided(before.input(old).unwrap(), scales);
        relative_error(linear.dense().unwrap(), q.values().view(), Some(&input))
    };
    before.linears.iter().zip(&block.linears).zip(&scales).map(error).collect()
}

/// The inputs are scaled with the weights, so that relative errors before and after are of the same outputs.
#[test]
fn scales_spare_what_meets_large_inputs() {
    let (plain, scaled) = (errors(None), errors(Some(&awq::SCALE)));
    let sum = |errors: &[f64]| errors.iter().map(|error| error * error).sum::<f64>();
    assert!(sum(&scaled) < 0.7 * sum(&plain), "{scaled:?} {plain:?}");
}

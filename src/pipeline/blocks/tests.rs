//! The loop with a pruning stage: its zeros reach the output, and its masks reach the stages after it.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use indicatif::ProgressBar;
use ndarray::Array2;

use crate::error::Result;
use crate::io::Checkpoint;
use crate::numerics::{Pattern, Sparsity};
use crate::pipeline::{CalibrationInput, Options, Target, run};
use crate::quant::rtn::Rtn;
use crate::recipe::{PerFormat, Recipe};
use crate::stage::{Block, Prune, PrunedWeight, Quantization, Quantize, Scope, Stage};
use crate::statistics::Needs;

/// Sets every second column to zero.
#[derive(Debug)]
struct Stripes;

impl Prune for Stripes {
    fn needs(&self) -> Needs {
        Needs::IMPORTANCE
    }

    fn sparsity(&self) -> Sparsity {
        Sparsity { share: 0.5, pattern: Pattern::Unstructured }
    }

    fn prune(&self, block: &Block) -> Result<Vec<Option<PrunedWeight>>> {
        let stripe = |linear: &crate::stage::BlockLinear| {
            assert!(block.input(linear)?.tokens > 0, "{}", linear.name);
            let mask = Array2::from_shape_fn(linear.dense()?.dim(), |(_, column)| column % 2 == 1);
            Ok(PrunedWeight::new(linear.dense()?.to_owned(), mask))
        };
        PrunedWeight::of_each(block, |linear, _| stripe(linear))
    }
}

/// Rounds to nearest, by depth, and counts the linears that come with a mask.
#[derive(Debug, Default)]
struct Masked(Arc<AtomicUsize>);

impl Quantize for Masked {
    fn scope(&self) -> Scope {
        Scope::Input
    }

    fn quantize(&self, block: &Block) -> Result<Quantization> {
        self.0.fetch_add(
            block.linears.iter().filter(|linear| linear.mask.is_some()).count(),
            Ordering::Relaxed,
        );
        Rtn::default().quantize(block)
    }
}

/// Runs some stages on a tiny model in a folder; returns the values of a linear of its first block.
fn carried_out(recipe: &Recipe, stages: Vec<Stage>) -> Array2<f32> {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Arc::new(crate::test_support::checkpoint("models/llama"));
    let mut request = recipe.resolve().unwrap();
    request.stages = stages;
    let plan = crate::plan::Plan::new(request, &checkpoint).unwrap();
    let path = folder.path().join("out");
    let options = Options {
        device: crate::backend::Device::Cpu,
        resume: false,
        interrupted: &AtomicBool::new(false),
        progress: &ProgressBar::hidden(),
        events: &|_| {},
    };
    let sequences: Vec<Vec<u32>> =
        (0..3).map(|s| (0..20).map(|i| (s * 31 + i * i * 7) % 80).collect()).collect();
    let input = CalibrationInput { sequences: &sequences, ..CalibrationInput::default() };
    let target = PerFormat::alone(Target { plan: &plan, path: &path, documents: &[] });
    run(&target, &checkpoint, Some(input), &options).unwrap();
    let written = Checkpoint::open(path.to_str().unwrap()).unwrap();
    let source = written.source("model.layers.0.mlp.down_proj.weight").unwrap();
    let [rows, cols] = source.rows_cols();
    let mut values = vec![0.0; rows * cols];
    written.read_rows(source, 0..rows, &mut values).unwrap();
    Array2::from_shape_vec((rows, cols), values).unwrap()
}

/// Every second column is zero, and only these.
#[track_caller]
fn check_stripes(values: &Array2<f32>) {
    for (column, values) in values.columns().into_iter().enumerate() {
        assert_eq!(values.iter().all(|value| *value == 0.0), column % 2 == 1, "column {column}");
    }
}

#[test]
fn zeros_of_a_pruning_stage_are_stored() {
    check_stripes(&carried_out(&Recipe::default(), vec![Stage::Prune(Arc::new(Stripes))]));
}

#[test]
fn masks_reach_the_quantizing_stage() {
    let masks = Arc::new(AtomicUsize::new(0));
    let stages = vec![Stage::Prune(Arc::new(Stripes)), Stage::Quantize(Arc::new(Masked(Arc::clone(&masks))))];
    let (scheme, format) = (Some("w8a16".to_owned()), Some("dense".to_owned()));
    check_stripes(&carried_out(&Recipe { scheme, format, ..Recipe::default() }, stages));
    let linears_of_a_block = 7;
    assert_eq!(masks.load(Ordering::Relaxed) % linears_of_a_block, 0);
    assert!(masks.load(Ordering::Relaxed) > 0);
}

//! Stored values equal trained values; gradients against a candle graph; blocks of tiny models lose less than `rtn`.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::{D, Device, Tensor, Var};
use ndarray::Array2;

use super::rounding::{Rounding, Steps};
use super::*;
use crate::backend::Backend;
use crate::backend::candle::{self, Candle};
use crate::calib::trainable::{Activations, TrainableBlock};
use crate::engine::CheckpointWeights;
use crate::model::{self, Batch, Embedding, Model, Weights};
use crate::numerics::{Context, ScaleType, Weight};
use crate::stage::BlockLinear;
use crate::tensor::DType;
use crate::test_support::{checkpoint, uniform};

/// Integers of few and many bits, groups that divide nothing, every type of scale.
fn candle() -> crate::backend::candle::Candle {
    use crate::backend::candle::{Candle, Device};
    Candle::new(Device::Cpu, crate::tensor::DType::F32).unwrap()
}

fn schemes() -> Vec<Scheme> {
    vec![
        Scheme::int(4, Granularity::Group(16), true, ScaleType::BF16),
        Scheme::int(4, Granularity::Group(16), false, ScaleType::F16),
        Scheme::int(2, Granularity::Group(5), false, ScaleType::BF16),
        Scheme::int(3, Granularity::Group(33), true, ScaleType::F32),
        Scheme::int(8, Granularity::Channel, false, ScaleType::F32),
        Scheme::int(4, Granularity::Channel, true, ScaleType::F16),
    ]
}

/// Weights with a row of zeros and one on one side of zero.
fn weights(rows: usize, cols: usize) -> Array2<f32> {
    let mut w = uniform(rows, cols, 3);
    w.row_mut(0).fill(0.0);
    w.row_mut(rows - 1).mapv_inplace(f32::abs);
    w
}

fn slice(values: &Array2<f32>) -> &[f32] {
    values.as_slice().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn training_starts_where_rtn_ends() {
    for scheme in schemes() {
        for cols in [1, 7, 33, 64] {
            let w = weights(20, cols);
            let start = Rounding::new(w.view(), None, scheme);
            assert_eq!(start.codes(), scheme.quantize(w.view(), &Context::default()), "{scheme} {cols}");
        }
    }
}

#[test]
fn what_is_stored_is_what_was_trained_to_the_bit() {
    for scheme in schemes() {
        for cols in [1, 7, 33, 64] {
            let mut rounding = Rounding::new(weights(20, cols).view(), None, scheme);
            for seed in 0..6 {
                let gradient = uniform(20, cols, seed);
                let trained = rounding.step(gradient, Steps { offset: 0.15, clip: 0.1 });
                let mut stored = vec![0.0; trained.len()];
                rounding.codes().dequantize(&mut stored);
                assert_eq!(bits(&stored), bits(&trained), "{scheme} {cols}");
                assert_eq!(bits(&rounding.values()), bits(&trained), "{scheme} {cols}");
            }
        }
    }
}

/// x + (round(x) − x), the latter a constant.
fn round(x: &Tensor) -> candle_core::Result<Tensor> {
    x + (x.round()? - x)?.detach()
}

/// The paper's formulas, one group per row, as a candle graph: its gradients in V, α and β.
fn graph(
    scheme: &Scheme,
    [w, v, gradient]: [&Tensor; 3],
    clips: &Tensor,
) -> candle_core::Result<[Tensor; 2]> {
    let Number::Int { bits } = scheme.number else { panic!("no integers") };
    let half = f64::from(1u32 << (bits - 1));
    let (v, clips) = (Var::from_tensor(v)?, Var::from_tensor(clips)?);
    let zero = w.zeros_like()?.narrow(1, 0, 1)?;
    let low = (w.min_keepdim(D::Minus1)?.minimum(&zero)? * clips.narrow(1, 1, 1)?)?;
    let high = (w.max_keepdim(D::Minus1)?.maximum(&zero)? * clips.narrow(1, 0, 1)?)?;
    let (scale, zero) = match scheme.symmetric {
        true => ((high.maximum(&low.neg()?)? / (half - 0.5))?, zero),
        false => {
            let scale = ((high - &low)? / (2.0 * half - 1.0))?;
            let zero = round(&((low / &scale)?.neg()? - half)?)?;
            (scale, zero)
        }
    };
    let x = round(&w.broadcast_div(&scale)?.add(v.as_tensor())?.broadcast_add(&zero)?)?;
    // Candle's clamp halves the gradient of what lies on a limit.
    let inside = (x.ge(-half)?.to_dtype(w.dtype())? * x.le(half - 1.0)?.to_dtype(w.dtype())?)?;
    let clipped = (x.clamp(-half, half - 1.0)?.detach() * inside.affine(-1.0, 1.0)?)?;
    let q = ((x * inside)? + clipped)?.broadcast_sub(&zero)?;
    let loss = (q.broadcast_mul(&scale)? * gradient)?.sum_all()?;
    let store = loss.backward()?;
    Ok([store.get(&v).unwrap().clone(), store.get(&clips).unwrap().clone()])
}

#[test]
fn steps_follow_the_gradients_of_the_papers_formulas() {
    let device = Device::Cpu;
    for scheme in schemes().into_iter().map(|s| Scheme {
        granularity: Granularity::Channel,
        scale: ScaleType::F32,
        ..s
    }) {
        for cols in [7, 33] {
            let (rows, w) = (20, weights(21, cols).slice(ndarray::s![1.., ..]).to_owned());
            let mut rounding = Rounding::new(w.view(), None, scheme);
            let offsets = uniform(rows, cols, 9);
            rounding.step(offsets, Steps { offset: 0.3, clip: 0.2 });
            let before = rounding.learned();
            // What lies at the edge of the range has not moved: reciprocals, which candle divides by, round across it.
            let mut gradient = uniform(rows, cols, 5);
            gradient.iter_mut().zip(&before[0]).filter(|(_, v)| **v == 0.0).for_each(|(g, _)| *g = 0.0);
            let steps = Steps { offset: 1e-3, clip: 1e-3 };
            rounding.step(gradient.clone(), steps);
            let after = rounding.learned();

            let tensor = |values: &[f32], cols| Tensor::from_slice(values, (rows, cols), &device).unwrap();
            let inputs = [tensor(slice(&w), cols), tensor(&before[0], cols), tensor(slice(&gradient), cols)];
            let [w, v, g] = &inputs;
            let expected = graph(&scheme, [w, v, g], &tensor(&before[1], 2)).unwrap();
            let mut compared = 0;
            for (which, (expected, limits)) in expected.iter().zip([(-0.5, 0.5), (0.0, 1.0)]).enumerate() {
                let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for ((before, after), gradient) in before[which].iter().zip(&after[which]).zip(expected) {
                    if gradient.abs() < 1e-5 && gradient != 0.0 {
                        continue; // the sign of a sum of roundings
                    }
                    let sign = if gradient == 0.0 { 0.0 } else { gradient.signum() };
                    let moved = (before - 1e-3 * sign).clamp(limits.0, limits.1);
                    assert_eq!(*after, moved, "{scheme} {cols} {which}: gradient {gradient}");
                    compared += 1;
                }
            }
            assert!(compared > rows * cols / 2, "{scheme} {cols}: {compared} compared");
        }
    }
}

/// Sequences of a tiny model, and what its first block makes of them.
struct Sequences {
    inputs: Vec<Vec<f32>>,
    targets: Vec<Vec<f32>>,
}

impl Activations for Sequences {
    fn sequences(&self) -> usize {
        self.inputs.len()
    }

    fn input(&self, sequence: usize) -> Result<Vec<f32>> {
        Ok(self.inputs[sequence].clone())
    }

    fn target(&self, sequence: usize) -> Result<Vec<f32>> {
        Ok(self.targets[sequence].clone())
    }
}

fn sequences(config: &Model, weights: &dyn Weights) -> Sequences {
    let backend = Candle::new(candle::Device::Cpu, DType::F32).unwrap();
    let embedding = Embedding::load(&backend, config, weights).unwrap();
    let block = model::Block::load(&backend, config, weights, 0).unwrap();
    let mut made = Sequences { inputs: Vec::new(), targets: Vec::new() };
    for sequence in 0..6u32 {
        let tokens: Vec<u32> = (0..9 + sequence).map(|i| (sequence * 37 + i * i * 11) % 83).collect();
        let batch = Batch::whole(&[tokens]);
        let x = embedding.embed(&backend, config, &batch).unwrap();
        made.inputs.push(backend.read(&x, <[f32]>::to_vec).unwrap());
        let y = block.forward(&backend, x, &config.rotations(&batch.spans), &batch.spans, None).unwrap();
        made.targets.push(backend.read(&y, <[f32]>::to_vec).unwrap());
    }
    made
}

/// The first block of a fixture in 3 bits, and the block to train.
fn fixture(name: &str) -> (Block, Arc<TrainableBlock>) {
    let checkpoint = Arc::new(checkpoint(&format!("models/{name}")));
    let config = model::configure(checkpoint.config.as_ref().unwrap()).unwrap();
    let weights = CheckpointWeights(checkpoint);
    let activations = Box::new(sequences(&config, &weights));
    let trainable = Arc::new(TrainableBlock::load(candle(), &config, &weights, 0, activations).unwrap());
    let scheme = Scheme::int(3, Granularity::Group(16), false, ScaleType::F16);
    let layout = model::block_layout(&config, &weights, 0).unwrap();
    let linear = |place: &model::LinearPlace| {
        let matrix = weights.matrix(&place.name).unwrap();
        BlockLinear::new(place.name.clone(), scheme, matrix.read(0..matrix.shape()[0]).unwrap())
    };
    let linears = layout.linears.iter().map(linear).collect();
    (Block { linears, trainable: Some(trainable.clone()), ..Block::default() }, trainable)
}

fn loss(block: &Block, trainable: &TrainableBlock) -> f32 {
    let values = |linear: &BlockLinear| match &linear.weight {
        Weight::Quantized(q) => (linear.name.clone(), q.values()),
        Weight::Dense(_) => panic!("{} is dense", linear.name),
    };
    let weights: Vec<_> = block.linears.iter().map(values).collect();
    let all: Vec<usize> = (0..trainable.samples()).collect();
    trainable.loss(&weights, &all).unwrap().value
}

fn quantized(name: &str, method: &dyn Quantize) -> (Block, f32) {
    let (mut block, trainable) = fixture(name);
    let quantization = method.quantize(&block).unwrap();
    block.encode(quantization);
    let loss = loss(&block, &trainable);
    (block, loss)
}

fn short() -> AutoRound {
    AutoRound { iters: 60, batch_size: 3, ..AutoRound::default() }
}

#[test]
fn blocks_of_every_shape_lose_less_than_rounded() {
    for name in ["llama", "mixtral", "gemma2", "gpt_neox", "qwen3"] {
        let (_, rounded) = quantized(name, &crate::quant::rtn::Rtn::default());
        let (_, trained) = quantized(name, &short());
        assert!(trained < 0.6 * rounded, "{name}: rtn {rounded}, autoround {trained}");
    }
}

#[test]
fn any_number_of_threads_makes_the_same_codes() {
    let method = AutoRound { iters: 5, ..short() };
    for name in ["llama", "gemma2", "mixtral"] {
        let made = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (block, _) = pool.install(|| quantized(name, &method));
            block.linears.into_iter().map(|linear| linear.weight).collect::<Vec<_>>()
        });
        assert!(made[0] == made[1] && made[0] == made[2], "{name}");
    }
}

#[test]
fn without_calibration_there_is_a_hint() {
    let scheme = schemes()[0];
    let linear = BlockLinear::new("a.weight", scheme, Weight::Dense(weights(3, 16)));
    let block = Block { linears: vec![linear], ..Block::default() };
    let error = AutoRound::default().quantize(&block).unwrap_err();
    assert!(error.hint().unwrap().contains("--data"), "{error}");
}

//! The operations of `cpu_ops` against candle's own: results and gradients.
#![allow(clippy::unwrap_used)]

use candle_core::Var;
use ndarray::Array2;

use super::*;
use crate::backend::tests::{Tolerance, conformance, rotations, values};
use crate::backend::{Activation, Attention, NormWeights};
use crate::tensor::DType;

#[test]
fn plain_operations_compute_what_the_reference_does() {
    let tolerance = Tolerance { dense: 2e-5, quantized: 2e-5, other: 2e-5 };
    conformance(&candle().plain(), tolerance);
}

fn candle() -> Candle {
    Candle::new(Device::Cpu, DType::F32).unwrap()
}

fn variable(values: &Array2<f32>) -> Var {
    Var::from_vec(values.iter().copied().collect(), values.dim(), &candle_core::Device::Cpu).unwrap()
}

/// An operation written by hand.
#[derive(Debug)]
enum Operation {
    Norm(NormWeights),
    Gate,
    Rope { half: usize, head_dim: usize },
    Attention(Attention, Vec<usize>),
}

impl Operation {
    fn run<B: Backend>(&self, backend: &B, x: &[B::Tensor]) -> Result<B::Tensor>
    where
        B::Tensor: Clone,
    {
        match self {
            Operation::Norm(norm) => backend.norm(&x[0], &backend.load_norm(norm.clone())?),
            Operation::Gate => backend.gate(&x[0], Activation::Silu),
            Operation::Rope { half, head_dim } => {
                backend.rope(x[0].clone(), &rotations(backend.rows(&x[0]), *half, *head_dim))
            }
            Operation::Attention(spec, lens) => {
                let spans: Vec<Span> = lens.iter().map(|&len| Span { slot: 0, past: 0, len }).collect();
                backend.attention(&x[0], &x[1], &x[2], spec, &spans, None)
            }
        }
    }

    /// The gradients of what is computed of some values, weighed by fixed coefficients.
    fn gradients<B: Backend<Tensor = Tensor>>(&self, backend: &B, inputs: &[Array2<f32>]) -> Vec<Vec<f32>> {
        let variables: Vec<Var> = inputs.iter().map(variable).collect();
        let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
        let y = self.run(backend, &tensors).unwrap();
        let (rows, cols) = y.dims2().unwrap();
        let coefficients = variable(&values(rows, cols, 77)).as_detached_tensor();
        let store = (y * coefficients).unwrap().sum_all().unwrap().backward().unwrap();
        let flat = |v: &Var| store.get(v).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        variables.iter().map(flat).collect()
    }

    /// Candle's gradients of its plain operations are the twins.
    fn check(&self, inputs: &[Array2<f32>]) {
        let found = self.gradients(&candle(), inputs);
        let expected = self.gradients(&candle().plain(), inputs);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            assert!(largest > 0.0, "{self:?}: input {i} does not matter");
            for (found, expected) in found.iter().zip(expected) {
                let near = (found - expected).abs() <= 1e-5 * (largest + expected.abs());
                assert!(near, "{self:?}: input {i}: {found}, candle {expected}");
            }
        }
    }
}

#[test]
fn gradients_are_candles() {
    for (rows, width, repeated) in [(1, 1, 1), (3, 5, 2), (2, 16, 1), (70, 40, 3)] {
        let weight = values(1, width * repeated, 5).row(0).to_vec();
        for centered in [false, true] {
            let bias = centered.then(|| weight.clone());
            let norm = NormWeights { width, weight: weight.clone(), bias, epsilon: 1e-2, centered };
            if width > 1 || !centered {
                Operation::Norm(norm).check(&[values(rows, width * repeated, 1)]);
            }
        }
        Operation::Gate.check(&[values(rows, 2 * width, 2)]);
    }
    for (half, head_dim) in [(1, 2), (2, 7), (8, 16)] {
        Operation::Rope { half, head_dim }.check(&[values(5, 3 * head_dim, 3)]);
    }
}

#[test]
fn gradients_of_attention_are_candles() {
    let plain = Attention {
        heads: 4,
        kv_heads: 2,
        head_dim: 5,
        scale: 0.4,
        soft_cap: None,
        window: None,
        slopes: None,
        causal: true,
    };
    let specs = [
        plain.clone(),
        Attention { causal: false, ..plain.clone() },
        Attention { window: Some(3), ..plain.clone() },
        Attention { window: Some(70), ..plain.clone() },
        Attention { window: Some(3), causal: false, ..plain.clone() },
        Attention { heads: 2, ..plain },
    ];
    for spec in specs {
        for lens in [&[2][..], &[3, 1, 4], &[0, 130, 64]] {
            let rows = lens.iter().sum();
            let [q, kv] = [spec.heads, spec.kv_heads].map(|heads| heads * spec.head_dim);
            let inputs = [values(rows, q, 1), values(rows, kv, 2), values(rows, kv, 3)];
            Operation::Attention(spec.clone(), lens.to_vec()).check(&inputs);
        }
    }
}

#[test]
fn gradients_of_products_are_candles() {
    for (rows, cols, outs) in [(1, 1, &[1][..]), (3, 5, &[2, 1]), (70, 33, &[40, 300, 7])] {
        let x = values(rows, cols, 1);
        let parts: Vec<Array2<f32>> =
            outs.iter().zip(2..).map(|(&out, seed)| values(out, cols, seed)).collect();
        let gradients = |y: &dyn Fn(&Tensor, &[Tensor]) -> Tensor| -> Vec<Vec<f32>> {
            let all: Vec<Var> = std::iter::once(&x).chain(&parts).map(variable).collect();
            let tensors: Vec<Tensor> = all.iter().map(|v| v.as_tensor().clone()).collect();
            let store = y(&tensors[0], &tensors[1..]).sqr().unwrap().sum_all().unwrap().backward().unwrap();
            all.iter().map(|v| store.get(v).unwrap().flatten_all().unwrap().to_vec1().unwrap()).collect()
        };
        let linear = |parts: &[Tensor]| Linear::new(parts.to_vec(), None);
        let found = gradients(&|x, parts| candle().linear(x, &linear(parts)).unwrap());
        let expected = gradients(&|x, parts| candle().plain().linear(x, &linear(parts)).unwrap());
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() <= 1e-4 * (1.0 + expected.abs()), "{found}, candle {expected}");
        }
    }
}

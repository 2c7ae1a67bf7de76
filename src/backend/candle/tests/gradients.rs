//! Gradients against central differences of the reference, which computes the same graph in f64.

use candle_core::backprop::GradStore;
use ndarray::Array2;

use super::*;
use crate::backend::tests::{dense, reference::Reference, rotations, values};
use crate::backend::{Activation, Attention, NormWeights, Routing};

const IDS: [u32; 5] = [3, 0, 6, 6, 2];
const STEP: f32 = 1.0 / 1024.0;

/// A decoder block with everything in it, whose shapes are [`SHAPES`].
struct Model<B: Backend> {
    table: B::Table,
    norms: [B::Norm; 2],
    qkv: B::Linear,
    output: B::Linear,
    gate_up: B::Linear,
    down: B::Linear,
    router: B::Linear,
    experts: [B::Linear; 3],
}

/// In the order of [`Model::load`] and [`parameters`].
const SHAPES: [[usize; 2]; 16] = [
    [7, 8],
    [1, 8],
    [1, 8],
    [1, 8],
    [8, 8],
    [4, 8],
    [4, 8],
    [1, 16],
    [8, 8],
    [12, 8],
    [8, 6],
    [3, 8],
    [8, 8],
    [8, 8],
    [8, 8],
    [1, 8],
];

impl<B: Backend> Model<B> {
    fn load(b: &B, weights: &[Array2<f32>]) -> Result<Self> {
        let vector = |i: usize| weights[i].row(0).to_vec();
        let linear = |i: usize| b.load_linear(&[dense(weights[i].clone())], None);
        let rms = NormWeights { width: 8, weight: vector(1), bias: None, epsilon: 1e-5, centered: false };
        let layer = NormWeights { weight: vector(2), bias: Some(vector(3)), centered: true, ..rms.clone() };
        let qkv: Vec<_> = (4..7).map(|i| dense(weights[i].clone())).collect();
        Ok(Model {
            table: b.load_table(dense(weights[0].clone()))?,
            norms: [b.load_norm(rms)?, b.load_norm(layer)?],
            qkv: b.load_linear(&qkv, Some(vector(7)))?,
            output: linear(8)?,
            gate_up: linear(9)?,
            down: linear(10)?,
            router: linear(11)?,
            experts: [
                linear(12)?,
                linear(13)?,
                b.load_linear(&[dense(weights[14].clone())], Some(vector(15)))?,
            ],
        })
    }

    /// [IDS.len(), 7].
    fn logits(&self, b: &B) -> Result<B::Tensor> {
        let x = b.embed(&self.table, &IDS)?;
        let x = b.scale(x, 1.5)?;
        let mixed = self.attend(b, &b.norm(&x, &self.norms[0])?)?;
        let x = b.add(x, &mixed)?;
        let gated = b.gate(&b.linear(&x, &self.gate_up)?, Activation::Silu)?;
        let x = b.add(b.linear(&gated, &self.down)?, &x)?;
        let x = self.mix(b, x)?;
        let logits = b.linear(&b.norm(&x, &self.norms[1])?, &b.tied_head(&self.table)?)?;
        b.soft_cap(logits, 4.0)
    }

    fn attend(&self, b: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let spec = Attention {
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            scale: 0.5,
            soft_cap: Some(3.0),
            window: Some(2),
            slopes: Some(vec![0.5, 0.25]),
            causal: true,
        };
        let [q, k, v] = b.split(&b.linear(x, &self.qkv)?, [8, 4, 4])?;
        let turns = rotations(5, 2, 4);
        let [q, k] = [b.rope(q, &turns)?, b.rope(k, &turns)?];
        let spans = [Span { slot: 0, past: 0, len: 3 }, Span { slot: 1, past: 0, len: 2 }];
        b.linear(&b.attention(&q, &k, &v, &spec, &spans, None)?, &self.output)
    }

    fn mix(&self, b: &B, x: B::Tensor) -> Result<B::Tensor> {
        let routes = b.route(&b.linear(&x, &self.router)?, Routing { top_k: 2, renormalize: true })?;
        let mut sum = b.zeros(b.rows(&x), 8)?;
        for route in routes {
            let y = b.linear(&b.gather(&x, &route.rows)?, &self.experts[route.expert])?;
            sum = b.scatter_add(sum, &route.rows, &y, &route.weights)?;
        }
        b.add(sum, &x)
    }
}

/// Every tensor that a trainable model learns, in the order of [`SHAPES`].
fn parameters(model: &Model<Candle>) -> Vec<&Tensor> {
    let Model { table, norms, qkv, output, gate_up, down, router, experts } = model;
    let [rms, layer] = norms;
    let mut all = vec![table.weight(), rms.weight(), layer.weight()];
    all.extend(layer.bias());
    all.extend(qkv.parts().iter().chain(qkv.bias()));
    let linears = [output, gate_up, down, router].into_iter().chain(experts);
    all.extend(linears.flat_map(|linear| linear.parts().iter().chain(linear.bias())));
    all
}

/// What the logits are multiplied by and summed up: a loss that no symmetry makes flat.
fn coefficients() -> Array2<f32> {
    values(IDS.len(), 7, 99)
}

fn reference_loss(weights: &[Array2<f32>]) -> f64 {
    let logits = Model::load(&Reference, weights).unwrap().logits(&Reference).unwrap();
    (logits * coefficients().mapv(f64::from)).sum()
}

fn gradients(model: &Model<Candle>, backend: &Candle) -> GradStore {
    let logits = model.logits(backend).unwrap();
    let coefficients = coefficients().into_raw_vec_and_offset().0;
    let coefficients = Tensor::from_vec(coefficients, logits.shape(), logits.device()).unwrap();
    (logits * coefficients).unwrap().sum_all().unwrap().backward().unwrap()
}

/// Central differences of every element of one weight.
fn differences(weights: &[Array2<f32>], which: usize) -> Vec<f64> {
    let loss_at = |element: usize, offset: f32| {
        let mut moved = weights.to_vec();
        moved[which].as_slice_mut().unwrap()[element] += offset;
        reference_loss(&moved)
    };
    let slope = |i| (loss_at(i, STEP) - loss_at(i, -STEP)) / f64::from(2.0 * STEP);
    (0..weights[which].len()).map(slope).collect()
}

#[test]
fn every_parameter_has_the_gradient_that_differences_show() {
    let weights: Vec<_> =
        SHAPES.iter().zip(1..).map(|(&[rows, cols], seed)| values(rows, cols, seed) * 0.5).collect();
    let backend = cpu(DType::F32).trainable(true);
    let model = Model::load(&backend, &weights).unwrap();
    let gradients = gradients(&model, &backend);
    let parameters = parameters(&model);
    assert_eq!(parameters.len(), SHAPES.len());
    for (which, parameter) in parameters.into_iter().enumerate() {
        assert!(parameter.is_variable(), "parameter {which}");
        let gradient = gradients.get(parameter).unwrap_or_else(|| panic!("parameter {which} has none"));
        let found = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = differences(&weights, which);
        let largest = expected.iter().fold(0f64, |largest, slope| largest.max(slope.abs()));
        assert!(largest > 0.0, "parameter {which} does not matter");
        for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
            let near = (f64::from(found) - expected).abs() <= 1e-3 * (expected.abs() + largest);
            assert!(near, "parameter {which}, element {i}: found {found}, expected {expected}");
        }
    }
}

/// Far from zero too, where a careless formula gives ∞·0.
#[test]
fn activations_have_gradients() {
    use Activation::*;
    let points = [-1000.0, -100.0, -3.0, -0.5, 0.25, 1.0, 4.0, 100.0, 1000f32];
    for activation in [Silu, Gelu, GeluTanh, Relu, Sigmoid] {
        let x = candle_core::Var::new(&[points], &candle_core::Device::Cpu).unwrap();
        let y = cpu(DType::F32).activate(x.as_tensor().clone(), activation).unwrap();
        let gradients = y.sum_all().unwrap().backward().unwrap();
        let found = gradients.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (&point, found) in points.iter().zip(found) {
            let at = |x: f32| {
                let x = Array2::from_elem((1, 1), f64::from(x));
                Reference.activate(x, activation).unwrap()[[0, 0]]
            };
            let expected = (at(point + STEP) - at(point - STEP)) / f64::from(2.0 * STEP);
            assert!(
                (f64::from(found) - expected).abs() < 1e-3,
                "{activation:?}'({point}): found {found}, expected {expected}"
            );
        }
    }
}

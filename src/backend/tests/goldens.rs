//! The reference against PyTorch 2 and transformers 5 in f64, on the inputs of [`values`]: numbers that nobody here computed.

use super::layers::rotations;
use super::*;
use crate::backend::{Activation, Attention, NormWeights, Span};

fn near(found: Array2<f64>, expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "found {found}, expected {expected}");
    }
}

fn input(rows: usize, cols: usize, seed: u64) -> Array2<f64> {
    values(rows, cols, seed).mapv(f64::from)
}

/// `torch.nn.functional.{gelu, silu}`, `torch.sigmoid`.
#[test]
fn activations() {
    let check = |activation, expected: &[f64]| {
        near(Reference.activate(input(1, 6, 1), activation).unwrap(), expected);
    };
    check(Activation::Gelu, &[0.01601453, 1.082896, 0.77414, -0.08088396, -0.09043615, -0.04550026]);
    check(Activation::GeluTanh, &[0.01601453, 1.082679, 0.7740093, -0.08104134, -0.09043688, -0.04540231]);
    check(Activation::Silu, &[0.01586912, 0.9406843, 0.6736822, -0.2654406, -0.09745959, -0.2384058]);
    check(Activation::Sigmoid, &[0.5078119, 0.7718435, 0.7185944, 0.160266, 0.4455295, 0.1192029]);
}

/// `torch.nn.functional.{layer_norm, rms_norm}`.
#[test]
fn norms() {
    let vector = |seed| values(1, 6, seed).into_raw_vec_and_offset().0;
    let rms = NormWeights { width: 6, weight: vector(2), bias: None, epsilon: 1e-5, centered: false };
    let layer = NormWeights { bias: Some(vector(3)), centered: true, ..rms.clone() };
    #[rustfmt::skip]
    let expected = [
        0.01106735, 0.06166092, -0.4031676, -1.508321, 0.1272745, 0.6577165,
        -0.2782808, 0.07803642, 0.3003666, -1.113123, -0.5587702, -0.5933713,
    ];
    near(Reference.norm(&input(2, 6, 1), &rms).unwrap(), &expected);
    #[rustfmt::skip]
    let expected = [
        1.519908, -1.640813, -2.507003, -0.8172129, -1.349845, -1.200781,
        1.024483, -1.652651, -1.543629, -0.9200872, -1.725809, -2.299111,
    ];
    near(Reference.norm(&input(2, 6, 1), &layer).unwrap(), &expected);
}

/// `transformers.models.llama.modeling_llama.apply_rotary_pos_emb`, of two heads.
#[test]
fn rope() {
    #[rustfmt::skip]
    let expected = [
        1.007204, 0.01126565, 0.6002968, -2.570395, -1.035228, -0.800355, -0.3397604, 3.145731,
        -0.5745977, -1.896579, 1.48675, 2.227132, -0.241013, -2.075185, -0.9059906, -0.4256957,
    ];
    near(Reference.rope(input(2, 8, 1), &rotations(2, 2, 4)).unwrap(), &expected);
}

/// `torch.nn.functional.scaled_dot_product_attention(enable_gqa=True)`, each query seeing three positions.
#[test]
fn attention() {
    let spec = Attention {
        heads: 4,
        kv_heads: 2,
        head_dim: 3,
        scale: 1.0 / 3f32.sqrt(),
        soft_cap: None,
        window: Some(3),
        slopes: None,
        causal: true,
    };
    #[rustfmt::skip]
    let expected = [
        1.40625, -1.71875, -1.96875, 1.40625, -1.71875, -1.96875, 0.46875, -1.3125, -1.78125, 0.46875, -1.3125, -1.78125,
        0.2509604, -1.435377, 0.6687979, 0.1423139, -1.408728, 0.9168399,
        1.031654, -0.4440195, 0.1487066, 0.7982733, -0.8040926, -0.6514558,
        1.094592, -1.349205, -0.7321473, 0.9179079, -1.446323, -0.5803962,
        1.317527, 1.028263, 1.597579, 1.10966, 0.5528584, 0.8145769,
        0.03272155, -0.3809987, 0.02665883, -0.05257462, -0.8949034, 1.097724,
        0.4605296, -0.9364731, 0.8114665, 0.4014602, -0.9991399, 0.7490887,
    ];
    let [q, k, v] = [input(4, 12, 1), input(4, 6, 2), input(4, 6, 3)];
    let spans = [Span { slot: 0, past: 0, len: 4 }];
    near(Reference.attention(&q, &k, &v, &spec, &spans, None).unwrap(), &expected);
}

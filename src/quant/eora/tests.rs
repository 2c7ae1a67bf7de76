//! Against numpy's truncation (fixtures/eora, its generator beside it), and against what can be worked out by hand.

use ndarray::array;
use safetensors::SafeTensors;

use super::*;
use crate::numerics::{LowRank, Scheme, Weight};
use crate::statistics::Statistics;
use crate::tensor::DType;

const CASES: [&str; 8] =
    ["wide", "tall", "square", "wide-singular", "tall-singular", "wide-plain", "tall-plain", "whole"];

/// tr(M·H·Mᵀ).
fn power(m: &Array2<f64>, h: &Array2<f64>) -> f64 {
    (m.dot(h) * m).sum()
}

fn values(factors: &LowRank) -> Array2<f64> {
    factors.b.mapv(f64::from).dot(&factors.a.mapv(f64::from))
}

#[test]
fn no_product_of_that_rank_is_nearer_as_numpy_has_it() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/eora/goldens.safetensors");
    let bytes = std::fs::read(file).unwrap();
    let goldens = SafeTensors::deserialize(&bytes).unwrap();
    for case in CASES {
        let doubles = |name: &str| {
            let view = goldens.tensor(&format!("{case}.{name}")).ok()?;
            let wide = |b: &[u8]| b.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect::<Vec<_>>();
            let narrow =
                |b: &[u8]| b.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect::<Vec<_>>();
            let f64s = view.dtype() == safetensors::Dtype::F64;
            let values = if f64s { wide(view.data()) } else { narrow(view.data()) };
            Array2::from_shape_vec((view.shape()[0], values.len() / view.shape()[0]), values).ok()
        };
        let rank = goldens.tensor(&format!("{case}.rank")).unwrap().data()[0] as usize;
        let (e, hessian) = (doubles("error").unwrap(), doubles("hessian"));
        let h = hessian.clone().unwrap_or_else(|| Array2::eye(e.ncols()));
        let found = compensate(e.mapv(|x| x as f32).view(), hessian.as_ref(), rank).unwrap();
        assert_eq!(found.b.dim(), (e.nrows(), rank.min(e.nrows()).min(e.ncols())), "{case}");

        let (whole, product) = (power(&e, &h), values(&found).dot(&h));
        let difference =
            (&product - doubles("product_h").unwrap()).mapv(f64::abs).fold(0.0, |a: f64, &b| a.max(b));
        let largest = product.mapv(f64::abs).fold(0.0, |a: f64, &b| a.max(b));
        assert!(difference < 1e-4 * largest, "{case}: {difference} of {largest}");
        let (left, expected) = (power(&(&e - &values(&found)), &h), doubles("left").unwrap()[[0, 0]]);
        assert!((left - expected).abs() < 1e-6 * whole, "{case}: {left} left, and not {expected}");
        for dtype in [DType::BF16, DType::F16] {
            let rounded = power(&(&e - &values(&found.clone().rounded(dtype))), &h);
            assert!(rounded < whole && rounded < expected + 1e-3 * whole, "{case}: {rounded} of {whole}");
        }
    }
}

#[test]
fn inputs_decide_which_direction_is_kept() {
    let error = array![[3.0, 0.0], [0.0, 2.0]];
    let check = |hessian: Option<Array2<f64>>, expected: Array2<f32>| {
        let found = compensate(error.view(), hessian.as_ref(), 1).unwrap();
        assert!((found.values() - expected).iter().all(|x| x.abs() < 1e-6));
        // √2·√2 or √3·√3.
        assert!((found.b.dot(&found.a).sum().sqrt() - found.a.sum().abs()).abs() < 1e-6);
    };
    check(None, array![[3.0, 0.0], [0.0, 0.0]]);
    check(Some(array![[1.0, 0.0], [0.0, 4.0]]), array![[0.0, 0.0], [0.0, 2.0]]);
    check(Some(array![[0.0, 0.0], [0.0, 1.0]]), array![[0.0, 0.0], [0.0, 2.0]]);
}

#[test]
fn where_nothing_is_lost_nothing_is_added() {
    for shape in [(3, 5), (5, 3), (4, 4), (0, 4), (1, 1)] {
        let hessian = Array2::eye(shape.1);
        let found = compensate(Array2::zeros(shape).view(), Some(&hessian), 2).unwrap();
        assert!(found.values().iter().chain(&found.a).chain(&found.b).all(|x| *x == 0.0));
    }
}

/// Runs a stage on one error; the inputs' second moment is `hessian`, or unknown.
fn run(def: &Def, error: Array2<f32>, hessian: Option<Array2<f32>>) -> Result<LowRank> {
    let scheme = Scheme::int(4, crate::numerics::Granularity::Channel, true, crate::numerics::ScaleType::F32);
    let input = hessian.is_some().then_some(0);
    let linear = BlockLinear { input, ..BlockLinear::new("proj.weight", scheme, Weight::Dense(error)) };
    let statistics = Statistics { tokens: 1, gram: hessian, ..Statistics::default() };
    let block = Block { linears: vec![linear], inputs: vec![statistics], ..Block::default() };
    let Stage::Compensate(method) = (def.build)(&"rank = 1".parse().unwrap())? else {
        panic!("{} does not compensate", def.name)
    };
    Ok(method.compensate(&block)?.remove(0))
}

#[test]
fn the_stages_differ_in_what_they_know() {
    let (error, hessian) = (array![[3.0f32, 0.0], [0.0, 2.0]], array![[1.0f32, 0.0], [0.0, 4.0]]);
    let value = |def, hessian: Option<&Array2<f32>>| {
        run(def, error.clone(), hessian.cloned()).map(|factors| factors.values().sum().round())
    };
    assert_eq!(value(&DEF, Some(&hessian)).unwrap(), 2.0);
    assert_eq!(value(&LORC, Some(&hessian)).unwrap(), 3.0);
    assert_eq!(value(&LORC, None).unwrap(), 3.0);
    assert_eq!(
        value(&DEF, Some(&Array2::zeros((2, 2)))).unwrap(),
        3.0,
        "inputs that are all zero tell nothing"
    );
    let unknown = value(&DEF, None).unwrap_err();
    assert!(unknown.to_string().contains("proj.weight") && unknown.hint().unwrap().contains("--data"));
    let spoiled = run(&LORC, array![[f32::NAN, 1.0], [1.0, 1.0]], None).unwrap_err();
    assert!(spoiled.to_string().contains("proj.weight"), "{spoiled}");
}

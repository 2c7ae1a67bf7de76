//! The promises of every method, for every scheme that it supports: the list of methods against the list of presets and
//! some schemes beside them, over shapes that are awkward.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::normal;
use llmc::numerics::presets::PRESETS;
use llmc::numerics::{
    Codes, Context, Extent, Granularity, Grid, Number, QTensor, ScalarCodes, ScaleType, Scheme, Weight,
};
use llmc::registry::METHODS;
use llmc::stage::{Block, BlockLinear, Def, Quantize, Stage};
use llmc::statistics::{Needs, Statistics};
use ndarray::{Array2, Axis, s};

/// The presets', and some that only flags reach.
fn schemes() -> Vec<Scheme> {
    use Granularity::{Channel, Group};
    let mut schemes: Vec<_> = PRESETS.iter().map(|preset| preset.scheme).collect();
    for bits in [2, 3, 5, 8] {
        schemes.push(Scheme::int(bits, Group(48), false, ScaleType::F16));
        schemes.push(Scheme::int(bits, Channel, true, ScaleType::F32));
        schemes.push(Scheme::int(bits, Channel, false, ScaleType::BF16));
    }
    schemes
}

/// The methods that make codes; those that rewrite weights are tested in `tests/rewrites`, those that train beside their code.
fn quantizing() -> impl Iterator<Item = &'static Def> {
    METHODS.iter().filter(|def| quantizer(def).is_some_and(|method| !method.trains()))
}

fn quantizer(def: &Def) -> Option<Arc<dyn Quantize>> {
    match (def.build)(&toml::Table::new()).unwrap() {
        Stage::Quantize(method) => Some(method),
        _ => None,
    }
}

/// The schemes that a method supports: there are some.
fn schemes_of(def: &Def) -> Vec<Scheme> {
    let mut schemes = schemes();
    schemes.retain(|scheme| (def.supports)(scheme).is_ok());
    assert!(!schemes.is_empty(), "{} supports no scheme", def.name);
    schemes
}

/// Every method with every scheme that it supports.
fn supported() -> impl Iterator<Item = (&'static Def, Scheme)> {
    assert!(quantizing().count() > 0);
    quantizing().flat_map(|def| schemes_of(def).into_iter().map(move |scheme| (def, scheme)))
}

/// Columns that are awkward for a scheme; GGUF blocks are whole.
fn widths(scheme: &Scheme) -> Vec<usize> {
    match scheme.number {
        Number::Ggml(block) => vec![block.block_elements(), 3 * block.block_elements()],
        _ => vec![1, 7, 33, 160],
    }
}

/// Weights with a few outliers, in the size of a trained model's.
fn weights(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
    let mut w = normal(rows, cols, seed) * 0.02;
    w.indexed_iter_mut().filter(|((r, c), _)| (r * 31 + c * 17) % 97 == 0).for_each(|(_, x)| *x *= 5.0);
    w
}

fn extent(w: &Array2<f32>) -> Extent {
    Extent::of(w.as_slice().unwrap())
}

/// The statistics that a method needs, of inputs whose columns have something in common.
fn statistics(cols: usize, needs: Needs) -> Statistics {
    let mut statistics = Statistics::new(cols, needs);
    let tokens = 2 * cols + 3;
    statistics.observe((weights(tokens, cols, 17) + weights(tokens, 1, 18)).view());
    statistics
}

fn apply(def: &Def, scheme: Scheme, w: Array2<f32>, extent: Extent, importance: Option<Vec<f32>>) -> QTensor {
    let (cols, weight) = (w.ncols(), Weight::Dense(w));
    let method = quantizer(def).unwrap();
    let linear = BlockLinear {
        extent: Some(extent),
        importance,
        input: Some(0),
        ..BlockLinear::new("proj.weight", scheme, weight)
    };
    let inputs = vec![statistics(cols, method.needs())];
    let block = Block { linears: vec![linear], inputs, ..Block::default() };
    let codes = method.quantize(&block).unwrap().codes.remove(0);
    codes.unwrap_or_else(|| panic!("{}: left dense", def.name)).values
}

fn quantize(def: &Def, scheme: Scheme, w: &Array2<f32>) -> QTensor {
    apply(def, scheme, w.clone(), extent(w), None)
}

/// Σ importance·(w − values)².
fn squared_error(w: &Array2<f32>, q: &QTensor, importance: Option<&[f32]>) -> f64 {
    let weight = |i: usize| importance.map_or(1.0, |importance| f64::from(importance[i % q.cols]));
    let error = |(i, (a, b)): (usize, (f32, &f32))| weight(i) * (f64::from(a) - f64::from(*b)).powi(2);
    q.values().into_iter().zip(w).enumerate().map(error).sum()
}

/// Checks that codes and grid are what the scheme says they are.
#[track_caller]
fn check_shape(q: &QTensor, w: &Array2<f32>, scheme: &Scheme) {
    assert_eq!([q.rows, q.cols], [w.nrows(), w.ncols()]);
    assert_eq!(q.scheme(), *scheme);
    let Codes::Scalar(ScalarCodes { codes, grid, .. }) = &q.codes else { return };
    let entries: usize = scheme.grid_shape(q.rows, q.cols).iter().product();
    assert_eq!(grid.scales.len(), entries);
    assert_eq!(grid.zero_points.len(), if scheme.symmetric { 0 } else { entries });
    for &scale in &grid.scales {
        assert!(scale > 0.0 && scale.is_finite() && scheme.scale.nearest(scale) == scale, "scale {scale}");
    }
    if let Number::Int { bits } = scheme.number {
        let largest = u8::MAX >> (8 - bits);
        assert!(codes.iter().chain(&grid.zero_points).all(|&code| code <= largest));
    }
}

/// Returns the largest error of a scheme, as a part of the weights' power. It follows from the number of bits. Zeros have an
/// error of 1.
fn most_error(scheme: &Scheme) -> f64 {
    match scheme.number {
        Number::Fp8(_) => 0.004,
        _ => (32.0 * 4f64.powf(-scheme.code_bits())).min(0.85),
    }
}

#[track_caller]
fn check_close(def: &Def, q: &QTensor, w: &Array2<f32>) {
    let power: f64 = w.iter().map(|&x| f64::from(x).powi(2)).sum();
    let error = squared_error(w, q, None);
    let bound = most_error(&q.scheme()) * power;
    assert!(error <= bound, "{} {} {:?}: {error} of {power}", def.name, q.scheme(), w.dim());
}

#[test]
fn what_they_make_is_well_formed_close_and_always_the_same() {
    for (def, scheme) in supported() {
        for cols in widths(&scheme) {
            for rows in [0, 1, 5] {
                let w = weights(rows, cols, (rows + cols) as u64);
                let q = quantize(def, scheme, &w);
                check_shape(&q, &w, &scheme);
                assert_eq!(q, quantize(def, scheme, &w), "{} {scheme:?}", def.name);
                check_close(def, &q, &w);
            }
        }
    }
}

/// Searches compare the errors of the values that will be stored, entry by entry.
#[test]
fn squared_errors_are_those_of_the_rounded_values() {
    for scheme in schemes() {
        let w = weights(5, *widths(&scheme).last().unwrap(), 21);
        let importance: Vec<f32> = (0..w.ncols()).map(|c| 0.5 + (c % 3) as f32).collect();
        let context = Context { extent: Some(extent(&w)), importance: Some(&importance) };
        let q = scheme.quantize(w.view(), &context);
        let grid = match &q.codes {
            Codes::Scalar(scalar) => scalar.grid.clone(),
            Codes::Blocks { .. } => Grid::default(),
        };
        let mut expected = vec![0.0f64; grid.scales.len()];
        let values = q.values();
        for ((row, col), &x) in w.indexed_iter().filter(|_| !grid.scales.is_empty()) {
            let error = f64::from(values[[row, col]] - x).powi(2) * f64::from(importance[col]);
            expected[scheme.grid_index(row, col, q.cols)] += error;
        }
        let found = scheme.squared_errors(w.view(), &grid, &context);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() <= 1e-5 * expected,
                "{scheme:?}: {found}, {expected}"
            );
        }
    }
}

#[test]
fn zeros_stay_zeros_and_extremes_stay_finite() {
    for (def, scheme) in supported() {
        let cols = widths(&scheme)[1];
        let zeros = quantize(def, scheme, &Array2::zeros((3, cols)));
        assert!(zeros.values().iter().all(|&x| x == 0.0), "{} {scheme:?}", def.name);
        for size in [1e-42, 1e-30, 1e4] {
            let w = weights(3, cols, 9).mapv(|x| x * size);
            let q = quantize(def, scheme, &w);
            check_shape(&q, &w, &scheme);
            assert!(q.values().iter().all(|x| x.is_finite()), "{} {scheme:?} {size}", def.name);
            if size > 1.0 {
                check_close(def, &q, &w);
            }
        }
    }
}

#[test]
fn a_row_of_zeros_among_others_stays_zeros() {
    for (def, scheme) in supported() {
        let cols = widths(&scheme)[1];
        let mut w = weights(4, cols, 3);
        w.row_mut(2).fill(0.0);
        let q = quantize(def, scheme, &w);
        assert!(q.values().row(2).iter().all(|&x| x == 0.0), "{} {scheme:?}", def.name);
    }
}

#[test]
fn ranges_of_rows_are_quantized_as_the_whole_is() {
    for (def, scheme) in supported() {
        let cols = *widths(&scheme).last().unwrap();
        let multiple = scheme.row_multiple();
        let w = weights(3 * multiple + 2, cols, 5);
        let whole = quantize(def, scheme, &w);
        let rows = w.axis_chunks_iter(Axis(0), multiple);
        let parts = rows.map(|rows| apply(def, scheme, rows.to_owned(), extent(&w), None)).collect();
        assert_eq!(QTensor::stack(parts), whole, "{} {scheme:?}", def.name);
    }
}

#[test]
fn rows_of_another_layout_are_quantized_alike() {
    for (def, scheme) in supported() {
        let w = weights(6, widths(&scheme)[1], 8);
        let columns_first = w.t().as_standard_layout().to_owned().reversed_axes();
        assert!(!columns_first.is_standard_layout());
        let q = apply(def, scheme, columns_first, extent(&w), None);
        assert_eq!(q, quantize(def, scheme, &w), "{} {scheme:?}", def.name);
        let slice = w.slice(s![..;2, ..]).to_owned();
        check_shape(&apply(def, scheme, slice.clone(), extent(&w), None), &slice, &scheme);
    }
}

fn method(name: &str) -> &'static Def {
    METHODS.iter().find(|def| def.name == name).unwrap()
}

#[test]
fn the_clip_search_is_never_worse_than_min_max() {
    for scheme in schemes_of(method("mse")) {
        let w = weights(24, *widths(&scheme).last().unwrap(), 12);
        let importance: Vec<f32> = (0..w.ncols()).map(|c| 0.1 + (c % 7) as f32).collect();
        for importance in [None, Some(importance)] {
            let run = |name| {
                let q = apply(method(name), scheme, w.clone(), extent(&w), importance.clone());
                squared_error(&w, &q, importance.as_deref())
            };
            let (searched, covering) = (run("mse"), run("rtn"));
            assert!(searched <= covering * (1.0 + 1e-6), "{scheme:?}: {searched}, {covering}");
            if let Number::Int { bits: 2..=4 } = scheme.number {
                assert!(searched < 0.97 * covering, "{scheme:?}: {searched}, {covering}");
            }
        }
    }
}

#[test]
fn hqq_has_the_least_norm_of_its_own() {
    let norm = |w: &Array2<f32>, q: &QTensor| -> f64 {
        q.values().iter().zip(w).map(|(a, b)| f64::from((a - b).abs()).powf(0.7)).sum()
    };
    for scheme in schemes_of(method("hqq")) {
        let w = weights(24, 160, 13);
        let [hqq, mse, rtn] = ["hqq", "mse", "rtn"].map(|name| norm(&w, &quantize(method(name), scheme, &w)));
        assert!(hqq <= rtn * 1.0001 && hqq <= mse * 1.0001, "{scheme:?}: {hqq} {mse} {rtn}");
    }
}

#[test]
fn what_is_not_supported_has_a_reason_that_says_what_to_do() {
    let mut refused = 0;
    for def in METHODS {
        assert!(!def.summary.is_empty());
        let reasons = schemes().into_iter().filter_map(|scheme| (def.supports)(&scheme).err());
        let reasons: Vec<&str> = reasons.collect();
        assert!(reasons.iter().all(|reason| reason.contains("use ")), "{}: {reasons:?}", def.name);
        refused += reasons.len();
    }
    assert!(refused > 0);
    assert!(METHODS.iter().any(|def| schemes().iter().all(|scheme| (def.supports)(scheme).is_ok())));
}

#[test]
fn what_is_quantized_already_is_refused() {
    let scheme = Scheme::int(4, Granularity::Group(32), false, ScaleType::F16);
    let w = weights(2, 32, 1);
    let weight = Weight::Quantized(quantize(method("rtn"), scheme, &w));
    for def in quantizing() {
        let linear = BlockLinear {
            extent: Some(extent(&w)),
            input: Some(0),
            ..BlockLinear::new("proj.weight", scheme, weight.clone())
        };
        let method = quantizer(def).unwrap();
        let inputs = vec![statistics(32, method.needs())];
        let block = Block { linears: vec![linear], inputs, ..Block::default() };
        let error = method.quantize(&block).unwrap_err();
        assert!(error.to_string().contains("proj.weight: quantized already"), "{error}");
    }
}

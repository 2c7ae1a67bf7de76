//! The plain twins of the scalar codecs: each verb element by element, by its definition, with [`Scheme::grid_index`]; and the
//! tests that the fast paths equal them to the bit.

use ndarray::{Array2, ArrayView2, s};
use proptest::prelude::*;

use super::random::SplitMix64;
use super::{
    Codes, Context, Extent, Fp8, Granularity, Grid, Number, QTensor, ScalarCodes, ScaleType, Scheme, fp4,
    fp8, nf4, simd,
};

/// Returns the values of each grid entry.
fn cells(scheme: &Scheme, w: ArrayView2<f32>) -> Vec<Vec<f32>> {
    let [rows, cols] = scheme.grid_shape(w.nrows(), w.ncols());
    let mut cells = vec![Vec::new(); rows * cols];
    for ((row, col), &value) in w.indexed_iter() {
        cells[scheme.grid_index(row, col, w.ncols())].push(value);
    }
    cells
}

fn plain_fit(scheme: &Scheme, w: ArrayView2<f32>, context: &Context) -> Grid {
    let extent = context.extent.unwrap();
    let of_cell = |values: Vec<f32>| match scheme.granularity {
        Granularity::Tensor => extent,
        _ => Extent::of(&values),
    };
    let cells: Vec<Extent> = cells(scheme, w).into_iter().map(of_cell).collect();
    match scheme.number {
        Number::Int { bits } if !scheme.symmetric => plain_fit_asymmetric(bits, scheme.scale, &cells),
        Number::Fp4 if scheme.scale == ScaleType::E4M3 => plain_fit_nvfp4(extent, &cells),
        Number::Fp4 if scheme.scale == ScaleType::E8M0 => {
            let scales = cells.iter().map(|cell| plain_mx_scale(cell.absmax())).collect();
            Grid { scales, ..Grid::default() }
        }
        number => {
            let largest = match number {
                Number::Int { bits } => (2f32.powi(bits.into()) - 1.0) / 2.0,
                Number::Fp8(Fp8::E4M3) => 448.0,
                Number::Fp8(Fp8::E5M2) => 57344.0,
                Number::Fp4 => 6.0,
                _ => 1.0,
            };
            let scales = cells
                .iter()
                .map(|cell| plain_scale(scheme.scale, cell.absmax(), cell.absmax() / largest))
                .collect();
            Grid { scales, ..Grid::default() }
        }
    }
}

fn plain_scale(kind: ScaleType, reach: f32, scale: f32) -> f32 {
    if reach == 0.0 { kind.of_zeros() } else { kind.nearest(scale) }
}

fn plain_fit_asymmetric(bits: u8, kind: ScaleType, cells: &[Extent]) -> Grid {
    let (top, middle) = (2f32.powi(bits.into()) - 1.0, 2f32.powi(i32::from(bits) - 1));
    let mut grid = Grid::default();
    for cell in cells {
        let (low, high) = (cell.min.min(0.0), cell.max.max(0.0));
        let scale = plain_scale(kind, high - low, (high - low) / top);
        let zero = (-middle - low / scale).clamp(-middle, middle - 1.0).round_ties_even() + middle;
        grid.scales.push(scale);
        grid.zero_points.push(if low == high { middle as u8 } else { zero as u8 });
    }
    grid
}

fn plain_fit_nvfp4(extent: Extent, cells: &[Extent]) -> Grid {
    let global = 2688.0 * (1.0 / extent.absmax());
    let global = if global.is_finite() { global } else { 1.0 };
    let scale = |absmax: f32| plain_scale(ScaleType::E4M3, absmax, global * (absmax / 6.0));
    let scales = cells.iter().map(|cell| scale(cell.absmax())).collect();
    Grid { scales, global_scale: Some(global), ..Grid::default() }
}

/// Returns a power of two: the exponent of the magnitude, rounded to two significant bits, less 2.
fn plain_mx_scale(absmax: f32) -> f32 {
    let exponent = f64::from(absmax).log2().floor();
    let significand = f64::from(absmax) / exponent.exp2();
    let rounded = if significand >= 1.75 { exponent + 1.0 } else { exponent };
    (rounded - 2.0).max(-127.0).exp2() as f32
}

/// Returns the nearest of some values; in a tie, the first even index.
fn nearest(values: &[f32], x: f32) -> u8 {
    let distance = |&code: &usize| (f64::from(values[code]) - f64::from(x)).abs();
    let key = |code: &usize| (distance(code), code % 2);
    (0..values.len()).min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap()).unwrap() as u8
}

fn plain_code(number: Number, scaled: f32, zero: f32) -> u8 {
    match number {
        Number::Int { bits } => {
            let middle = 2f32.powi(i32::from(bits) - 1);
            let signed = (scaled + (zero - middle)).clamp(-middle, middle - 1.0).round_ties_even();
            (signed + middle) as u8
        }
        Number::Fp8(format) => {
            let finite = if format == Fp8::E4M3 { 0x7F } else { 0x7C };
            let sign = if scaled.is_sign_negative() { 0x80 } else { 0 };
            nearest(&fp8::table(format)[..finite], scaled.abs()) | sign
        }
        Number::Fp4 => nearest(&fp4::VALUES[..8], scaled.abs()) | if scaled < 0.0 { 8 } else { 0 },
        Number::Nf4 => nearest(&nf4::VALUES, scaled),
        Number::Ggml(_) => unreachable!("blocks are not scalar"),
    }
}

fn plain_value(number: Number, code: u8, zero: f32) -> f32 {
    match number {
        Number::Int { .. } => f32::from(code) - zero,
        Number::Fp8(format) => fp8::table(format)[usize::from(code)],
        Number::Fp4 => fp4::VALUES[usize::from(code)],
        Number::Nf4 => nf4::VALUES[usize::from(code)],
        Number::Ggml(_) => unreachable!("blocks are not scalar"),
    }
}

/// Returns scale (global scale divided out) and zero point of a grid entry.
fn entry(scheme: &Scheme, grid: &Grid, index: usize) -> (f32, f32) {
    let middle = if let Number::Int { bits } = scheme.number { 1u8 << (bits - 1) } else { 0 };
    let scale = grid.scales[index];
    let zero = grid.zero_points.get(index).copied().unwrap_or(middle);
    (grid.global_scale.map_or(scale, |global| scale / global), zero.into())
}

fn plain_round(scheme: &Scheme, w: ArrayView2<f32>, grid: &Grid) -> Vec<u8> {
    w.indexed_iter()
        .map(|((row, col), &value)| {
            let (scale, zero) = entry(scheme, grid, scheme.grid_index(row, col, w.ncols()));
            plain_code(scheme.number, value / scale, zero)
        })
        .collect()
}

fn plain_dequantize(q: &QTensor) -> Vec<f32> {
    let ScalarCodes { scheme, codes, grid, .. } = q.as_scalar();
    let value = |(i, &code): (usize, &u8)| {
        let (scale, zero) = entry(scheme, grid, scheme.grid_index(i / q.cols, i % q.cols, q.cols));
        plain_value(scheme.number, code, zero) * scale
    };
    codes.iter().enumerate().map(value).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Compares fast and plain, on both builds of the loops.
fn check(scheme: &Scheme, w: ArrayView2<f32>) {
    let values: Vec<f32> = w.iter().copied().collect();
    let context = Context { extent: Some(Extent::of(&values)), importance: None };
    let grid = plain_fit(scheme, w, &context);
    let codes = plain_round(scheme, w, &grid);
    for portable in [false, true] {
        simd::PORTABLE.set(portable);
        let q = scheme.quantize(w, &context);
        assert_eq!(
            q,
            QTensor::scalar(*scheme, [w.nrows(), w.ncols()], codes.clone(), grid.clone()),
            "{scheme:?}"
        );
        let mut out = vec![f32::NAN; w.len()];
        q.dequantize(&mut out);
        assert_eq!(bits(&out), bits(&plain_dequantize(&q)), "{scheme:?} {:?}", w.shape());
    }
}

const GRANULARITIES: [Granularity; 6] = [
    Granularity::Tensor,
    Granularity::Channel,
    Granularity::Group(16),
    Granularity::Group(37),
    Granularity::Block(4, 24),
    Granularity::Block(128, 128),
];

fn schemes() -> Vec<Scheme> {
    let mut schemes = vec![Scheme::NVFP4, Scheme::MXFP4, Scheme::nf4(64, ScaleType::F32)];
    for granularity in GRANULARITIES {
        for bits in 2..=8 {
            schemes.push(Scheme::int(bits, granularity, true, ScaleType::BF16));
            schemes.push(Scheme::int(bits, granularity, false, ScaleType::F16));
        }
        schemes.push(Scheme::fp8(Fp8::E4M3, granularity, ScaleType::F32));
        schemes.push(Scheme::fp8(Fp8::E5M2, granularity, ScaleType::BF16));
    }
    schemes
}

/// Returns weights with awkward values: zeros of both signs, huge, tiny and subnormal values, halves of integers.
fn awkward(rows: usize, cols: usize) -> Array2<f32> {
    let mut random = SplitMix64(0x2545_F491);
    Array2::from_shape_fn((rows, cols), |(row, col)| {
        let uniform = (random.unit() - 0.5) as f32;
        match (row % 7, col / 16 % 5) {
            (1, 1) => 0.0,
            (2, _) => -0.0,
            (3, 0) => uniform * 3e38,
            (4, _) => uniform * 1e-40,
            (5, _) => (uniform * 16.0).round() / 2.0,
            (6, 2) => uniform.abs(),
            _ => uniform * 0.1,
        }
    })
}

#[test]
fn fast_paths_equal_their_plain_twins() {
    for (rows, cols) in [(0, 0), (0, 5), (5, 0), (1, 1), (3, 7), (7, 16), (9, 33), (8, 130), (131, 150)] {
        let w = awkward(rows, cols);
        for scheme in schemes() {
            check(&scheme, w.view());
        }
    }
}

#[test]
fn a_view_that_is_not_contiguous_gives_the_same_codes() {
    let w = awkward(9, 70);
    let view = w.slice(s![.., 3..64]);
    for scheme in schemes() {
        check(&scheme, view);
    }
}

#[test]
fn reordered_groups_follow_g_idx() {
    let scheme = Scheme::int(4, Granularity::Group(2), false, ScaleType::F32);
    let grid = Grid { scales: vec![1.0, 10.0, 2.0, 20.0], zero_points: vec![0, 8, 1, 3], global_scale: None };
    let codes = vec![1, 9, 2, 10, 1, 9, 2, 10];
    let codes = ScalarCodes { scheme, codes, grid, g_idx: Some(vec![0, 1, 0, 1]) };
    let q = QTensor { rows: 2, cols: 4, codes: Codes::Scalar(codes) };
    let mut out = [0.0; 8];
    q.dequantize(&mut out);
    assert_eq!(out, [1.0, 10.0, 2.0, 20.0, 0.0, 120.0, 2.0, 140.0]);
}

#[test]
fn values_that_are_not_finite_stay_inside_the_codes() {
    let w = Array2::from_shape_vec((1, 4), vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0]).unwrap();
    for scheme in schemes() {
        let context = Context { extent: Some(Extent { min: -1.0, max: 1.0 }), importance: None };
        let q = scheme.quantize(w.view(), &context);
        let q = q.as_scalar();
        assert!(q.grid.scales.iter().all(|s| s.is_finite() && *s > 0.0), "{scheme:?}");
        let codes = 1u32 << scheme.code_bits() as u32;
        assert!(q.codes.iter().all(|&code| u32::from(code) < codes), "{scheme:?}");
    }
}

fn any_scheme() -> impl Strategy<Value = Scheme> {
    prop::sample::select(schemes())
}

/// Returns a matrix of small values with a few large ones.
fn any_matrix() -> impl Strategy<Value = Array2<f32>> {
    let value = prop_oneof![8 => -0.1f32..0.1, 1 => -30f32..30.0, 1 => Just(0.0f32)];
    (1usize..20, 1usize..70).prop_flat_map(move |(rows, cols)| {
        prop::collection::vec(value.clone(), rows * cols)
            .prop_map(move |values| Array2::from_shape_vec((rows, cols), values).unwrap())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn twins_agree_on_any_matrix(scheme in any_scheme(), w in any_matrix()) {
        check(&scheme, w.view());
    }

    /// Checks that rounding is to the nearest code: half a step, and the clipping by the scale's own rounding.
    #[test]
    fn integers_come_back_within_half_a_step(bits in 2u8..=8, symmetric: bool, w in any_matrix()) {
        let scheme = Scheme::int(bits, Granularity::Group(16), symmetric, ScaleType::BF16);
        let q = scheme.quantize(w.view(), &Context::default());
        let mut out = vec![0.0; w.len()];
        q.dequantize(&mut out);
        for (((row, col), &value), back) in w.indexed_iter().zip(out) {
            let scale = q.as_scalar().grid.scales[scheme.grid_index(row, col, w.ncols())];
            let clipped = scale * 2f32.powi(bits.into()) / 256.0;
            // Both ends and the zero point are rounded where there is one.
            let steps = if symmetric { 0.5 } else { 1.0 };
            prop_assert!((value - back).abs() <= steps * scale + clipped, "{value} → {back}, scale {scale}");
        }
    }

    /// Checks that any cut at a multiple of `row_multiple` gives the codes and the grid of the whole.
    #[test]
    fn ranges_of_rows_give_the_codes_of_the_whole(scheme in any_scheme(), w in any_matrix(), cut in 0usize..20) {
        let context = Context { extent: Some(Extent::of(w.as_slice().unwrap())), importance: None };
        let cut = cut.min(w.nrows()) / scheme.row_multiple() * scheme.row_multiple();
        let whole = scheme.quantize(w.view(), &context);
        let upper = scheme.quantize(w.slice(s![..cut, ..]), &context);
        let lower = scheme.quantize(w.slice(s![cut.., ..]), &context);
        prop_assert_eq!(&whole.rows(0..cut), &upper);
        prop_assert_eq!(&whole.rows(cut..w.nrows()), &lower);
        prop_assert_eq!(whole, QTensor::stack(vec![upper, lower]));
    }

    /// Checks that every element has an entry of the grid, and every entry an element.
    #[test]
    fn grid_indices_fill_the_grid(scheme in any_scheme(), rows in 1usize..300, cols in 1usize..300) {
        let [grid_rows, grid_cols] = scheme.grid_shape(rows, cols);
        let mut seen = vec![false; grid_rows * grid_cols];
        for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            seen[scheme.grid_index(row, col, cols)] = true;
        }
        prop_assert!(seen.into_iter().all(|seen| seen));
    }
}

//! Layers of every level compared with sums in f64, over awkward shapes; any number of threads must give the same bits.
#![allow(clippy::unwrap_used)]

use ndarray::{Array2, ArrayView2};

use super::*;
use crate::numerics::{Context, Extent, Fp8, Granularity, ScaleType, Scheme, convert};
use crate::tensor::{BlockType, DType};
use crate::test_support::uniform;

/// A matrix in memory, with the interface of one in a file.
struct InMemoryMatrix {
    dtype: DType,
    weight: Weight,
}

impl InMemoryMatrix {
    fn values(&self) -> Array2<f32> {
        match &self.weight {
            Weight::Dense(values) => values.clone(),
            Weight::Quantized(q) => q.values(),
        }
    }
}

impl Matrix for InMemoryMatrix {
    fn name(&self) -> &str {
        "matrix"
    }

    fn shape(&self) -> [usize; 2] {
        match &self.weight {
            Weight::Dense(values) => [values.nrows(), values.ncols()],
            Weight::Quantized(q) => [q.rows, q.cols],
        }
    }
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        Ok(match &self.weight {
            Weight::Dense(values) => Weight::Dense(values.slice(ndarray::s![rows, ..]).to_owned()),
            Weight::Quantized(q) => Weight::Quantized(q.rows(rows)),
        })
    }
    fn release(&self) {}
}

fn noise(len: usize, seed: u64) -> Vec<f32> {
    uniform(1, len, seed).into_raw_vec_and_offset().0
}

fn rounded(dtype: DType, values: &[f32]) -> Vec<f32> {
    let (mut bytes, mut out) = (Vec::new(), vec![0.0; values.len()]);
    convert::from_f32(dtype, values, &mut bytes);
    convert::to_f32(dtype, &bytes, &mut out);
    out
}

fn dense(dtype: DType, rows: usize, cols: usize) -> Arc<InMemoryMatrix> {
    let values = rounded(dtype, &noise(rows * cols, (rows * 1000 + cols) as u64));
    Arc::new(InMemoryMatrix {
        dtype,
        weight: Weight::Dense(Array2::from_shape_vec((rows, cols), values).unwrap()),
    })
}

fn quantized(scheme: Scheme, rows: usize, cols: usize) -> Arc<InMemoryMatrix> {
    let values = noise(rows * cols, (rows + cols) as u64);
    let w = ArrayView2::from_shape((rows, cols), &values).unwrap();
    let q = scheme.quantize(w, &Context { extent: Some(Extent::of(&values)), importance: None });
    Arc::new(InMemoryMatrix { dtype: DType::F32, weight: Weight::Quantized(q) })
}

fn load(
    parts: &[Arc<InMemoryMatrix>],
    bias: Option<Vec<f32>>,
    activations: Activations,
    level: Level,
) -> PackedLinear {
    let parts: Vec<Arc<dyn Matrix>> = parts.iter().map(|part| part.clone() as Arc<dyn Matrix>).collect();
    PackedLinear::load_for(&parts, bias, activations, level).unwrap()
}

fn forward(linear: &PackedLinear, x: &[f32], scratch: &mut Scratch) -> Vec<f32> {
    let rows = x.len() / linear.cols();
    let mut out = vec![f32::NAN; rows * linear.rows()];
    linear.forward(x, rows, scratch, &mut out);
    out
}

/// Returns products in f64, with the sums of magnitudes that errors are relative to.
fn reference(parts: &[Arc<InMemoryMatrix>], bias: Option<&[f32]>, x: &[f32], cols: usize) -> Vec<(f64, f64)> {
    let weights: Vec<Vec<f32>> = parts
        .iter()
        .flat_map(|p| p.values().rows().into_iter().map(|r| r.to_vec()).collect::<Vec<_>>())
        .collect();
    let dot = |x: &[f32], w: &[f32]| {
        x.iter().zip(w).fold((0.0, 0.0), |(sum, size), (&x, &w)| {
            let product = f64::from(x) * f64::from(w);
            (sum + product, size + product.abs())
        })
    };
    let row = |x| {
        weights.iter().enumerate().map(move |(i, w)| {
            let (sum, size) = dot(x, w);
            let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
            (sum + bias, size + bias.abs() + 1e-6)
        })
    };
    x.chunks(cols).flat_map(row).collect()
}

fn check(found: &[f32], expected: &[(f64, f64)], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (at, (&found, &(sum, size))) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(found) - sum).abs() <= 2e-6 * size, "{what}: {found} for {sum} at {at}");
    }
}

const ROWS_OF_INPUTS: [usize; 10] = [0, 1, 2, 3, 5, 7, 8, 13, 33, 70];

/// Checks every shape for one kind of weight: exact inputs at every level, and inputs rounded to bfloat16.
fn check_dtype(dtype: DType) {
    let mut scratch = Scratch::default();
    for cols in [1, 2, 7, 31, 32, 33, 64, 100, 577] {
        for rows in [1, 3, 15, 16, 17, 31, 48, 100] {
            let parts = [dense(dtype, rows, cols)];
            let bias = noise(rows, 3);
            let x = noise(70 * cols, 7);
            let halved = rounded(DType::BF16, &x);
            let exact = reference(&parts, Some(&bias), &x, cols);
            let rounded = reference(&parts, Some(&bias), &halved, cols);
            for level in Level::usable() {
                for activations in [Activations::F32, Activations::Auto] {
                    let linear = load(&parts, Some(bias.clone()), activations, level);
                    if activations == Activations::Auto && linear.forms == [InputForm::F32] {
                        continue; // the same as with F32
                    }
                    let expected = if linear.forms == [InputForm::Bf16] { &rounded } else { &exact };
                    let all = forward(&linear, &x, &mut scratch);
                    for n in ROWS_OF_INPUTS {
                        let found = forward(&linear, &x[..n * cols], &mut scratch);
                        check(&found, &expected[..n * rows], &format!("{level:?} {n}×{rows}×{cols}"));
                        assert_eq!(found, all[..n * rows], "the same bits in any company");
                    }
                }
            }
        }
    }
}

#[test]
fn bf16_weights() {
    check_dtype(DType::BF16);
}

#[test]
fn f16_weights() {
    check_dtype(DType::F16);
}

#[test]
fn f32_weights() {
    check_dtype(DType::F32);
}

fn schemes() -> Vec<Scheme> {
    vec![
        Scheme::fp8(Fp8::E4M3, Granularity::Channel, ScaleType::BF16),
        Scheme::fp8(Fp8::E4M3, Granularity::Tensor, ScaleType::F32),
        Scheme::fp8(Fp8::E5M2, Granularity::Block(128, 128), ScaleType::F32),
        Scheme::fp8(Fp8::E4M3, Granularity::Block(24, 100), ScaleType::F32),
        Scheme::int(3, Granularity::Group(32), false, ScaleType::F16),
        Scheme::nf4(64, ScaleType::F32),
        Scheme::MXFP4,
        Scheme::NVFP4,
        Scheme::ggml(BlockType::Q5_K),
        Scheme::ggml(BlockType::IQ4_XS),
        Scheme::ggml(BlockType::Q5_1),
    ]
}

#[test]
fn quantized_weights_with_exact_inputs() {
    let mut scratch = Scratch::default();
    for (scheme, rows) in
        schemes().into_iter().zip([1, 150, 300, 60, 16, 17, 31, 33, 40, 130, 7].into_iter().cycle())
    {
        let parts = [quantized(scheme, rows, 256)];
        let x = noise(33 * 256, 5);
        let expected = reference(&parts, None, &x, 256);
        for level in Level::usable() {
            let linear = load(&parts, None, Activations::F32, level);
            for n in [1, 2, 13, 33] {
                let found = forward(&linear, &x[..n * 256], &mut scratch);
                check(&found, &expected[..n * rows], &format!("{level:?} {scheme} {n}×{rows}"));
            }
        }
    }
}

#[test]
fn codes_stay_packed() {
    let linear = load(
        &[quantized(Scheme::nf4(64, ScaleType::BF16), 128, 1024)],
        None,
        Activations::Auto,
        Level::Plain,
    );
    assert!(linear.bytes() < 128 * 1024 * 6 / 8);
}

fn mixed() -> Vec<Arc<InMemoryMatrix>> {
    vec![
        dense(DType::BF16, 100, 256),
        dense(DType::F16, 17, 256),
        quantized(Scheme::ggml(BlockType::Q4_K), 33, 256),
        quantized(Scheme::MXFP4, 31, 256),
        dense(DType::F32, 1, 256),
    ]
}

#[test]
fn parts_of_several_types_in_any_number_of_threads_give_the_same_bits() {
    let parts = mixed();
    let bias = noise(182, 9);
    let x = noise(200 * 256, 11);
    let expected = reference(&parts, Some(&bias), &x, 256);
    let run = |linear: &PackedLinear, n: usize, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| forward(linear, &x[..n * 256], &mut Scratch::default()))
    };
    for (level, activations) in
        Level::usable().into_iter().flat_map(|level| [(level, Activations::F32), (level, Activations::Auto)])
    {
        let linear = load(&parts, Some(bias.clone()), activations, level);
        for n in [1, 2, 3, 8, 30, 70, 200] {
            let one = run(&linear, n, 1);
            if activations == Activations::F32 {
                check(&one, &expected[..n * 182], &format!("{level:?} {n} rows"));
            }
            for threads in [2, 3, 7] {
                assert_eq!(run(&linear, n, threads), one, "{level:?} {n} rows, {threads} threads");
            }
        }
    }
}

#[test]
fn inputs_of_8_bits_are_as_near_as_8_bits_are() {
    let parts = [quantized(Scheme::ggml(BlockType::Q4_0), 40, 256), dense(DType::BF16, 9, 256)];
    let x = noise(5 * 256, 13);
    let linear = load(&parts, None, Activations::Auto, Level::detect());
    assert!(linear.forms.contains(&InputForm::Int8 { group: 32 }));
    let found = forward(&linear, &x, &mut Scratch::default());
    let expected = reference(&parts, None, &x, 256);
    assert_eq!(found.len(), expected.len());
    for (found, (sum, size)) in found.into_iter().zip(expected) {
        assert!((f64::from(found) - sum).abs() < size / 127.0, "{found} for {sum}");
    }
}

#[test]
fn zeros_and_huge_values() {
    for level in Level::usable() {
        for dtype in [DType::BF16, DType::F32] {
            let linear = load(&[dense(dtype, 20, 33)], None, Activations::Auto, level);
            let out = forward(&linear, &[0.0; 66], &mut Scratch::default());
            assert_eq!(out, [0.0; 40]);
            let mut x = [0.0; 66];
            x[32] = f32::MAX; // next to the padding of an odd row
            x[33] = f32::INFINITY;
            let out = forward(&linear, &x, &mut Scratch::default());
            assert!(out[20..].iter().all(|v| v.is_infinite()), "{level:?}: {out:?}");
            assert!(!out[..20].iter().any(|v| v.is_nan()), "{level:?}: a row does not see the next");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let load = |parts: Vec<Arc<InMemoryMatrix>>, bias| {
        let parts: Vec<Arc<dyn Matrix>> = parts.into_iter().map(|part| part as Arc<dyn Matrix>).collect();
        PackedLinear::load(&parts, bias, Activations::Auto).err().unwrap().to_string()
    };
    let (a, b) = (dense(DType::F32, 3, 4), dense(DType::F32, 3, 5));
    assert!(load(vec![a.clone(), b], None).contains("5 columns stacked below 4"));
    assert!(load(vec![a], Some(vec![0.0; 2])).contains("a bias of 2 values for 3 rows"));
}

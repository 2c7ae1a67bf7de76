//! PackedWeight integers compared with their values, and every instruction set with the plain loop.

use std::ops::Range;

use super::*;
use crate::numerics::random::SplitMix64;
use crate::numerics::{Codes, Context, Granularity, ScalarCodes, ScaleType, Scheme};
use crate::tensor::{BlockType, DType};
use crate::test_support::{signed, uniform};

/// A quantized matrix in memory.
struct InMemoryMatrix(QTensor);

impl Matrix for InMemoryMatrix {
    fn name(&self) -> &str {
        "matrix"
    }

    fn shape(&self) -> [usize; 2] {
        [self.0.rows, self.0.cols]
    }
    fn dtype(&self) -> DType {
        DType::F32
    }
    fn read(&self, rows: Range<usize>) -> Result<Weight> {
        Ok(Weight::Quantized(self.0.rows(rows)))
    }
    fn release(&self) {}
}

fn quantize(scheme: Scheme, [rows, cols]: [usize; 2]) -> QTensor {
    let w = uniform(rows, cols, (rows * 1000 + cols) as u64) + 0.2;
    let extent = scheme.needs_extent().then(|| crate::numerics::Extent::of(w.as_slice().unwrap()));
    scheme.quantize(w.view(), &Context { extent, ..Context::default() })
}

fn dequantize(q: &QTensor) -> Vec<f32> {
    let mut out = vec![0.0; q.rows * q.cols];
    q.dequantize(&mut out);
    out
}

/// Returns inputs with `group` columns per scale, quantized with absmax/127.
fn inputs(rows: usize, cols: usize, group: usize, mut value: impl FnMut(usize, usize) -> f32) -> Inputs {
    let stride = cols.next_multiple_of(group);
    let mut x = Inputs { rows, stride, ..Inputs::default() };
    for row in 0..rows {
        let values: Vec<f32> = (0..stride).map(|k| if k < cols { value(row, k) } else { 0.0 }).collect();
        for values in values.chunks(group) {
            let scale = values.iter().fold(0.0f32, |max, v| max.max(v.abs())) / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let codes: Vec<i8> = values.iter().map(|v| (v * inverse).round() as i8).collect();
            x.scales.push(scale);
            x.sums.push(codes.iter().map(|&code| i32::from(code)).sum());
            x.codes.extend(codes);
        }
    }
    x
}

/// Returns x·wᵀ of the quantized inputs in f64, and Σ |x·w|, the reference for rounding errors.
fn product(x: &Inputs, w: &[f32], [rows, cols]: [usize; 2], group: usize) -> Vec<(f64, f64)> {
    let input = |row: usize, k: usize| {
        f64::from(x.codes[row * x.stride + k]) * f64::from(x.scales[row * (x.stride / group) + k / group])
    };
    let cell = |i: usize, j: usize| {
        (0..cols).fold((0.0, 0.0), |(sum, size), k| {
            let term = input(i, k) * f64::from(w[j * cols + k]);
            (sum + term, size + term.abs())
        })
    };
    (0..x.rows).flat_map(|i| (0..rows).map(move |j| cell(i, j))).collect()
}

fn multiply(packed: &PackedInt, x: &Inputs) -> Vec<f32> {
    let [rows, _] = packed.shape;
    let mut out = vec![f32::NAN; x.rows * rows];
    packed.multiply(x, 0..x.rows, 0..rows.div_ceil(PANEL), &mut out, rows);
    out
}

fn group_of(packed: &PackedInt) -> usize {
    let InputForm::Int8 { group } = packed.form() else { panic!("integers take integers") };
    group
}

/// Returns schemes of integers, one of each kind.
fn schemes() -> Vec<Scheme> {
    use Granularity::*;
    let int = Scheme::int;
    vec![
        int(4, Group(32), true, ScaleType::F16),
        int(4, Group(128), false, ScaleType::BF16),
        int(4, Group(48), false, ScaleType::F32),
        int(4, Channel, true, ScaleType::F32),
        int(8, Channel, true, ScaleType::BF16),
        int(8, Tensor, false, ScaleType::F32),
        int(8, Group(16), true, ScaleType::F16),
        int(6, Group(64), false, ScaleType::F32),
        int(3, Group(64), true, ScaleType::F16),
        int(2, Group(16), false, ScaleType::F16),
    ]
}

/// Returns weights of every scheme that supports this number of columns.
fn weights(rows: usize, cols: usize) -> impl Iterator<Item = QTensor> {
    let blocks = BlockType::ALL.into_iter().filter(move |block| cols.is_multiple_of(block.block_elements()));
    let schemes = schemes().into_iter().chain(blocks.map(Scheme::ggml));
    schemes.map(move |scheme| quantize(scheme, [rows, cols]))
}

fn packed(q: &QTensor) -> PackedInt {
    PackedInt::read(&InMemoryMatrix(q.clone()), Level::detect()).unwrap().unwrap()
}

/// Compares the product with f64, and every level with the plain one.
fn check(q: &QTensor, rows: usize, value: impl FnMut(usize, usize) -> f32) {
    let mut packed = packed(q);
    let group = group_of(&packed);
    let x = inputs(rows, q.cols, group, value);
    let expected = product(&x, &dequantize(q), [q.rows, q.cols], group);
    packed.level = Level::Plain;
    let plain = multiply(&packed, &x);
    for (i, (found, (sum, size))) in plain.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - sum).abs();
        assert!(error <= 2e-6 * size, "{} {i}: {found}, expected {sum}", q.scheme());
    }
    for level in Level::usable() {
        packed.level = level;
        let bits = |out: &[f32]| out.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        assert_eq!(bits(&multiply(&packed, &x)), bits(&plain), "{} {level:?}", q.scheme());
    }
}

#[test]
fn products_are_those_of_the_dequantized_weights_and_the_same_bits_on_every_level() {
    let mut random = SplitMix64(1);
    for (rows, cols) in [(1, 32), (3, 64), (15, 96), (16, 100), (17, 256), (48, 577), (100, 64), (33, 512)] {
        for q in weights(rows, cols) {
            for count in [0, 1, 2, 5, 8, 13, 33] {
                check(&q, count, |_, _| signed(&mut random));
            }
        }
    }
}

#[test]
fn panels_show_the_bits_of_dequantize() {
    for (rows, cols) in [(1, 32), (17, 100), (40, 256), (16, 577)] {
        for q in weights(rows, cols) {
            let (packed, expected) = (packed(&q), dequantize(&q));
            let mut panel = vec![f32::NAN; cols * PANEL];
            for p in 0..rows.div_ceil(PANEL) {
                packed.unpack(p, &mut panel);
                for (i, value) in panel.iter().enumerate() {
                    let (k, row) = (i / PANEL, p * PANEL + i % PANEL);
                    let expected = if row < rows { expected[row * cols + k] } else { 0.0 };
                    assert_eq!(*value, expected, "{} row {row} column {k}", q.scheme());
                }
            }
        }
    }
}

#[test]
fn nothing_saturates_at_the_extremes() {
    for mut q in weights(17, 256) {
        for fill in [0, 255u8] {
            match &mut q.codes {
                // The f16 scales of an all-ones block would be NaN: only blocks whose codes are separate bytes are set.
                Codes::Blocks { block: BlockType::Q8_0, bytes } => {
                    bytes.chunks_exact_mut(34).for_each(|block| block[2..].fill(fill ^ 0x80));
                }
                Codes::Blocks { .. } => continue,
                Codes::Scalar(ScalarCodes { scheme, codes, grid, .. }) => {
                    let top = (scheme.code_bits().exp2() - 1.0) as u8;
                    codes.fill(fill & top);
                    let zeros = grid.zero_points.iter_mut().enumerate();
                    zeros.for_each(|(i, zero)| *zero = [0, top][i % 2]);
                }
            }
            for sign in [1.0, -1.0] {
                check(&q, 9, |_, _| sign);
                check(&q, 9, |_, k| if k % 2 == 0 { sign } else { -sign });
            }
        }
    }
}

#[test]
fn zero_scales_give_zeros() {
    for mut q in weights(5, 64) {
        match &mut q.codes {
            Codes::Scalar(scalar) => scalar.grid.scales.fill(0.0),
            Codes::Blocks { bytes, .. } => bytes.fill(0),
        }
        let packed = packed(&q);
        let x = inputs(3, 64, group_of(&packed), |_, k| k as f32);
        assert!(multiply(&packed, &x).iter().all(|v| *v == 0.0), "{}", q.scheme());
    }
}

#[test]
fn ranges_of_rows_and_panels_are_those_of_the_whole() {
    let q = quantize(Scheme::ggml(BlockType::Q4_0), [100, 64]);
    let packed =
        PackedInt::pack(&InMemoryMatrix(q.clone()), Level::detect(), packing::columns(&q).unwrap(), 2)
            .unwrap()
            .unwrap();
    let x = inputs(13, 64, 32, |i, k| (i * 7 + k) as f32);
    let whole = multiply(&self::packed(&q), &x);
    let mut out = vec![f32::NAN; 9 * 60];
    packed.multiply(&x, 3..12, 3..7, &mut out, 60);
    for (i, row) in out.chunks(60).enumerate() {
        assert_eq!(row[..52], whole[(i + 3) * 100 + 48..][..52]);
        assert!(row[52..].iter().all(|v| v.is_nan()), "beyond the last row");
    }
}

#[test]
fn what_does_not_fit_is_left_to_others() {
    let none = |q: QTensor| assert!(pack(&InMemoryMatrix(q), Level::detect()).unwrap().is_none());
    none(quantize(Scheme::nf4(32, ScaleType::F32), [4, 64]));
    none(quantize(Scheme::int(4, Granularity::Group(24), true, ScaleType::F32), [4, 64]));
    let ordered = quantize(Scheme::int(4, Granularity::Group(32), true, ScaleType::F32), [4, 64]);
    let codes = ScalarCodes { g_idx: Some(vec![0; 64]), ..ordered.as_scalar().clone() };
    none(QTensor { codes: Codes::Scalar(codes), ..ordered });
}

#[test]
fn little_more_is_held_than_is_stored() {
    // These sizes fill whole pages of memory.
    let expected = [
        (BlockType::Q4_0, 4.5),
        (BlockType::Q4_1, 5.0),
        (BlockType::Q8_0, 8.5),
        (BlockType::Q4_K, 4.625),
        (BlockType::Q5_K, 8.625),
        (BlockType::Q6_K, 8.5625),
    ];
    for (block, bits) in expected {
        let packed = packed(&quantize(Scheme::ggml(block), [32, 512]));
        assert_eq!(PackedInt::bytes(&packed) as f64 * 8.0 / (32.0 * 512.0), bits, "{block:?}");
    }
}

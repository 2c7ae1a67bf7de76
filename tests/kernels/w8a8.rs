//! quantize_activations, bit for bit; then w8a8 on its output, against float64 sums of the same codes.

use llmc::cuda::{
    Half, Int8Product, Matrix, QuantizedActivations, W8A8_TILE_ROWS, Weight, Workspace, quantize_activations,
    upload_vector, w8a8,
};
use llmc::numerics::random::SplitMix64;
use llmc::numerics::{Granularity, QTensor};

use crate::emulator::Emulator;
use crate::tensor::{HALVES, Variant, close, pack, product, tensor, values, weights};

fn quantize(device: &Emulator, half: Half, x: &[f32], [m, k]: [usize; 2]) -> QuantizedActivations {
    let stride = k.next_multiple_of(8) + 8;
    let mut padded = vec![f32::NAN; m * stride];
    padded.chunks_mut(stride).zip(x.chunks(k)).for_each(|(to, row)| to[..k].copy_from_slice(row));
    let x = Matrix::upload(device, half, [m, stride], &padded).unwrap().view([m, k], stride).unwrap();
    let mut out = QuantizedActivations::allocate(device, half, [m, k]).unwrap();
    quantize_activations(device, &x, &mut out).unwrap();
    out
}

/// Returns a row's codes and its scale.
fn reference(row: &[f32]) -> (Vec<i8>, f32) {
    let largest = row.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
    (row.iter().map(|value| (value * inverse).round_ties_even() as i8).collect(), largest / 127.0)
}

/// Returns rows of different magnitudes.
fn rows(half: Half, [m, k]: [usize; 2], random: &mut SplitMix64) -> Vec<f32> {
    let values = values(half, m * k, random);
    values.iter().enumerate().map(|(i, value)| value * [0.5, 4.0, 64.0][i / k % 3]).collect()
}

#[test]
fn activations_are_quantized_exactly() {
    let mut random = SplitMix64(5);
    for half in HALVES {
        for [m, k] in [[1, 1], [2, 8], [3, 131], [2, 2304], [2, 5000]] {
            let x = rows(half, [m, k], &mut random);
            let (codes, scales): (Vec<_>, Vec<_>) = x.chunks(k).map(reference).unzip();
            for device in Emulator::all() {
                let found = quantize(&device, half, &x, [m, k]).download(&device).unwrap();
                assert_eq!(found, (scales.clone(), codes.concat()), "{half} [{m}, {k}]");
            }
        }
    }
}

#[test]
fn rows_that_cannot_be_scaled_show() {
    for half in HALVES {
        let x = [[0.0, -0.0], [f32::NAN, 1.0], [1.0, f32::NEG_INFINITY]].concat();
        let Some(device) = Emulator::open(0) else { return };
        let (scales, codes) = quantize(&device, half, &x, [3, 2]).download(&device).unwrap();
        assert_eq!(scales[0], 0.0);
        assert!(scales[1].is_nan() && scales[2] == f32::INFINITY);
        assert_eq!(codes, [0; 6]);
    }
}

fn check(half: Half, tile: usize, [m, n, k]: [usize; 3], splits: usize, random: &mut SplitMix64) {
    let variant = Variant { bits: 8, half, symmetric: true };
    let q = tensor(variant, Granularity::Channel, [n, k], random);
    let x = rows(half, [m, k], random);
    let bias = (m % 2 == 1).then(|| values(half, n, random));
    let rounded = |row: &[f32]| {
        let (codes, scale) = reference(row);
        codes.into_iter().map(move |code| f64::from(code) * f64::from(scale))
    };
    let seen: Vec<f64> = x.chunks(k).flat_map(rounded).collect();
    let expected = product(&seen, &weights(&q), k, bias.as_deref());
    let what = format!("{half} m{tile} [{m}, {n}, {k}] in {splits}");
    let found: Vec<_> = Emulator::all()
        .iter()
        .map(|device| run(device, half, (&q, &x, bias.as_deref()), tile, splits))
        .collect();
    for y in &found {
        close(y, &expected, half, &what);
        assert_eq!(y, &found[0], "{what}: other bits in another order");
    }
}

fn run(
    device: &Emulator,
    half: Half,
    (q, x, bias): (&QTensor, &[f32], Option<&[f32]>),
    tile: usize,
    splits: usize,
) -> Vec<f32> {
    let m = x.len() / q.cols;
    let weight = Weight::upload(device, &pack(q, Variant { bits: 8, half, symmetric: true })).unwrap();
    let x = quantize(device, half, x, [m, q.cols]);
    let bias = bias.map(|bias| upload_vector(device, half, bias).unwrap());
    let mut y = Matrix::allocate(device, half, [m, q.rows], false).unwrap();
    let parts = Int8Product { weight: &weight, x: &x, bias: bias.as_ref(), y: &mut y };
    w8a8(device, &parts, tile, splits, &mut Workspace::new()).unwrap();
    y.download(device).unwrap()
}

#[test]
fn w8a8_of_every_tile() {
    let mut random = SplitMix64(6);
    for half in HALVES {
        for tile in W8A8_TILE_ROWS {
            let cases =
                [([1, 1, 1], 1), ([tile - 1, 70, 131], 2), ([tile + 1, 130, 640], 3), ([5, 192, 1100], 1)];
            for (size, splits) in cases {
                check(half, tile, size, splits, &mut random);
            }
        }
    }
}

//! quantize_activations, bit for bit; and w8a8 behind it, against float64 sums of the same codes.

use crate::emulator::{Emulator, Launch, Memory, SEEDS};
use crate::numbers::{Float, Random};
use crate::weight::{Variant, Weight};

#[repr(C)]
struct Quantize {
    codes: u64,
    scales: u64,
    x: u64,
    m: i32,
    k: i32,
    x_stride: i32,
    reserved: i32,
}

#[repr(C)]
struct W8A8 {
    y: u64,
    x: u64,
    x_scales: u64,
    codes: u64,
    scales: u64,
    bias: u64,
    scratch: u64,
    tickets: u64,
    m: i32,
    n: i32,
    k: i32,
    k_per_block: i32,
}

/// Rows of codes as the kernel leaves them, and their scales.
struct Quantized {
    codes: Memory,
    scales: Memory,
}

fn quantize(emulator: &Emulator, float: Float, x: &[f64], [m, k]: [usize; 2], seed: u64) -> Quantized {
    let stride = k.next_multiple_of(8) + 8;
    let mut padded = vec![f64::NAN; m * stride];
    padded.chunks_mut(stride).zip(x.chunks(k)).for_each(|(to, row)| to[..k].copy_from_slice(row));
    let x = Memory::of(&float.bytes(&padded));
    let out =
        Quantized { codes: Memory::poisoned(m * k.next_multiple_of(128)), scales: Memory::poisoned(m * 4) };
    let parameter = Quantize {
        codes: out.codes.pointer(),
        scales: out.scales.pointer(),
        x: x.pointer(),
        m: m as i32,
        k: k as i32,
        x_stride: stride as i32,
        reserved: 0,
    };
    let launch = Launch { grid: [m as u32, 1, 1], block: [256, 1, 1], shared_bytes: 32, seed };
    emulator.launch(&format!("quantize_activations_{}", float.name()), &launch, &parameter).unwrap();
    out
}

/// A row's codes, in the order of its columns, and its scale.
fn reference(row: &[f64]) -> (Vec<i8>, f32) {
    let largest = row.iter().fold(0f32, |largest, &value| largest.max(value.abs() as f32));
    let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
    let codes = row.iter().map(|&value| (value as f32 * inverse).round_ties_even() as i8);
    (codes.collect(), largest / 127.0)
}

/// Column `k` of a row of codes; README.md, Kernels.
fn position(k: usize) -> usize {
    k / 16 * 16 + 4 * (k % 8 / 2) + 2 * (k % 2) + k % 16 / 8
}

fn scales(memory: &Memory) -> Vec<f32> {
    memory.read().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn rows(float: Float, m: usize, k: usize, random: &mut Random) -> Vec<f64> {
    (0..m * k).map(|i| float.round(random.signed() * (1 + i / k) as f64)).collect()
}

#[test]
fn activations_are_quantized_exactly() {
    let Some(emulator) = Emulator::open() else { return };
    let mut random = Random(5);
    for float in Float::ALL {
        for [m, k] in [[1, 1], [2, 8], [3, 131], [2, 2304], [2, 5000]] {
            let x = rows(float, m, k, &mut random);
            for seed in SEEDS {
                let found = quantize(emulator, float, &x, [m, k], seed);
                let codes = found.codes.read().chunks(k.next_multiple_of(128));
                for ((row, codes), scale) in x.chunks(k).zip(codes).zip(scales(&found.scales)) {
                    let (expected, expected_scale) = reference(row);
                    assert_eq!(scale, expected_scale);
                    let code = |c: usize| codes[position(c)] as i8;
                    assert!((0..k).all(|c| code(c) == expected[c]), "{float:?} [{m}, {k}] seed {seed}");
                    assert!((k..codes.len()).all(|c| code(c) == 0));
                }
            }
        }
    }
}

#[test]
fn rows_that_cannot_be_scaled_show() {
    let Some(emulator) = Emulator::open() else { return };
    for float in Float::ALL {
        let x = [[0.0, -0.0], [f64::NAN, 1.0], [1.0, f64::NEG_INFINITY]].concat();
        let found = quantize(emulator, float, &x, [3, 2], 0);
        let scales = scales(&found.scales);
        assert_eq!(scales[0], 0.0);
        assert!(scales[1].is_nan() && scales[2] == f32::INFINITY);
        assert!(found.codes.read().iter().all(|&code| code == 0));
    }
}

/// One product: [m, n, k] and how K is split.
fn check(
    emulator: &Emulator,
    float: Float,
    bm: usize,
    [m, n, k, k_per_block]: [usize; 4],
    random: &mut Random,
) {
    let weight = Weight::random(Variant { bits: 8, float, zeros: false }, n, k, 0, random);
    let x = rows(float, m, k, random);
    let bias: Vec<f64> = (0..n).map(|_| float.round(random.signed())).collect();
    let bias = (m % 2 == 1).then_some(&bias[..]);
    let mut first = None;
    for seed in SEEDS {
        let y = multiply(
            emulator,
            &weight,
            &quantize(emulator, float, &x, [m, k], seed),
            bias,
            (bm, m, k_per_block),
            seed,
        );
        for (i, &found) in float.values(&y).iter().enumerate() {
            let (codes, scale) = reference(&x[i / n * k..][..k]);
            let terms = codes.iter().enumerate().map(|(c, &code)| f64::from(code) * weight.value(i % n, c));
            let expected = terms.sum::<f64>() * f64::from(scale) + bias.map_or(0.0, |bias| bias[i % n]);
            let bound = float.epsilon() * expected.abs() * 1.01 + 1e-5;
            let place =
                format!("{float:?} {:?} seed {seed}: y[{}, {}]", [m, n, k, k_per_block], i / n, i % n);
            assert!((found - expected).abs() <= bound, "{place} = {found}, expected {expected} ± {bound}");
        }
        assert!(*first.get_or_insert_with(|| y.clone()) == y, "other bits under seed {seed}");
    }
}

fn multiply(
    emulator: &Emulator,
    weight: &Weight,
    x: &Quantized,
    bias: Option<&[f64]>,
    (bm, m, k_per_block): (usize, usize, usize),
    seed: u64,
) -> Vec<u8> {
    let float = weight.variant.float;
    let packed = weight.pack();
    let grid = [m.div_ceil(bm), weight.n64().div_ceil(128), weight.k128().div_ceil(k_per_block)];
    let tiles = grid[0] * grid[1];
    let y = Memory::poisoned(m * weight.n * 2);
    let bias = bias.map(|bias| Memory::of(&float.bytes(bias)));
    let scratch = Memory::poisoned(if grid[2] > 1 { tiles * grid[2] * bm * 128 * 4 } else { 0 });
    let tickets = Memory::of(&vec![0; tiles * 4]);
    let parameter = W8A8 {
        y: y.pointer(),
        x: x.codes.pointer(),
        x_scales: x.scales.pointer(),
        codes: packed.codes.pointer(),
        scales: packed.scales.pointer(),
        bias: bias.as_ref().map_or(0, Memory::pointer),
        scratch: scratch.pointer(),
        tickets: tickets.pointer(),
        m: m as i32,
        n: weight.n as i32,
        k: weight.k as i32,
        k_per_block: k_per_block as i32,
    };
    let shared_bytes = 3 * (128 * bm + 16_384);
    let launch = Launch { grid: grid.map(|size| size as u32), block: [256, 1, 1], shared_bytes, seed };
    emulator.launch(&format!("w8a8_{}_m{bm}", float.name()), &launch, &parameter).unwrap();
    scratch.read();
    assert!(tickets.read().iter().all(|&byte| byte == 0));
    y.read().to_vec()
}

#[test]
fn w8a8_of_every_tile() {
    let Some(emulator) = Emulator::open() else { return };
    let mut random = Random(6);
    for float in Float::ALL {
        for bm in [32, 128] {
            let cases =
                [[1, 1, 1, 128], [bm - 1, 70, 131, 128], [bm + 1, 130, 640, 256], [5, 192, 1100, 1152]];
            for case in cases {
                check(emulator, float, bm, case, &mut random);
            }
        }
    }
}

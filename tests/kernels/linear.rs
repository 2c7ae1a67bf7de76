//! gemv, gemm_small and gemm: y = x·Wᵀ + bias against float64, the same bits under every order of threads.

use crate::emulator::{Emulator, Launch, Memory, SEEDS};
use crate::numbers::{Float, Random};
use crate::weight::{Variant, Weight};

#[repr(C)]
pub struct Linear {
    pub y: u64,
    pub x: u64,
    pub codes: u64,
    pub scales: u64,
    pub zeros: u64,
    pub bias: u64,
    pub scratch: u64,
    pub tickets: u64,
    pub m: i32,
    pub n: i32,
    pub k: i32,
    pub x_stride: i32,
    pub group: i32,
    pub k_per_block: i32,
}

/// One product.
#[derive(Debug, Clone, Copy)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    group: usize,
    /// K is split by it.
    k_per_block: usize,
    bias: bool,
}

/// The grid of an operation, its threads and shared memory, and what its splits need of scratch (floats) and tickets.
struct Shape {
    operation: &'static str,
    suffix: &'static str,
    grid: [usize; 3],
    threads: usize,
    shared_bytes: usize,
    scratch: usize,
    tickets: usize,
}

fn strip(case: &Case, weight: &Weight) -> Shape {
    let splits = weight.k128().div_ceil(case.k_per_block);
    let (operation, pad) = if case.m == 1 { ("gemv", 0) } else { ("gemm_small", 16) };
    Shape {
        operation,
        suffix: "",
        grid: [weight.n64() / 64, splits, 1],
        threads: 128,
        shared_bytes: 58_368 + case.m * (2 * case.k_per_block + pad),
        scratch: splits * case.m * weight.n64(),
        tickets: weight.n64() / 64,
    }
}

/// x, [m, k] in rows of `stride` whose rest is NaN; and what the reference sums.
struct Input {
    values: Vec<f64>,
    stride: usize,
    memory: Memory,
}

fn input(float: Float, m: usize, k: usize, random: &mut Random) -> Input {
    let values: Vec<f64> = (0..m * k).map(|_| float.round(random.signed())).collect();
    let stride = k.next_multiple_of(8) + 8;
    let padded: Vec<f64> = (0..m * stride)
        .map(|i| if i % stride < k { values[i / stride * k + i % stride] } else { f64::NAN })
        .collect();
    Input { values, stride, memory: Memory::of(&float.bytes(&padded)) }
}

/// Each output, and the sum of the magnitudes that it adds up.
fn reference(weight: &Weight, x: &[f64], bias: Option<&[f64]>, rounded: bool) -> Vec<(f64, f64)> {
    let float = weight.variant.float;
    let value = |n, k| if rounded { float.round(weight.value(n, k)) } else { weight.value(n, k) };
    let values: Vec<f64> = (0..weight.n * weight.k).map(|i| value(i / weight.k, i % weight.k)).collect();
    let output = |row: &[f64], n: usize| {
        let terms = row.iter().zip(&values[n * weight.k..]).map(|(x, w)| x * w);
        let start = bias.map_or(0.0, |bias| bias[n]);
        terms.fold((start, start.abs()), |(sum, size), term| (sum + term, size + term.abs()))
    };
    x.chunks(weight.k)
        .flat_map(|row| (0..weight.n).map(move |n| (row, n)))
        .map(|(row, n)| output(row, n))
        .collect()
}

fn tile<const BM: usize>(case: &Case, weight: &Weight) -> Shape {
    let splits = weight.k128().div_ceil(case.k_per_block);
    let grid = [case.m.div_ceil(BM), weight.n64().div_ceil(256), splits];
    let (stages, codes) = if weight.variant.bits == 4 { (4, 8192) } else { (3, 16_384) };
    Shape {
        operation: "gemm",
        suffix: match BM {
            16 => "_m16",
            32 => "_m32",
            64 => "_m64",
            _ => "_m128",
        },
        grid,
        threads: 256,
        shared_bytes: stages * (128 * BM + codes + 1536),
        scratch: grid[0] * grid[1] * splits * BM * 256,
        tickets: grid[0] * grid[1],
    }
}

type ShapeOf = fn(&Case, &Weight) -> Shape;

fn check(emulator: &Emulator, variant: Variant, case: Case, shape: ShapeOf, random: &mut Random) {
    let weight = Weight::random(variant, case.n, case.k, case.group, random);
    let float = variant.float;
    let x = input(float, case.m, case.k, random);
    let bias: Vec<f64> = (0..case.n).map(|_| float.round(random.signed())).collect();
    let shape = shape(&case, &weight);
    let rounded = shape.operation == "gemm";
    let expected = reference(&weight, &x.values, case.bias.then_some(&bias[..]), rounded);
    let kernel = variant.kernel(shape.operation) + shape.suffix;
    let mut first = None;
    for seed in SEEDS {
        let y = run(emulator, &kernel, &case, &shape, (&weight, &x, &bias), seed);
        for (i, (&found, &(sum, size))) in float.values(&y).iter().zip(&expected).enumerate() {
            let bound = float.epsilon() * sum.abs() * 1.01 + 2e-6 * size;
            let place = format!("{kernel} {case:?} seed {seed}: y[{}, {}]", i / case.n, i % case.n);
            assert!((found - sum).abs() <= bound, "{place} = {found}, expected {sum} ± {bound}");
        }
        assert!(
            *first.get_or_insert_with(|| y.clone()) == y,
            "{kernel} {case:?}: other bits under seed {seed}"
        );
    }
}

fn run(
    emulator: &Emulator,
    kernel: &str,
    case: &Case,
    shape: &Shape,
    (weight, x, bias): (&Weight, &Input, &[f64]),
    seed: u64,
) -> Vec<u8> {
    let packed = weight.pack();
    let y = Memory::poisoned(case.m * case.n * 2);
    let bias = Memory::of(&weight.variant.float.bytes(bias));
    let split = weight.k128() > case.k_per_block;
    let scratch = Memory::poisoned(shape.scratch * 4);
    let tickets = Memory::of(&vec![0; shape.tickets * 4]);
    let parameter = Linear {
        y: y.pointer(),
        x: x.memory.pointer(),
        codes: packed.codes.pointer(),
        scales: packed.scales.pointer(),
        zeros: packed.zeros.as_ref().map_or(0, Memory::pointer),
        bias: if case.bias { bias.pointer() } else { 0 },
        scratch: if split { scratch.pointer() } else { 0 },
        tickets: if split { tickets.pointer() } else { 0 },
        m: case.m as i32,
        n: case.n as i32,
        k: case.k as i32,
        x_stride: x.stride as i32,
        group: weight.group as i32,
        k_per_block: case.k_per_block as i32,
    };
    let grid = shape.grid.map(|size| size as u32);
    let launch = Launch { grid, block: [shape.threads as u32, 1, 1], shared_bytes: shape.shared_bytes, seed };
    emulator
        .launch(kernel, &launch, &parameter)
        .unwrap_or_else(|e| panic!("{kernel} {case:?} seed {seed}: {e}"));
    scratch.read();
    assert!(tickets.read().iter().all(|&byte| byte == 0), "{kernel} {case:?}: tickets are left at zero");
    y.read().to_vec()
}

const GROUPS: [usize; 4] = [32, 64, 128, 0];

#[test]
fn gemv_of_every_group() {
    let Some(emulator) = Emulator::open() else { return };
    let mut random = Random(2);
    for variant in Variant::all() {
        for group in GROUPS {
            for [n, k, k_per_block] in
                [[1, 1, 128], [64, 128, 128], [65, 200, 256], [70, 2100, 640], [129, 1024, 1024]]
            {
                let case = Case { m: 1, n, k, group, k_per_block, bias: n % 2 == 1 };
                check(emulator, variant, case, strip, &mut random);
            }
        }
    }
}

#[test]
fn gemm_small_of_every_batch() {
    let Some(emulator) = Emulator::open() else { return };
    let mut random = Random(3);
    for variant in Variant::all() {
        for (m, group) in (2..=8).zip(GROUPS.into_iter().cycle()) {
            for [n, k, k_per_block] in [[1, 7, 128], [66, 300, 128], [64, 900, 512]] {
                let case = Case { m, n, k, group, k_per_block, bias: m % 2 == 1 };
                check(emulator, variant, case, strip, &mut random);
            }
        }
    }
}

#[test]
fn gemm_of_every_tile() {
    let Some(emulator) = Emulator::open() else { return };
    let mut random = Random(4);
    let shapes: [ShapeOf; 4] = [tile::<16>, tile::<32>, tile::<64>, tile::<128>];
    for variant in Variant::all() {
        for (shape, rows) in shapes.into_iter().zip([16, 32, 64, 128]) {
            let cases =
                [[1, 1, 1, 128], [rows - 1, 70, 131, 128], [rows + 1, 257, 264, 256], [3, 320, 640, 256]];
            for ([m, n, k, k_per_block], group) in cases.into_iter().zip([0, 64, 32, 128]) {
                let case = Case { m, n, k, group, k_per_block, bias: n % 2 == 1 };
                check(emulator, variant, case, shape, &mut random);
            }
        }
    }
}

//! gemm_sm90: y = x·Wᵀ + bias against float64, launched as kernels/README.md says.

use llmc::cuda::{Buffer, Device, Half};
use llmc::numerics::Granularity;
use llmc::numerics::random::SplitMix64;
use llmc::tensor::QTensor;

use crate::emulator::{Emulator, Grid, SEEDS};
use crate::tensor::{GRANULARITIES, Variant, close, pack, product, round, tensor, values, weights};

fn upload(device: &Emulator, bytes: &[u8]) -> Buffer {
    let mut buffer = device.allocate(bytes.len()).unwrap();
    device.upload(bytes, &mut buffer).unwrap();
    buffer
}

fn halves(half: Half, values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| half.encode(*value).to_le_bytes()).collect()
}

fn pair(first: usize, second: usize) -> u64 {
    first as u64 | (second as u64) << 32
}

/// y of x [m, k] (k a multiple of 8) with the depth in parts of `k_per_block`.
fn run(
    (device, seed): (&Emulator, u64),
    variant: Variant,
    q: &QTensor,
    (x, bias): (&[f32], &[f32]),
    k_per_block: usize,
) -> Vec<f32> {
    let (n, k, half) = (q.rows, q.cols, variant.half);
    let packed = pack(q, variant);
    let m = x.len() / k;
    let grid = [m.div_ceil(128), n.div_ceil(256), k.next_multiple_of(128).div_ceil(k_per_block)];
    let scales: Vec<u8> = packed.scales().iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let buffers = [&halves(half, x), packed.codes(), &scales, &halves(half, bias)].map(|b| upload(device, b));
    let zeros = packed.zeros().map(|zeros| upload(device, zeros));
    let y = device.allocate(2 * m * n).unwrap();
    let scratch = device.allocate(4 * grid.iter().product::<usize>() * 128 * 256).unwrap();
    let tickets = upload(device, &vec![0; 4 * grid[0] * grid[1]]);
    let [x, codes, scales, bias] = &buffers;
    let parameter = [
        y.address(),
        x.address(),
        codes.address(),
        scales.address(),
        zeros.as_ref().map_or(0, Buffer::address),
        bias.address(),
        scratch.address(),
        tickets.address(),
        pair(m, n),
        pair(k, k),
        pair(packed.group(), k_per_block),
    ];
    let shared_bytes = if variant.bits == 4 { 159_744 } else { 208_896 };
    let grid = Grid { grid: grid.map(|size| size as u32), block: [256, 1, 1], shared_bytes, seed };
    let zero = if variant.symmetric { "" } else { "_zero" };
    let kernel = format!("gemm_sm90_w{}_{half}{zero}", variant.bits);
    device.run(&kernel, &grid, &parameter).unwrap_or_else(|e| panic!("{kernel}: {e}"));
    let mut bytes = vec![0; 2 * m * n];
    device.download(&y, &mut bytes).unwrap();
    bytes.chunks_exact(2).map(|b| half.decode(u16::from_le_bytes([b[0], b[1]]))).collect()
}

fn check(
    variant: Variant,
    granularity: Granularity,
    [m, n, k]: [usize; 3],
    part: usize,
    random: &mut SplitMix64,
) {
    let q = tensor(variant, granularity, [n, k], random);
    let (x, bias) = (values(variant.half, m * k, random), values(variant.half, n, random));
    let w: Vec<f64> = weights(&q).into_iter().map(|value| round(variant.half, value)).collect();
    let wide: Vec<f64> = x.iter().copied().map(f64::from).collect();
    let expected = product(&wide, &w, k, Some(&bias));
    let what = format!("{variant:?} {granularity:?} [{m}, {n}, {k}]");
    let devices = SEEDS.into_iter().filter_map(|seed| Some((Emulator::open(seed)?, seed)));
    let found: Vec<_> =
        devices.map(|(device, seed)| run((&device, seed), variant, &q, (&x, &bias), part)).collect();
    for y in &found {
        close(y, &expected, variant.half, &what);
        assert_eq!(y, &found[0], "{what}: other bits in another order");
    }
}

#[test]
fn gemm_sm90_of_every_group() {
    let mut random = SplitMix64(8);
    for variant in Variant::all() {
        let cases = [([1, 1, 8], 128), ([129, 70, 136], 128), ([3, 320, 640], 640), ([130, 130, 264], 256)];
        for ((size, part), granularity) in cases.into_iter().rev().zip(GRANULARITIES) {
            check(variant, granularity, size, part, &mut random);
        }
    }
}

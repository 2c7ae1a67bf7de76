//! gemv, gemm_small, gemm and gemm_sm90: y = x·Wᵀ + bias against float64, the same bits under every order of threads.

use llmc::cuda::{
    Choice, DeviceLinear, KernelTable, Matrix, PackedProduct, ProductKernel, TILE_ROWS, Weight, Workspace,
    multiply, upload_vector,
};
use llmc::numerics::random::SplitMix64;
use llmc::numerics::{Granularity, QTensor};

use crate::emulator::Emulator;
use crate::tensor::{GRANULARITIES, Variant, close, pack, product, round, tensor, values, weights};

/// One product and its kernel.
#[derive(Debug, Clone, Copy)]
struct Case {
    kernel: ProductKernel,
    size: [usize; 3],
    granularity: Granularity,
    splits: usize,
}

/// x, with NaN between its rows, and the bias.
struct Input {
    x: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Input {
    fn random(variant: Variant, [m, n, k]: [usize; 3], random: &mut SplitMix64) -> Input {
        let x = values(variant.half, m * k, random);
        Input { x, bias: (n % 2 == 1).then(|| values(variant.half, n, random)) }
    }

    fn upload(&self, device: &Emulator, variant: Variant, [m, _, k]: [usize; 3]) -> Matrix {
        let stride = k.next_multiple_of(8) + 8;
        let mut padded = vec![f32::NAN; m * stride];
        padded.chunks_mut(stride).zip(self.x.chunks(k)).for_each(|(to, row)| to[..k].copy_from_slice(row));
        let matrix = Matrix::upload(device, variant.half, [m, stride], &padded).unwrap();
        matrix.view([m, k], stride).unwrap()
    }
}

fn check(variant: Variant, case: Case, random: &mut SplitMix64) {
    let [_, n, k] = case.size;
    let q = tensor(variant, case.granularity, [n, k], random);
    let input = Input::random(variant, case.size, random);
    // In large tiles, a fragment is code·scale rounded to the activations' type.
    let rounded = matches!(case.kernel, ProductKernel::Gemm(_) | ProductKernel::GemmSm90);
    let of = |value| if rounded { round(variant.half, value) } else { value };
    let w: Vec<f64> = weights(&q).into_iter().map(of).collect();
    let x: Vec<f64> = input.x.iter().copied().map(f64::from).collect();
    let expected = product(&x, &w, k, input.bias.as_deref());
    let what = format!("{variant:?} {case:?}");
    let found: Vec<Vec<f32>> =
        Emulator::all().iter().map(|device| run(device, variant, case, &q, &input)).collect();
    for y in &found {
        close(y, &expected, variant.half, &what);
        assert_eq!(y, &found[0], "{what}: other bits in another order");
    }
}

fn run(device: &Emulator, variant: Variant, case: Case, q: &QTensor, input: &Input) -> Vec<f32> {
    let [m, n, _] = case.size;
    let weight = Weight::upload(device, &pack(q, variant)).unwrap();
    let x = input.upload(device, variant, case.size);
    let bias = input.bias.as_ref().map(|bias| upload_vector(device, variant.half, bias).unwrap());
    let choice = Choice { kernel: case.kernel, splits: case.splits };
    let mut workspace = Workspace::new();
    let mut outputs = (0..2).map(|_| {
        let mut y = Matrix::allocate(device, variant.half, [m, n], false).unwrap();
        let mut parts = PackedProduct { weight: &weight, x: &x, bias: bias.as_ref(), y: &mut y };
        multiply(device, &mut parts, choice, &mut workspace)
            .unwrap_or_else(|e| panic!("{variant:?} {case:?}: {e}"));
        y.download(device).unwrap()
    });
    let first = outputs.next().unwrap();
    if case.splits > 1 {
        assert_eq!(outputs.next().unwrap(), first, "{case:?}: the workspace does not serve twice");
    }
    first
}

#[test]
fn gemv_of_every_group() {
    let mut random = SplitMix64(2);
    for variant in Variant::all() {
        for granularity in GRANULARITIES {
            let cases = [([1, 1], 1), ([64, 128], 1), ([65, 200], 2), ([70, 2100], 4), ([129, 1024], 1)];
            for ([n, k], splits) in cases {
                let case = Case { kernel: ProductKernel::Gemv, size: [1, n, k], granularity, splits };
                check(variant, case, &mut random);
            }
        }
    }
}

#[test]
fn gemm_small_of_every_batch() {
    let mut random = SplitMix64(3);
    for variant in Variant::all() {
        for (m, granularity) in (1..=8).zip(GRANULARITIES.into_iter().cycle()) {
            for ([n, k], splits) in [([1, 7], 1), ([66, 300], 3), ([65, 900], 2)] {
                let case = Case { kernel: ProductKernel::GemmSmall, size: [m, n, k], granularity, splits };
                check(variant, case, &mut random);
            }
        }
    }
}

#[test]
fn gemm_of_every_tile() {
    let mut random = SplitMix64(4);
    for variant in Variant::all() {
        for rows in TILE_ROWS {
            let cases =
                [([1, 1, 1], 1), ([rows - 1, 70, 131], 2), ([rows + 1, 257, 264], 1), ([3, 320, 640], 3)];
            for ((size, splits), granularity) in cases.into_iter().rev().zip(GRANULARITIES) {
                let case = Case { kernel: ProductKernel::Gemm(rows), size, granularity, splits };
                check(variant, case, &mut random);
            }
        }
    }
}

#[test]
fn gemm_sm90_of_every_group() {
    let mut random = SplitMix64(8);
    for variant in Variant::all() {
        let cases = [([130, 130, 264], 2), ([3, 320, 640], 1), ([129, 71, 130], 2), ([1, 1, 8], 1)];
        for ((size, splits), granularity) in cases.into_iter().zip(GRANULARITIES) {
            let case = Case { kernel: ProductKernel::GemmSm90, size, granularity, splits };
            check(variant, case, &mut random);
        }
    }
}

/// A layer computes every batch, with the kernel that the table chooses.
#[test]
fn a_layer_computes_every_batch() {
    let mut random = SplitMix64(5);
    let variant = Variant { bits: 4, half: llmc::cuda::Half::BF16, symmetric: false };
    let [n, k] = [200, 1100];
    let q = tensor(variant, Granularity::Group(96), [n, k], &mut random);
    let w = weights(&q);
    for m in [1, 2, 8, 9, 17, 40, 70] {
        let Some(device) = Emulator::open(2) else { return };
        let input = Input::random(variant, [m, 1, k], &mut random);
        let bias = values(variant.half, n, &mut random);
        let layer = DeviceLinear::upload(&device, &pack(&q, variant), Some(&bias)).unwrap();
        let x = input.upload(&device, variant, [m, n, k]);
        let y = layer.forward(&device, &KernelTable::default(), &x, &mut Workspace::new()).unwrap();
        let x: Vec<f64> = input.x.iter().copied().map(f64::from).collect();
        let expected = product(&x, &w, k, Some(&bias));
        let found = y.download(&device).unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, (sum, size)) in found.into_iter().zip(expected) {
            let bound = 2f64.powi(-8) * size; // weights may be rounded too
            assert!((f64::from(found) - sum).abs() <= bound, "m = {m}: {found}, expected {sum} ± {bound}");
        }
    }
}

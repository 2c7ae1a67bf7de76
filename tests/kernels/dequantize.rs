//! dequantize: every value is (code − zero)·scale rounded once, bit for bit. Also the product with the dequantized
//! weight.

use llmc::cuda::{Matrix, PackedProduct, Weight, Workspace, dequantize, dequantize_and_multiply};
use llmc::numerics::Granularity;
use llmc::numerics::random::SplitMix64;

use crate::emulator::Emulator;
use crate::tensor::{Variant, close, pack, product, round, tensor, values, weights};

#[test]
fn dequantize_is_exact() {
    let mut random = SplitMix64(1);
    let group = Granularity::Group;
    let cases = [
        ([1, 1], group(32)),
        ([64, 128], group(64)),
        ([65, 200], group(128)),
        ([67, 131], Granularity::Channel),
        ([130, 264], group(32)),
        ([70, 300], group(96)),
        ([3, 700], group(256)),
        ([66, 40], Granularity::Tensor),
    ];
    for variant in Variant::all() {
        for ([n, k], granularity) in cases {
            let q = tensor(variant, granularity, [n, k], &mut random);
            let expected: Vec<f64> =
                weights(&q).into_iter().map(|value| round(variant.half, value)).collect();
            for device in Emulator::all() {
                let weight = Weight::upload(&device, &pack(&q, variant)).unwrap();
                let mut out = Matrix::allocate(&device, variant.half, [n, k], false).unwrap();
                dequantize(&device, &weight, &mut out).unwrap();
                let found = out.download(&device).unwrap();
                assert_eq!(found.len(), expected.len());
                let wrong = found.iter().zip(&expected).position(|(&found, &e)| f64::from(found) != e);
                assert_eq!(wrong, None, "{variant:?} {granularity} [{n}, {k}]");
            }
        }
    }
}

#[test]
fn a_product_by_way_of_the_dense_weight() {
    let mut random = SplitMix64(7);
    for variant in Variant::all() {
        let [m, n, k] = [3, 65, 130];
        let q = tensor(variant, Granularity::Group(64), [n, k], &mut random);
        let x = values(variant.half, m * k, &mut random);
        let Some(device) = Emulator::open(0) else { return };
        let weight = Weight::upload(&device, &pack(&q, variant)).unwrap();
        let input = Matrix::upload(&device, variant.half, [m, k], &x).unwrap();
        let mut y = Matrix::allocate(&device, variant.half, [m, n], false).unwrap();
        let parts = PackedProduct { weight: &weight, x: &input, bias: None, y: &mut y };
        dequantize_and_multiply(&device, &parts, &mut Workspace::new()).unwrap();
        let w: Vec<f64> = weights(&q).into_iter().map(|value| round(variant.half, value)).collect();
        let x: Vec<f64> = x.into_iter().map(f64::from).collect();
        close(&y.download(&device).unwrap(), &product(&x, &w, k, None), variant.half, "dense");
    }
}

//! dequantize: every value is (code − zero)·scale rounded once, bit for bit.

use crate::emulator::{Emulator, Launch, Memory, SEEDS};
use crate::numbers::Random;
use crate::weight::{Variant, Weight};

#[repr(C)]
struct Parameter {
    w: u64,
    codes: u64,
    scales: u64,
    zeros: u64,
    n: i32,
    k: i32,
    group: i32,
    reserved: i32,
}

fn check(emulator: &Emulator, weight: &Weight) {
    let packed = weight.pack();
    let float = weight.variant.float;
    for seed in SEEDS {
        let out = Memory::poisoned(weight.n * weight.k * 2);
        let grid = [(weight.k128() / 128) as u32, (weight.n64() / 64) as u32, 1];
        let launch = Launch { grid, block: [256, 1, 1], shared_bytes: 17_408, seed };
        let parameter = Parameter {
            w: out.pointer(),
            codes: packed.codes.pointer(),
            scales: packed.scales.pointer(),
            zeros: packed.zeros.as_ref().map_or(0, Memory::pointer),
            n: weight.n as i32,
            k: weight.k as i32,
            group: weight.group as i32,
            reserved: 0,
        };
        let kernel = weight.variant.kernel("dequantize");
        emulator.launch(&kernel, &launch, &parameter).unwrap();
        let values = float.values(out.read());
        for (i, &value) in values.iter().enumerate() {
            let (n, k) = (i / weight.k, i % weight.k);
            let expected = float.round(weight.value(n, k));
            assert_eq!(value, expected, "{kernel} g{} [{n}, {k}], seed {seed}", weight.group);
        }
    }
}

#[test]
fn dequantize_is_exact() {
    let Some(emulator) = Emulator::open() else { return };
    let mut random = Random(1);
    for variant in Variant::all() {
        for [n, k, group] in [[1, 1, 32], [64, 128, 64], [65, 200, 128], [67, 131, 0], [130, 264, 32]] {
            check(emulator, &Weight::random(variant, n, k, group, &mut random));
        }
    }
}

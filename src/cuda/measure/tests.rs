//! Timings on a device that counts launches instead of time: the queued launches, their number, and the copies that
//! they use.

use std::collections::HashSet;

use super::*;
use crate::cuda::tests::Recorder;
use crate::cuda::{Bits, Choice, Half, KernelTable, ProductKernel};
use crate::numerics::Granularity;

fn layer() -> Layer {
    Layer { model: "test", name: "o".to_owned(), shape: [128, 512] }
}
const W4: WeightFormat = WeightFormat {
    bits: Bits::W4,
    half: Half::F16,
    granularity: Granularity::Group(128),
    zeros: false,
    rounded: false,
};
const W8A8: WeightFormat = WeightFormat {
    bits: Bits::W8,
    half: Half::F16,
    granularity: Granularity::Channel,
    zeros: false,
    rounded: true,
};

fn timing(batches: &[usize]) -> TimingOptions {
    TimingOptions { runs: 3, batches: batches.to_vec(), seed: 1 }
}

#[test]
fn each_batch_is_timed_over_copies_that_fill_the_cache_four_times() {
    let device = Recorder::h100().without_library();
    let timed = time_layer(&device, (&layer(), &W4), &KernelTable::default(), &timing(&[1, 20])).unwrap();
    let bytes = 128 * 512 / 2 + 128 * 4 * 2;
    let kernels: Vec<&str> = timed.iter().map(|timed| timed.kernel.as_str()).collect();
    assert_eq!(kernels, ["gemv", "gemm m32"]);
    assert_eq!(timed[1].size, [20, 128, 512]);
    assert_eq!(timed[1].bytes, bytes + 2 * 20 * (128 + 512));
    assert_eq!((timed[0].times.median, timed[0].times.runs, timed[0].dense), (1e-6, 3, None));
    let launches = device.launched();
    let copies: HashSet<u64> = launches.iter().map(|launch| launch.parameter()[2]).collect();
    let wanted = (4usize << 20).div_ceil(bytes);
    assert_eq!((copies.len(), launches.len()), (wanted, 2 * wanted));
}

#[test]
fn the_dense_product_and_the_rounded_one_are_timed_beside_it() {
    let device = Recorder::h100();
    let timed = time_layer(&device, (&layer(), &W8A8), &KernelTable::default(), &timing(&[40])).unwrap();
    assert_eq!(timed[0].kernel, "w8a8 m128");
    assert_eq!(timed[0].weights, "int8 channel symmetric under int8 inputs");
    assert_eq!(timed[0].times.median, 2e-6, "rounding is a launch of its own");
    assert_eq!(timed[0].dense.map(|times| times.median), Some(1e-6));
    assert_eq!(timed[0].speedup(), Some(0.5));
}

#[test]
fn tuning_of_rounded_products_tries_its_tiles_alone() {
    let device = Recorder::h100();
    let tuned = tune(&device, &layer(), &W8A8, &timing(&[100])).unwrap();
    assert_eq!(tuned[0].choice, Choice { kernel: ProductKernel::W8A8(32), splits: 1 });
    let tried: HashSet<String> = device.launched().iter().map(|launch| launch.kernel().to_owned()).collect();
    let all = ["quantize_activations_f16", "w8a8_f16_m32", "w8a8_f16_m128"].map(str::to_owned);
    assert_eq!(tried, HashSet::from(all));
}

#[test]
fn tuning_keeps_one_choice_a_batch() {
    let device = Recorder::h100();
    let tuned = tune(&device, &layer(), &W4, &timing(&[1, 100])).unwrap();
    assert_eq!(
        tuned.iter().map(|entry| (entry.m, entry.n, entry.k)).collect::<Vec<_>>(),
        [(1, 128, 512), (100, 128, 512)]
    );
    assert_eq!(tuned[0].choice.kernel, ProductKernel::Gemv, "the first of those that take as long");
    assert_eq!(tuned[0].device, "recorder 90");
    let tried: HashSet<String> = device.launched().iter().map(|launch| launch.kernel().to_owned()).collect();
    assert!(
        ["gemv_w4_f16", "gemm_small_w4_f16", "gemm_w4_f16_m128", "gemm_sm90_w4_f16"]
            .iter()
            .all(|k| tried.contains(*k))
    );
}

//! The driver's side of `llmc::cuda` without a GPU: contexts, streams, memory, modules, launches, graphs, events and
//! cuBLAS. kernels/emulator/driver/ stands in for libcuda.so and libcublas.so and runs kernels on the emulator.
//!
//! Needs feature `cuda`. A process finds the library of a name that was loaded first, so a GPU of this machine is not
//! used.
#![allow(clippy::unwrap_used, unsafe_code)]

#[path = "kernels/checks.rs"]
mod checks;
mod common;
#[path = "kernels/compile.rs"]
mod compile;

use std::sync::OnceLock;

use checks::{SMALL, W4, W8, worst};
use llmc::cuda::measure::{self, Layer, ProductCase, TimingOptions, WeightFormat};
use llmc::cuda::{self, Choice, Device, Half, KernelTable, Matrix, ProductKernel, Workspace};
use llmc::error::Error;
use tempfile::TempDir;

/// Returns the folder of the stand-ins, which this process has loaded; `None`, with a message, without a C++ compiler.
fn libraries() -> Option<&'static TempDir> {
    static LOADED: OnceLock<Option<TempDir>> = OnceLock::new();
    let load = || {
        let folder = tempfile::tempdir().unwrap();
        for library in compile::driver(&compile::compiler()?, folder.path()) {
            // SAFETY: its initializers only create empty maps.
            std::mem::forget(unsafe { libloading::Library::new(library) }.unwrap());
        }
        Some(folder)
    };
    LOADED.get_or_init(load).as_ref()
}

fn open() -> Option<Box<dyn Device>> {
    libraries()?;
    Some(cuda::open(0).unwrap())
}

fn hint_of(error: Error, expected: &str) {
    let Error::Device { what, hint } = &error else { panic!("{error}") };
    assert!(what.contains(expected) && !hint.is_empty(), "{what}; {hint}");
}

#[test]
fn a_gpu_is_what_the_driver_says() {
    let Some(device) = open() else { return };
    let properties = device.properties();
    assert_eq!(
        (properties.name.as_str(), properties.capability, properties.processors),
        ("emulated GPU", 90, 4)
    );
    assert_eq!((properties.shared_bytes, properties.memory_bytes), (232_448, 1 << 30));
    assert!(properties.library && properties.driver.starts_with("CUDA "), "{properties:?}");
    hint_of(cuda::open(1).err().unwrap(), "no GPU 1: the driver knows 1");
}

#[test]
fn every_kernel_is_found_and_launched() {
    let Some(device) = open() else { return };
    let worst = worst(&*device, SMALL).unwrap();
    assert!(worst.iter().all(|worst| *worst <= 1.0), "{worst:?}");
}

#[test]
fn a_device_serves_other_threads() {
    let Some(device) = open() else { return };
    let check = || worst(&*device, SMALL).unwrap();
    let found = std::thread::scope(|scope| {
        [scope.spawn(check), scope.spawn(check)].map(|thread| thread.join().unwrap())
    });
    assert!(found.iter().flatten().all(|worst| *worst <= 1.0), "{found:?}");
}

#[test]
fn products_are_recorded_and_timed() {
    let Some(device) = open() else { return };
    let layer = Layer { model: "tiny", name: "layer".into(), shape: [70, 256] };
    let timing = TimingOptions { runs: 1, batches: vec![1, 5, 20], seed: 1 };
    for weights in [W4, W8, WeightFormat { rounded: true, ..W8 }] {
        for timed in
            measure::time_layer(&*device, (&layer, &weights), &KernelTable::default(), &timing).unwrap()
        {
            assert!(timed.times.median > 0.0 && timed.dense.unwrap().median > 0.0, "{timed:?}");
        }
    }
}

#[test]
fn tuning_measures_what_the_device_can() {
    let Some(device) = open() else { return };
    let layer = Layer { model: "tiny", name: "layer".into(), shape: [64, 256] };
    let tuned =
        measure::tune(&*device, &layer, &W8, &TimingOptions { runs: 1, batches: vec![2], seed: 1 }).unwrap();
    let problem = ProductCase { weights: W8, size: [2, 64, 256], bias: false }.problem();
    let chosen = KernelTable::new(tuned.clone()).choose(device.properties(), &problem).unwrap();
    assert_eq!((tuned.len(), tuned[0].choice), (1, chosen));
}

#[test]
fn memory_that_is_not_there_is_an_error_and_the_device_lives_on() {
    let Some(device) = open() else { return };
    hint_of(device.allocate(1 << 31).unwrap_err(), "out of memory");
    let x = Matrix::upload(&*device, Half::F16, [1, 3], &[1.0, 2.0, 3.0]).unwrap();
    assert_eq!(x.download(&*device).unwrap(), [1.0, 2.0, 3.0]);
}

#[test]
fn what_must_not_be_recorded_is_an_error_and_the_device_lives_on() {
    let Some(device) = open() else { return };
    let mut calls = 0;
    let mut allocate = |_| {
        calls += 1;
        device.allocate(16).map(drop)
    };
    hint_of(device.time(1, 1, &mut allocate).unwrap_err(), "allocating 16 bytes");
    assert_eq!(calls, 2, "once to warm up, once recorded");
    let mut nothing = |_| Ok(());
    assert!(device.time(1, 1, &mut nothing).is_ok());
    let case = ProductCase { weights: W4, size: SMALL[0], bias: true };
    let choice = Choice { kernel: ProductKernel::Gemv, splits: 2 };
    assert!(measure::check_product(&*device, &case, choice, 1, &mut Workspace::new()).unwrap().worst <= 1.0);
}

#[test]
fn the_program_finds_them_too() {
    let Some(folder) = libraries() else { return };
    let here = tempfile::tempdir().unwrap();
    let run = |variable: &str, value: &str, line: &str| {
        let mut command = common::llmc(here.path());
        let output =
            command.env("LD_LIBRARY_PATH", folder.path()).env(variable, value).args(line.split(' ')).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let old = run("LLMC_EMULATED_VERSION", "11080", "bench kernels --check");
    assert!(old.contains("the NVIDIA driver is of CUDA 11.8"), "{old}");
    let small = run("LLMC_EMULATED_MEMORY", "4096", "bench kernels --check");
    assert!(small.contains("out of memory") && small.contains("hint: "), "{small}");
}

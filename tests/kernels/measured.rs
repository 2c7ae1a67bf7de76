//! The checks of `llmc bench kernels` on the emulated device: they must pass for correct kernels and fail for a device
//! that computes nothing. On a machine with a GPU, the checks also run there.

use llmc::cuda::measure::{self, ProductCase};
use llmc::cuda::{Buffer, Choice, Device, Launch, ProductKernel, Properties, Workspace};
use llmc::error::Result;

use crate::checks::{SMALL, W4, W8, worst};
use crate::emulator::Emulator;

#[test]
fn the_checks_hold_on_the_emulator() {
    let Some(device) = Emulator::open(11) else { return };
    let worst = worst(&device, SMALL).unwrap();
    assert!(worst.iter().all(|worst| *worst <= 1.0), "{worst:?}");
}

/// The emulator without the launches of some kernels.
struct Lazy(Emulator, &'static str);

impl Device for Lazy {
    fn properties(&self) -> &Properties {
        self.0.properties()
    }
    fn allocate(&self, bytes: usize) -> Result<Buffer> {
        self.0.allocate(bytes)
    }
    fn upload(&self, bytes: &[u8], buffer: &mut Buffer) -> Result<()> {
        self.0.upload(bytes, buffer)
    }
    fn download(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        self.0.download(buffer, bytes)
    }
    fn launch(&self, launch: &Launch) -> Result<()> {
        if launch.kernel().starts_with(self.1) { Ok(()) } else { self.0.launch(launch) }
    }
}

#[test]
fn a_kernel_that_does_nothing_does_not_pass() {
    for lazy in ["gemv", "gemm_w4", "dequantize", "quantize_activations", "w8a8"] {
        let Some(emulator) = Emulator::open(0) else { return };
        let device = Lazy(emulator, lazy);
        let case = ProductCase { weights: W8, size: [2, 9, 20], bias: false };
        let worst = match lazy {
            "gemv" | "gemm_w4" => {
                let (kernel, m) =
                    if lazy == "gemv" { (ProductKernel::Gemv, 1) } else { (ProductKernel::Gemm(16), 2) };
                let case = ProductCase { weights: W4, size: [m, 9, 20], bias: false };
                measure::check_product(&device, &case, Choice { kernel, splits: 1 }, 1, &mut Workspace::new())
            }
            "dequantize" => measure::check_dequantize(&device, &case, 1),
            _ => measure::check_rounded_product(&device, &case, [32, 1], 1),
        };
        assert!(worst.unwrap().worst > 1.0, "{lazy}");
    }
}

#[test]
fn the_checks_hold_on_a_gpu() {
    match llmc::cuda::open(0) {
        Ok(device) => {
            let worst = worst(&*device, [[1, 4097, 4096], [7, 1000, 3000], [200, 513, 2000]]).unwrap();
            assert!(worst.iter().all(|worst| *worst <= 1.0), "{worst:?}");
        }
        Err(error) => eprintln!("SKIPPED: no GPU: {error}"),
    }
}

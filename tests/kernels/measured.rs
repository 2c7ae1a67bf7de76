//! What `llmc bench kernels` checks a GPU with, on the emulated device: it must find the kernels right here, and a device that computes
//! nothing wrong. On a machine with a GPU, the same there.

use llmc::cuda::measure::{self, Case, Weights};
use llmc::cuda::{Bits, Buffer, Choice, Device, Half, Kernel, Launch, Properties, Workspace};
use llmc::error::Result;
use llmc::numerics::Granularity;

use crate::emulator::Emulator;

const W4: Weights =
    Weights { bits: Bits::W4, half: Half::F16, granularity: Granularity::Group(64), zeros: true };
const W8: Weights =
    Weights { bits: Bits::W8, half: Half::BF16, granularity: Granularity::Channel, zeros: false };

/// The largest error of each kind of check, in units of what rounding explains.
fn worst(device: &dyn Device, sizes: [[usize; 3]; 3]) -> Result<Vec<f64>> {
    let large = if device.properties().capability == 90 { Kernel::GemmSm90 } else { Kernel::Gemm(16) };
    let kernels = [Kernel::Gemv, Kernel::GemmSmall, large];
    let mut found = Vec::new();
    for weights in [W4, W8] {
        for (size, kernel) in sizes.into_iter().zip(kernels) {
            let (case, choice) =
                (Case { weights, size, bias: size[1] % 2 == 1 }, Choice { kernel, splits: 2 });
            let checked = measure::check_product(device, &case, choice, 7, &mut Workspace::new())?;
            assert_eq!(checked.outputs, size[0] * size[1]);
            found.push(checked.worst);
        }
        let [case, dense] = [sizes[0], sizes[2]].map(|size| Case { weights, size, bias: false });
        let choice = Choice { kernel: Kernel::Dequantize, splits: 1 };
        found.push(measure::check_product(device, &dense, choice, 8, &mut Workspace::new())?.worst);
        found.push(measure::check_dequantize(device, &case, 9)?.worst);
    }
    let case = Case { weights: W8, size: sizes[2], bias: true };
    found.push(measure::check_rounded_product(device, &case, [32, 2], 3)?.worst);
    Ok(found)
}

const SMALL: [[usize; 3]; 3] = [[1, 70, 300], [3, 65, 400], [10, 40, 129]];

#[test]
fn the_checks_hold_on_the_emulator() {
    let Some(device) = Emulator::open(11) else { return };
    let worst = worst(&device, SMALL).unwrap();
    assert!(worst.iter().all(|worst| *worst <= 1.0), "{worst:?}");
}

/// The emulator, with launches of some kernels left out.
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
        let case = Case { weights: W8, size: [2, 9, 20], bias: false };
        let worst = match lazy {
            "gemv" | "gemm_w4" => {
                let (kernel, m) = if lazy == "gemv" { (Kernel::Gemv, 1) } else { (Kernel::Gemm(16), 2) };
                let case = Case { weights: W4, size: [m, 9, 20], bias: false };
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

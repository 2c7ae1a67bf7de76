//! The wrappers on a device that only records calls: refused operands, and the launches. tests/kernels.rs checks the
//! outputs of kernels.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::choice::TunedChoice;
use super::*;
use crate::error::{Error, Result};
use crate::numerics::{Granularity, Grid, QTensor, ScaleType, Scheme};

/// A device that records launches and does no work.
pub(super) struct Recorder {
    properties: Properties,
    next: AtomicU64,
    launches: Mutex<Vec<Launch>>,
    multiplied: Mutex<Vec<DenseProduct>>,
}

impl Recorder {
    pub(crate) fn new(id: u64, capability: u32, shared_bytes: u32, processors: u32) -> Recorder {
        let (name, driver) = (format!("recorder {capability}"), "none".to_owned());
        let (library, cache_bytes, memory_bytes) = (true, 1 << 20, 1 << 26);
        let properties = Properties {
            id,
            name,
            uuid: String::new(),
            capability,
            processors,
            shared_bytes,
            cache_bytes,
            memory_bytes,
            library,
            driver,
        };
        Recorder {
            properties,
            next: AtomicU64::new(4096),
            launches: Mutex::default(),
            multiplied: Mutex::default(),
        }
    }

    pub(crate) fn h100() -> Recorder {
        Recorder::new(1, 90, 232_448, 132)
    }

    pub(crate) fn without_library(mut self) -> Recorder {
        self.properties.library = false;
        self
    }

    pub(crate) fn launched(&self) -> Vec<Launch> {
        std::mem::take(&mut self.launches.lock().unwrap())
    }
}

impl Device for Recorder {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer> {
        if bytes > self.properties.memory_bytes {
            let hint = "take less".to_owned();
            return Err(Error::Device { what: format!("{bytes} bytes: out of memory"), hint });
        }
        let address = self.next.fetch_add(bytes.next_multiple_of(256) as u64 + 256, Ordering::Relaxed);
        Ok(Buffer::unbacked(self.properties.id, address, bytes))
    }

    fn upload(&self, bytes: &[u8], buffer: &mut Buffer) -> Result<()> {
        assert!(bytes.len() <= buffer.bytes() && buffer.device() == self.properties.id);
        Ok(())
    }

    fn download(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        assert!(bytes.len() <= buffer.bytes() && buffer.device() == self.properties.id);
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        self.launches.lock().unwrap().push(launch.clone());
        Ok(())
    }

    fn multiply(&self, dense: &DenseProduct) -> Result<()> {
        self.multiplied.lock().unwrap().push(dense.clone());
        Ok(())
    }

    /// Counts a microsecond for each launch.
    fn time(&self, count: usize, runs: usize, work: &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
        let queued = || self.launches.lock().unwrap().len() + self.multiplied.lock().unwrap().len();
        let before = queued();
        (0..count).try_for_each(work)?;
        Ok(vec![1e-6 * (queued() - before) as f64 / count as f64; runs])
    }
}

fn weight(
    device: &dyn Device,
    bits: u8,
    granularity: Granularity,
    symmetric: bool,
    [n, k]: [usize; 2],
) -> Weight {
    let scheme = Scheme::int(bits, granularity, symmetric, ScaleType::F16);
    let [grid_rows, grid_cols] = scheme.grid_shape(n, k);
    let entries = grid_rows * grid_cols;
    let zero_points = if symmetric { vec![] } else { vec![3; entries] };
    let grid = Grid { scales: vec![1.0; entries], zero_points, global_scale: None };
    let q = QTensor::scalar(scheme, [n, k], vec![1; n * k], grid);
    Weight::upload(device, &PackedMatrix::pack(&q, Half::F16).unwrap()).unwrap()
}

fn matrix(device: &dyn Device, half: Half, shape: [usize; 2]) -> Matrix {
    Matrix::allocate(device, half, shape, true).unwrap()
}

fn output(device: &dyn Device, shape: [usize; 2]) -> Matrix {
    Matrix::allocate(device, Half::F16, shape, false).unwrap()
}

/// Returns the low and the high 32 bits.
fn pair(word: u64) -> [u64; 2] {
    [word & 0xffff_ffff, word >> 32]
}

#[test]
fn a_launch_says_what_the_kernel_declares() {
    let device = Recorder::h100();
    let w = weight(&device, 4, Granularity::Group(64), false, [200, 300]);
    let (x, mut y) = (matrix(&device, Half::F16, [5, 300]), output(&device, [5, 200]));
    let bias = upload_vector(&device, Half::F16, &[0.0; 200]).unwrap();
    let (mut workspace, y_address) = (Workspace::new(), y.buffer().address());
    let product = PackedProduct { weight: &w, x: &x, bias: Some(&bias), y: &mut y };
    gemm_small(&device, &product, 2, &mut workspace).unwrap();
    let [launch] = &device.launched()[..] else { panic!("one launch") };
    assert_eq!((launch.kernel(), launch.block()), ("gemm_small_w4_f16_zero", 128));
    assert_eq!(launch.grid(), [4, 2, 1]);
    assert_eq!(launch.shared_bytes(), 12 * (4864 + 5 * (2 * 128 + 16)));
    let words = launch.parameter();
    assert_eq!(words.len() * 8, 88, "struct Linear of kernels/README.md");
    assert_eq!(words[..2], [y_address, x.buffer().address()]);
    assert!(words[..8].iter().all(|address| *address != 0 && address.is_multiple_of(16)), "{words:?}");
    assert_eq!([pair(words[8]), pair(words[9]), pair(words[10])], [[5, 200], [300, 304], [64, 256]]);
}

#[test]
fn what_is_not_shared_needs_no_workspace() {
    let device = Recorder::h100();
    let w = weight(&device, 8, Granularity::Channel, true, [64, 128]);
    let (x, mut y) = (matrix(&device, Half::F16, [1, 128]), output(&device, [1, 64]));
    let product = PackedProduct { weight: &w, x: &x, bias: None, y: &mut y };
    gemv(&device, &product, 9, &mut Workspace::new()).unwrap();
    gemm(&device, &product, 16, 1, &mut Workspace::new()).unwrap();
    for launch in device.launched() {
        assert_eq!(launch.parameter()[4..8], [0; 4], "{}: zeros, bias, scratch, tickets", launch.kernel());
        assert_eq!(launch.grid(), [1, 1, 1], "{}", launch.kernel());
    }
}

#[test]
fn parameters_of_the_other_kernels() {
    let device = Recorder::h100();
    let w = weight(&device, 8, Granularity::Channel, true, [130, 260]);
    let (x, mut dense) = (matrix(&device, Half::F16, [40, 260]), output(&device, [130, 260]));
    dequantize(&device, &w, &mut dense).unwrap();
    let mut rounded = QuantizedActivations::allocate(&device, Half::F16, [40, 260]).unwrap();
    quantize_activations(&device, &x, &mut rounded).unwrap();
    let mut y = output(&device, [40, 130]);
    let product = Int8Product { weight: &w, x: &rounded, bias: None, y: &mut y };
    w8a8(&device, &product, 32, 3, &mut Workspace::new()).unwrap();
    let launches = device.launched();
    let shapes: Vec<_> =
        launches.iter().map(|l| (l.kernel(), l.grid(), l.block(), l.shared_bytes())).collect();
    assert_eq!(shapes[0], ("dequantize_w8_f16", [3, 3, 1], 256, 17_408));
    assert_eq!(shapes[1], ("quantize_activations_f16", [40, 1, 1], 256, 32));
    assert_eq!(shapes[2], ("w8a8_f16_m32", [2, 2, 3], 256, 3 * (128 * 32 + 16_384)));
    let sizes = [48, 40, 80];
    assert!(launches.iter().zip(sizes).all(|(launch, bytes)| launch.parameter().len() * 8 == bytes));
    assert_eq!([pair(launches[0].parameter()[4]), pair(launches[0].parameter()[5])], [[130, 260], [384, 0]]);
    assert_eq!([pair(launches[1].parameter()[3]), pair(launches[1].parameter()[4])], [[40, 260], [264, 0]]);
    assert_eq!([pair(launches[2].parameter()[8]), pair(launches[2].parameter()[9])], [[40, 130], [260, 128]]);
}

fn refused(result: Result<()>, words: &str) {
    let error = result.unwrap_err();
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.hint().is_some_and(|hint| !hint.is_empty()));
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_launched() {
    let (device, other) = (Recorder::h100(), Recorder::new(2, 90, 232_448, 132));
    let small = Recorder::new(3, 86, 101_376, 84);
    let w = weight(&device, 4, Granularity::Group(128), true, [64, 256]);
    let x = matrix(&device, Half::F16, [16, 256]);
    let ws = &mut Workspace::new();
    let mut y = output(&device, [16, 64]);
    let mut check = |x: &Matrix, bias: Option<&Buffer>, y: &mut Matrix, words: &str| {
        refused(gemm(&device, &PackedProduct { weight: &w, x, bias, y }, 16, 1, ws), words);
    };
    check(&matrix(&device, Half::F16, [16, 255]), None, &mut y, "columns of x: expected 256, found 255");
    check(&matrix(&device, Half::F16, [15, 256]), None, &mut y, "rows of y: expected 15, found 16");
    check(&matrix(&device, Half::BF16, [16, 256]), None, &mut y, "x is of type bf16");
    check(&matrix(&device, Half::F16, [0, 256]), None, &mut output(&device, [0, 64]), "0 rows");
    check(&x, None, &mut output(&device, [16, 63]), "columns of y");
    check(&x, None, &mut matrix(&device, Half::BF16, [16, 64]), "y is of type bf16");
    check(&matrix(&other, Half::F16, [16, 256]), None, &mut y, "device 2 used on device 1");
    let short = upload_vector(&device, Half::F16, &[0.0; 63]).unwrap();
    check(&x, Some(&short), &mut y, "bytes of the bias: expected 128, found 126");
    let odd = Matrix::allocate(&device, Half::F16, [16, 300], true).unwrap().view([16, 256], 257).unwrap();
    check(&odd, None, &mut y, "every 257 elements");
    let product = PackedProduct { weight: &w, x: &x, bias: None, y: &mut y };
    refused(gemv(&device, &product, 1, ws), "rows of x for gemv: expected 1, found 16");
    refused(gemm_small(&device, &product, 1, ws), "16 rows, and it takes 8");
    refused(gemm(&device, &product, 24, 1, ws), "tiles of 24 rows");
    let rounded = QuantizedActivations::allocate(&device, Half::F16, [16, 256]).unwrap();
    refused(
        w8a8(&device, &Int8Product { weight: &w, x: &rounded, bias: None, y: &mut y }, 32, 1, ws),
        "int4 g128 symmetric",
    );
    refused(
        matrix(&device, Half::F16, [2, 8]).view([3, 8], 8).map(drop),
        "3×8 every 8 elements, in 32 bytes",
    );
    let (w, x) =
        (weight(&small, 4, Granularity::Group(128), true, [64, 256]), matrix(&small, Half::F16, [1, 256]));
    let mut y = output(&small, [1, 64]);
    let product = PackedProduct { weight: &w, x: &x, bias: None, y: &mut y };
    refused(gemm_sm90(&small, &product, 1, ws), "capability 90 alone, found 86");
    refused(gemm(&small, &product, 128, 1, ws), "104448 bytes of shared memory, recorder 86 has 101376");
    assert_eq!(device.launched().len() + other.launched().len() + small.launched().len(), 0);
}

#[test]
fn a_full_memory_is_an_error_that_leaves_the_workspace_usable() {
    let device = Recorder::h100();
    let w = weight(&device, 4, Granularity::Channel, true, [64, 1024]);
    let (x, mut y) = (matrix(&device, Half::F16, [1, 1024]), output(&device, [1, 64]));
    let mut workspace = Workspace::new();
    refused(workspace.dense(&device, 1 << 30).map(|_| ()), "out of memory");
    let product = PackedProduct { weight: &w, x: &x, bias: None, y: &mut y };
    gemv(&device, &product, 8, &mut workspace).unwrap();
    dequantize_and_multiply(&device, &product, &mut workspace).unwrap();
    let dense = device.multiplied.lock().unwrap()[0].clone();
    assert_eq!((dense.size(), dense.x().1, dense.w().1, dense.y().1), ([1, 64, 1024], 1024, 1024, 64));
}

/// Every choice of the table, and every candidate of tuning, can be launched, on every generation and for every batch.
#[test]
fn every_choice_fits_the_device() {
    for (capability, shared, processors) in
        [(80, 166_912, 108), (86, 101_376, 28), (89, 101_376, 128), (90, 232_448, 132)]
    {
        let device = Recorder::new(1, capability, shared, processors);
        let (group, shape) = (Granularity::Group(64), [100, 20_000]);
        let kinds = [(4, group, false), (8, group, false), (8, Granularity::Channel, true)];
        for (bits, granularity, rounded) in kinds {
            let w = weight(&device, bits, granularity, rounded, shape);
            let bias = upload_vector(&device, Half::F16, &[0.0; 100]).unwrap();
            let mut workspace = Workspace::new();
            for m in [1, 2, 7, 8, 9, 16, 17, 33, 64, 65, 100, 257, 1000] {
                let (x, mut y) = (matrix(&device, Half::F16, [m, 20_000]), output(&device, [m, 100]));
                let mut product = PackedProduct { weight: &w, x: &x, bias: Some(&bias), y: &mut y };
                let problem = Problem { rounded, ..product.problem() };
                let choice = KernelTable::default().choose(device.properties(), &problem).unwrap();
                multiply(&device, &mut product, choice, &mut workspace).unwrap();
                let mut product = PackedProduct { bias: None, ..product };
                for choice in choice::candidates(device.properties(), &Problem { bias: false, ..problem }) {
                    multiply(&device, &mut product, choice, &mut workspace).unwrap();
                }
            }
        }
    }
    let old = Recorder::new(1, 75, 65_536, 40);
    let problem = Problem { bits: Bits::W4, size: [1, 64, 128], bias: false, rounded: false };
    let error = KernelTable::default().choose(old.properties(), &problem).unwrap_err();
    assert!(error.to_string().contains("75") && error.hint().unwrap().contains("Ampere"));
}

/// With 132 processors, tiles of 128×256 outputs of a large matrix fill them in the fewest waves.
#[test]
fn the_depth_is_split_so_that_processors_are_busy() {
    let device = Recorder::h100();
    let splits = |size| {
        let problem = Problem { bits: Bits::W4, size, bias: true, rounded: false };
        let choice = KernelTable::default().choose(device.properties(), &problem).unwrap();
        (choice.kernel == ProductKernel::GemmSm90).then_some(choice.splits)
    };
    assert_eq!(splits([128, 8192, 8192]), Some(4), "32 tiles: 128 blocks");
    assert_eq!(splits([512, 8192, 8192]), Some(1), "128 tiles");
    assert_eq!(
        splits([512, 10_240, 8192]),
        Some(4),
        "160 tiles are two waves; 640 blocks are five, each a quarter as long"
    );
    assert_eq!(splits([2048, 28_672, 8192]), Some(1), "1792 tiles");
    assert_eq!(splits([128, 256, 512]), Some(1), "parts of less than 512 columns are not worth their sums");
}

#[test]
fn what_was_measured_goes_before_the_rules() {
    let device = Recorder::h100();
    let entry = |m, kernel| {
        let choice = Choice { kernel, splits: 2 };
        TunedChoice { device: "recorder 90".into(), bits: Bits::W4, n: 64, k: 256, m, choice }
    };
    let table = KernelTable::new(vec![
        entry(64, ProductKernel::Gemm(32)),
        entry(16, ProductKernel::Dequantize),
        entry(1, ProductKernel::GemmSmall),
    ]);
    let table = KernelTable::parse(&table.text()).unwrap();
    let choose_for = |bits, n, m, bias| {
        let problem = Problem { bits, size: [m, n, 256], bias, rounded: false };
        table.choose(device.properties(), &problem).unwrap().kernel
    };
    let choose = |m, bias| choose_for(Bits::W4, 64, m, bias);
    assert_eq!(choose(1, false), ProductKernel::GemmSmall);
    assert_eq!(choose(2, false), ProductKernel::Dequantize);
    assert_eq!(choose(2, true), ProductKernel::GemmSmall, "the library adds no bias");
    assert_eq!(choose(17, true), ProductKernel::Gemm(32));
    assert_eq!(choose(65, true), ProductKernel::GemmSm90, "more rows than were measured");
    assert_eq!(choose_for(Bits::W8, 64, 1, false), ProductKernel::Gemv);
    assert_eq!(choose_for(Bits::W4, 65, 1, false), ProductKernel::Gemv);
    let rounded = |table: &KernelTable| {
        let problem = Problem { bits: Bits::W8, size: [16, 64, 256], bias: true, rounded: true };
        table.choose(device.properties(), &problem).unwrap().kernel
    };
    assert_eq!(
        rounded(&table),
        ProductKernel::W8A8(32),
        "what was measured with inputs as they are says nothing"
    );
    let w8a8 = TunedChoice { bits: Bits::W8, ..entry(16, ProductKernel::W8A8(128)) };
    assert_eq!(rounded(&table.clone().with(vec![w8a8])), ProductKernel::W8A8(128));
    let newer = table.clone().with(vec![entry(16, ProductKernel::Gemv), entry(32, ProductKernel::Gemv)]);
    let kernels: Vec<ProductKernel> = newer.tuned.iter().map(|entry| entry.choice.kernel).collect();
    assert_eq!(
        kernels,
        [ProductKernel::GemmSmall, ProductKernel::Gemv, ProductKernel::Gemv, ProductKernel::Gemm(32)]
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(KernelTable::FILE);
    let open = || KernelTable::open(Some(folder.path()));
    assert_eq!(open().unwrap(), KernelTable::default(), "nothing was kept");
    std::fs::write(&file, newer.text()).unwrap();
    assert_eq!(open().unwrap(), newer);
    for wrong in ["[[tuned]]\nm = 1", "tunde = []"] {
        std::fs::write(&file, wrong).unwrap();
        let error = open().unwrap_err();
        assert!(
            error.to_string().contains(KernelTable::FILE) && error.hint().unwrap().contains("--tune"),
            "{error}"
        );
    }
}

#[test]
fn a_layer_allocates_its_output() {
    let device = Recorder::h100();
    let scheme = Scheme::int(4, Granularity::Channel, true, ScaleType::F16);
    let grid = Grid { scales: vec![1.0; 100], ..Grid::default() };
    let q = QTensor::scalar(scheme, [100, 128], vec![0; 12_800], grid);
    let linear =
        DeviceLinear::upload(&device, &PackedMatrix::pack(&q, Half::F16).unwrap(), Some(&[1.0; 100]))
            .unwrap();
    let x = matrix(&device, Half::F16, [3, 128]);
    let y = linear.forward(&device, &KernelTable::default(), &x, &mut Workspace::new()).unwrap();
    assert_eq!((y.shape(), y.stride()), ([3, 100], 100));
    assert_eq!(device.launched()[0].kernel(), "gemm_small_w4_f16");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn without_the_feature_opening_says_how_to_get_it() {
    let error = open(0).err().unwrap();
    assert!(error.to_string().contains("without CUDA") && error.hint().unwrap().contains("--features cuda"));
}

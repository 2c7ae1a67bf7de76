//! [`Device`]: the interface on which the wrappers launch kernels. The driver implements it, and so does the emulator
//! of the tests; the same code checks shapes, grids and workspaces for both.

use super::buffer::Buffer;
use super::dense_product::DenseProduct;
use crate::error::{Error, Result};

/// The properties of a device that the choice and the check of a launch depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    /// Identifier of the device, unique in the process.
    pub id: u64,
    /// Name from the driver: `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Unique name: `GPU-` and 16 bytes in hexadecimal, as `nvidia-smi -L` prints it.
    pub uuid: String,
    /// Compute capability, 10·major + minor: 90 for an H100.
    pub capability: u32,
    /// Number of streaming multiprocessors.
    pub processors: u32,
    /// Maximum shared memory of a block, in bytes, if the kernel requests it.
    pub shared_bytes: u32,
    /// Bytes of the L2 cache.
    pub cache_bytes: usize,
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// True if [`Device::multiply`] has a library to call.
    pub library: bool,
    /// Version of the driver, as the driver reports it.
    pub driver: String,
}

/// A device that runs kernels. It does the work in the order of the calls; [`Device::download`] waits for it.
pub trait Device: Send + Sync {
    /// Returns the properties of the device.
    fn properties(&self) -> &Properties;

    /// Allocates memory of this device, 256-byte aligned, with undefined content. Allocates at least one byte.
    ///
    /// # Errors
    /// If there is not enough memory.
    fn allocate(&self, bytes: usize) -> Result<Buffer>;

    /// Copies to the start of `buffer`, which is on this device and long enough.
    fn upload(&self, bytes: &[u8], buffer: &mut Buffer) -> Result<()>;

    /// Copies from the start of `buffer`, which is on this device and long enough, after all earlier work is done.
    ///
    /// # Errors
    /// If the copy or earlier work fails.
    fn download(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()>;

    /// Copies all of a buffer to the start of another. Both are on this device, and `to` is long enough.
    fn copy(&self, from: &Buffer, to: &mut Buffer) -> Result<()> {
        let mut bytes = vec![0; from.bytes()];
        self.download(from, &mut bytes)?;
        self.upload(&bytes, to)
    }

    /// Queues a kernel. The launch has been checked against the properties.
    fn launch(&self, launch: &Launch) -> Result<()>;

    /// Computes y\[m\]\[n\] = x·wᵀ with the vendor's library, accumulated in f32; w is \[n\]\[k\]. Shapes have been
    /// checked.
    ///
    /// # Errors
    /// If there is no such library.
    fn multiply(&self, dense: &DenseProduct) -> Result<()> {
        let _ = dense;
        let what = format!("{}: there is no library for dense products", self.properties().name);
        Err(Error::unsupported(what, "choose another kernel than `dequantize`"))
    }

    /// Measures the device's seconds per piece of work, in each of `runs` runs of `count` consecutive pieces: `work(i)`
    /// queues piece i, and is called again for each of them. Pieces on different memory keep the caches cold.
    ///
    /// # Errors
    /// If the device cannot measure time.
    fn time(&self, count: usize, runs: usize, work: &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
        let _ = (count, runs, work);
        Err(Error::unsupported(format!("{} keeps no time", self.properties().name), "time on a GPU"))
    }
}

/// A kernel launch. Only the wrappers create one; they have checked that its pointers cover the memory that the kernel
/// touches.
#[derive(Debug, PartialEq)]
#[cfg_attr(test, derive(Clone))] // not otherwise: its addresses are valid during the call only
pub struct Launch {
    kernel: String,
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    parameter: Parameter,
}

impl Launch {
    /// Returns the kernel's name.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Returns the number of blocks along x, y and z.
    pub fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// Returns the number of threads of a block, all along x.
    pub fn block(&self) -> u32 {
        self.block
    }

    /// Returns the dynamic shared memory of a block, in bytes.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// Returns the kernel's one parameter as it lies in memory, aligned to 8 bytes.
    pub fn parameter(&self) -> &[u64] {
        &self.parameter.words
    }
}

/// The one parameter of a kernel: a C struct of pointers, then of pairs of 32-bit integers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Parameter {
    words: Vec<u64>,
}

impl Parameter {
    /// Appends a pointer to the start of a buffer, or a null pointer.
    pub(crate) fn pointer(mut self, buffer: Option<&Buffer>) -> Parameter {
        self.words.push(buffer.map_or(0, Buffer::address));
        self
    }

    /// Appends two fields of type `int32_t`.
    pub(crate) fn pair(mut self, first: usize, second: usize) -> Parameter {
        self.words.push(int32_bits(first) | int32_bits(second) << 32);
        self
    }
}

fn int32_bits(value: usize) -> u64 {
    u64::from(i32::try_from(value).expect("sizes were checked").cast_unsigned())
}

/// The grid, the threads and the shared memory of a launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub grid: [usize; 3],
    pub block: u32,
    pub shared_bytes: usize,
}

/// Maximum number of blocks along x, y and z.
const MOST_BLOCKS: [usize; 3] = [i32::MAX as usize, 65_535, 65_535];

/// Checks a launch against the limits of the device, and queues it.
pub(super) fn launch(
    device: &dyn Device,
    kernel: String,
    geometry: Geometry,
    parameter: Parameter,
) -> Result<()> {
    let properties = device.properties();
    let Geometry { grid, block, shared_bytes } = geometry;
    if shared_bytes > properties.shared_bytes as usize {
        let what = format!(
            "{kernel}: a block needs {shared_bytes} bytes of shared memory, {} has {}",
            properties.name, properties.shared_bytes
        );
        return Err(Error::unsupported(what, "choose a smaller tile, or more splits"));
    }
    if grid.iter().zip(MOST_BLOCKS).any(|(blocks, most)| *blocks == 0 || *blocks > most) {
        let what = format!("{kernel}: a grid of {grid:?} blocks, where a GPU takes {MOST_BLOCKS:?}");
        return Err(Error::unsupported(what, "multiply fewer rows at a time"));
    }
    let grid = grid.map(|blocks| blocks as u32);
    device.launch(&Launch { kernel, grid, block, shared_bytes: shared_bytes as u32, parameter })
}

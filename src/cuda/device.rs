//! What kernels are launched on: [`Device`], as the wrappers see it. The driver is one implementation, the emulator of the
//! tests another, so that shapes, grids and workspaces are checked by the same code on both.

use std::any::Any;
use std::fmt;

use crate::error::{Error, Result};

/// What a device is, as far as choosing and checking a launch goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    /// Tells devices of a process apart.
    pub id: u64,
    /// As the driver names it: `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Its own name: `GPU-` and 16 bytes in hexadecimal, as `nvidia-smi -L` shows it.
    pub uuid: String,
    /// Compute capability, 10·major + minor: 90 for an H100.
    pub capability: u32,
    /// Streaming multiprocessors.
    pub processors: u32,
    /// Most shared memory of a block, in bytes, where the kernel asks for it.
    pub shared_bytes: u32,
    /// Bytes of the L2 cache.
    pub cache_bytes: usize,
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// Whether [`Device::multiply`] has a library to call.
    pub library: bool,
    /// Version of the driver, as it says.
    pub driver: String,
}

/// Where kernels run. Work is done in the order in which it is asked for; [`Device::download`] waits for it.
pub trait Device: Send + Sync {
    /// What it is.
    fn properties(&self) -> &Properties;

    /// Memory of this device, 256-byte aligned; what is in it is not defined. At least one byte is allocated.
    ///
    /// # Errors
    /// Where there is not enough.
    fn allocate(&self, bytes: usize) -> Result<Buffer>;

    /// Copies to the start of `buffer`, which is of this device and as long at least.
    fn upload(&self, bytes: &[u8], buffer: &mut Buffer) -> Result<()>;

    /// Copies from the start of `buffer`, which is of this device and as long at least, once all work before is done.
    ///
    /// # Errors
    /// Also for work before that failed.
    fn download(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()>;

    /// Copies all of a buffer to the start of another; both are of this device, and `to` as long at least.
    fn copy(&self, from: &Buffer, to: &mut Buffer) -> Result<()> {
        let mut bytes = vec![0; from.bytes()];
        self.download(from, &mut bytes)?;
        self.upload(&bytes, to)
    }

    /// Queues a kernel. The launch has been checked against the properties.
    fn launch(&self, launch: &Launch) -> Result<()>;

    /// y\[m\]\[n\] = x·wᵀ by the vendor's library, accumulated in f32: w is \[n\]\[k\]. Shapes have been checked.
    ///
    /// # Errors
    /// Where there is no such library.
    fn multiply(&self, dense: &DenseProduct) -> Result<()> {
        let _ = dense;
        let what = format!("{}: there is no library for dense products", self.properties().name);
        Err(Error::unsupported(what, "choose another kernel than `dequantize`"))
    }

    /// Seconds of the device per piece of work, in each of `runs` runs of `count` pieces one directly after the other:
    /// `work(i)` queues piece i, and is called again for each of them. Different pieces on different memory keep the caches cold.
    ///
    /// # Errors
    /// Where the device keeps no time.
    fn time(&self, count: usize, runs: usize, work: &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
        let _ = (count, runs, work);
        Err(Error::unsupported(format!("{} keeps no time", self.properties().name), "time on a GPU"))
    }
}

/// What [`Device::multiply`] is told: matrices of one type, by address and by the distance of their rows in elements.
#[derive(Debug, Clone, Copy)]
pub struct DenseProduct {
    /// The type of all three.
    pub half: super::Half,
    /// Rows of x and y, rows of w, columns of x and w.
    pub size: [usize; 3],
    /// x, and its row stride.
    pub x: (u64, usize),
    /// w, and its row stride.
    pub w: (u64, usize),
    /// y, and its row stride.
    pub y: (u64, usize),
}

/// Memory of a device, given back when dropped.
pub struct Buffer {
    device: u64,
    address: u64,
    bytes: usize,
    _memory: Box<dyn Any + Send + Sync>,
}

impl Buffer {
    /// `bytes` at `address` of device `device` (its [`Properties::id`]), for as long as `memory` is not dropped: for those who
    /// implement [`Device`].
    pub fn new(device: u64, address: u64, bytes: usize, memory: Box<dyn Any + Send + Sync>) -> Buffer {
        Buffer { device, address, bytes, _memory: memory }
    }

    /// The [`Properties::id`] of the device that it is of.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// As the device's kernels see it.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Buffer({} bytes at {:#x} of device {})", self.bytes, self.address, self.device)
    }
}

/// A kernel's launch: made by the wrappers alone, which have checked that its pointers hold what the kernel touches.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    kernel: String,
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    parameter: Parameter,
}

impl Launch {
    /// The kernel's name.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Blocks along x, y and z.
    pub fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// Threads of a block, all along x.
    pub fn block(&self) -> u32 {
        self.block
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// The kernel's one parameter, as it lies in memory, aligned to 8 bytes.
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
    /// A pointer to the start of a buffer; null without.
    pub fn pointer(mut self, buffer: Option<&Buffer>) -> Parameter {
        self.words.push(buffer.map_or(0, Buffer::address));
        self
    }

    /// Two fields of type `int32_t`.
    pub fn pair(mut self, first: usize, second: usize) -> Parameter {
        let bits =
            |value: usize| u64::from(i32::try_from(value).expect("sizes were checked").cast_unsigned());
        self.words.push(bits(first) | bits(second) << 32);
        self
    }
}

/// How many blocks and what each is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub grid: [usize; 3],
    pub block: u32,
    pub shared_bytes: usize,
}

/// Most blocks along x, and along y and z.
const MOST_BLOCKS: [usize; 3] = [i32::MAX as usize, 65_535, 65_535];

/// Checks a launch against what the device takes, and queues it.
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

//! The emulated device: launches kernels by name on this machine, through the same wrappers as a GPU, in guarded
//! memory.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use libloading::Library;
use llmc::cuda::{Buffer, DenseProduct, Device, Launch, Properties};
use llmc::error::{Error, Result};

use crate::compile;

/// Seeds of the thread orders that every check runs under: forward, backward, shuffled. The seed also sets the number
/// of resident blocks: 1 + seed mod 3.
pub const SEEDS: [u64; 4] = [0, 1, 2, 11];

/// Parameters of a launch; `Launch` of kernels/emulator/emulator.h.
#[repr(C)]
pub struct Grid {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: usize,
    pub seed: u64,
}

type Entry = unsafe extern "C" fn(*const Grid, *mut *const c_void, *mut c_char, usize) -> c_int;

/// A device that runs the kernels with the thread order of its seed.
pub struct Emulator {
    kernels: &'static Library,
    properties: Properties,
    seed: u64,
}

impl Emulator {
    /// Opens an emulated H100; returns `None` without a C++ compiler.
    pub fn open(seed: u64) -> Option<Emulator> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let properties = Properties {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: "emulator".to_owned(),
            uuid: String::new(),
            capability: 90,
            processors: 8,
            shared_bytes: 232_448,
            cache_bytes: 1 << 20,
            memory_bytes: 1 << 30,
            library: true,
            driver: "none".to_owned(),
        };
        Some(Emulator { kernels: kernels()?, properties, seed })
    }

    /// Opens one device for each of [`SEEDS`]; none without a C++ compiler.
    pub fn all() -> Vec<Emulator> {
        SEEDS.into_iter().filter_map(Emulator::open).collect()
    }

    /// Runs a kernel whose parameter lies in `parameter`; returns the emulator's error if it fails.
    pub fn run(&self, kernel: &str, grid: &Grid, parameter: &[u64]) -> std::result::Result<(), String> {
        let name = format!("{kernel}_emulate");
        let mut error = [0 as c_char; 256];
        let mut parameters = [parameter.as_ptr().cast::<c_void>()];
        // SAFETY: every exported `…_emulate` has this signature (LLMC_EXPORT), and writes at most error.len() bytes.
        // The wrappers ensure that the parameter is the kernel's and points to enough memory: that is what the tests
        // test.
        let failed = unsafe {
            let entry = self.kernels.get::<Entry>(name.as_bytes());
            let entry = entry.map_err(|_| format!("there is no kernel {kernel}"))?;
            entry(grid, parameters.as_mut_ptr(), error.as_mut_ptr(), error.len())
        };
        // SAFETY: the emulator ends its message with a zero.
        let message = || unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy().into_owned();
        if failed == 0 { Ok(()) } else { Err(message()) }
    }
}

fn kernels() -> Option<&'static Library> {
    static KERNELS: OnceLock<Option<Library>> = OnceLock::new();
    let load = || {
        let library = compile::library(&compile::compiler()?);
        // SAFETY: the library was built from kernels/, and its initializers do nothing.
        Some(unsafe { Library::new(library) }.unwrap())
    };
    KERNELS.get_or_init(load).as_ref()
}

impl Device for Emulator {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer> {
        let memory = Memory::poisoned(self.kernels, bytes);
        // SAFETY: `memory` owns the bytes and frees them when it is dropped; launches do not return before they are done.
        Ok(unsafe { Buffer::new(self.properties.id, memory.address(), bytes, Box::new(memory)) })
    }

    fn upload(&self, bytes: &[u8], buffer: &mut Buffer) -> Result<()> {
        assert!(bytes.len() <= buffer.bytes() && buffer.device() == self.properties.id);
        // SAFETY: the buffer belongs to this device, is alive, and is long enough.
        unsafe { std::ptr::copy(bytes.as_ptr(), buffer.address() as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        assert!(bytes.len() <= buffer.bytes() && buffer.device() == self.properties.id);
        // SAFETY: as in `upload`.
        unsafe { std::ptr::copy(buffer.address() as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let (block, shared_bytes) = ([launch.block(), 1, 1], launch.shared_bytes() as usize);
        let grid = Grid { grid: launch.grid(), block, shared_bytes, seed: self.seed };
        let outcome = self.run(launch.kernel(), &grid, launch.parameter());
        let hint = || "see kernels/emulator/emulator.h".to_owned();
        outcome.map_err(|e| Error::Device { what: format!("{}: {e}", launch.kernel()), hint: hint() })
    }

    fn multiply(&self, dense: &DenseProduct) -> Result<()> {
        let [m, n, k] = dense.size();
        let read = |(address, stride): (u64, usize), row: usize, column: usize| {
            // SAFETY: the wrapper has checked the matrices' shapes.
            let bits = unsafe { *(address as *const u16).add(row * stride + column) };
            dense.half().decode(bits)
        };
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let terms = (0..k).map(|i| read(dense.x(), row, i) * read(dense.w(), column, i));
            let bits = dense.half().encode(terms.sum());
            // SAFETY: as above.
            unsafe { *(dense.y().0 as *mut u16).add(row * dense.y().1 + column) = bits };
        }
        Ok(())
    }
}

const GUARD: usize = 256;
const POISON: u8 = 0xff;

/// Global memory filled with NaN, between two guards of NaN, with the alignment of cuMemAlloc. Panics when it is
/// dropped if a guard was overwritten.
struct Memory {
    kernels: &'static Library,
    bytes: *mut [u8],
    start: usize,
    len: usize,
}

// SAFETY: it owns its bytes.
unsafe impl Send for Memory {}
// SAFETY: only the kernels of one launch at a time read or write through a shared reference.
unsafe impl Sync for Memory {}

impl Memory {
    fn poisoned(kernels: &'static Library, len: usize) -> Memory {
        let bytes = Box::into_raw(vec![POISON; len + 3 * GUARD].into_boxed_slice());
        let start = GUARD + bytes.cast::<u8>().align_offset(GUARD);
        let memory = Memory { kernels, bytes, start, len };
        // SAFETY: the signature is that of kernels/emulator/emulator.h; the emulator only records the range.
        unsafe {
            let allocated = kernels.get::<unsafe extern "C" fn(u64, usize)>("emulator_allocated").unwrap();
            allocated(memory.address(), len);
        }
        memory
    }

    fn address(&self) -> u64 {
        self.bytes.cast::<u8>() as u64 + self.start as u64
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: as when it was allocated.
        unsafe { self.kernels.get::<unsafe extern "C" fn(u64)>("emulator_freed").unwrap()(self.address()) };
        // SAFETY: from Box::into_raw, and freed once.
        let bytes = unsafe { Box::from_raw(self.bytes) };
        let guards = [&bytes[..self.start], &bytes[self.start + self.len..]];
        let kept = guards.into_iter().flatten().all(|&byte| byte == POISON);
        assert!(kept || std::thread::panicking(), "a kernel wrote outside of an allocation");
    }
}

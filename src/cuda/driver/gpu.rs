//! [`Gpu`]: a [`Device`] that uses the CUDA driver. The driver is loaded when the first GPU is opened.
//!
//! Each `Gpu` has one stream, which keeps the order of the work. Memory comes from cuMemAlloc; freeing it waits for the
//! work that uses it.

use std::collections::HashMap;
use std::ffi::CString;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction_attribute as FunctionAttribute};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream};

use super::super::buffer::Buffer;
use super::super::dense_product::DenseProduct;
use super::super::device::{Device, Launch, Properties};
use super::error::{device_error, failed};
use super::library::{Library, WORKSPACE_BYTES, library_is_present};
use crate::error::Result;

/// A fat binary with the alignment that the driver needs.
#[repr(align(64))]
struct Image<T: ?Sized>(T);

/// Fat binaries by the name of their file; the name of every kernel begins with the file's name.
const IMAGES: &[(&str, &Image<[u8]>)] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The oldest driver API that has every function called here and can run the compiled kernels; `build.rs` computes it.
const OLDEST_DRIVER: i32 = include!(concat!(env!("OUT_DIR"), "/oldest_driver.rs"));
/// Duration of the warm-up before times count.
const WARM_UP: Duration = Duration::from_millis(100);

/// An NVIDIA GPU.
pub(crate) struct Gpu {
    properties: Properties,
    stream: Arc<CudaStream>,
    kernels: Mutex<Kernels>,
    library: OnceLock<Library>,
}

/// Loaded modules by file, and functions by name. They are unloaded with the context.
#[derive(Default)]
struct Kernels {
    modules: HashMap<&'static str, Handle<sys::CUmodule>>,
    functions: HashMap<String, Function>,
}

/// A kernel, and the shared memory that it may be launched with.
#[derive(Clone, Copy)]
struct Function {
    handle: Handle<sys::CUfunction>,
    shared_bytes: u32,
}

/// A handle of the driver.
#[derive(Clone, Copy)]
struct Handle<T>(T);

// SAFETY: the driver's handles of modules and functions may be used from any thread that has bound their context, which
// every call here does first.
unsafe impl<T> Send for Handle<T> {}

impl Gpu {
    /// Opens a GPU by its number.
    ///
    /// # Errors
    /// If there is no driver, if it is too old, or if there is no such GPU.
    pub(crate) fn open(ordinal: usize) -> Result<Gpu> {
        let version = driver_version()?;
        let count = CudaContext::device_count().map_err(|e| failed("counting GPUs", e))?;
        if ordinal >= count as usize {
            let what = format!("no GPU {ordinal}: the driver knows {count}");
            return Err(device_error(what, "`nvidia-smi` lists them; CUDA_VISIBLE_DEVICES may hide some"));
        }
        let stream = new_stream(ordinal).map_err(|e| failed("opening the GPU", e))?;
        Gpu::on(stream, version)
    }

    /// Adopts the GPU of a stream and queues its work on that stream.
    ///
    /// # Errors
    /// If the driver is too old.
    #[cfg(feature = "candle-cuda")]
    pub(crate) fn adopt(stream: Arc<CudaStream>) -> Result<Gpu> {
        Gpu::on(stream, driver_version()?)
    }

    fn on(stream: Arc<CudaStream>, version: i32) -> Result<Gpu> {
        let properties =
            properties(stream.context(), version).map_err(|e| failed("reading the GPU's properties", e))?;
        Ok(Gpu { properties, stream, kernels: Mutex::default(), library: OnceLock::new() })
    }

    /// Checks that a buffer is on this GPU and has at least `bytes` bytes.
    fn check(&self, buffer: &Buffer, bytes: usize) {
        assert_eq!(buffer.device(), self.properties.id, "the buffer is on another device");
        assert!(bytes <= buffer.bytes(), "the buffer is too short");
    }

    /// Binds the GPU's context to this thread.
    fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(|e| failed("using the GPU", e))
    }

    /// Returns the function of a kernel and allows it this much shared memory.
    fn function(&self, name: &str, shared_bytes: u32) -> Result<sys::CUfunction> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = kernels.functions.get(name).copied();
        let handle = match loaded {
            Some(function) if function.shared_bytes >= shared_bytes => return Ok(function.handle.0),
            Some(function) => function.handle.0,
            None => kernels.load(name)?,
        };
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to a module that is never unloaded before the context.
        let raised =
            unsafe { result::function::set_function_attribute(handle, attribute, shared_bytes as i32) };
        raised.map_err(|e| failed(&format!("{name}: {shared_bytes} bytes of shared memory"), e))?;
        kernels.functions.insert(name.to_owned(), Function { handle: Handle(handle), shared_bytes });
        Ok(handle)
    }

    /// Records the work that `work` queues as a graph.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<CudaGraph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(|e| failed("recording a graph", e))?;
        let done = work();
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        done?;
        let graph = graph.map_err(|e| failed("recording a graph", e))?;
        graph.ok_or_else(|| {
            device_error("a graph without work".into(), "this is a defect of llmc: please report it")
        })
    }

    /// Returns the seconds that the GPU takes for a graph.
    fn time_graph(&self, graph: &CudaGraph) -> Result<f64, DriverError> {
        let event = || self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        // The first launch still runs when the second is queued, so that the time of queueing is not measured.
        graph.launch()?;
        let start = event()?;
        graph.launch()?;
        let end = event()?;
        Ok(f64::from(start.elapsed_ms(&end)?) / 1e3)
    }
}

impl Kernels {
    /// Loads the file whose name is the longest prefix of the kernel's: `gemm_small_…` is in `gemm_small`, not in
    /// `gemm`.
    fn load(&mut self, name: &str) -> Result<sys::CUfunction> {
        let files = IMAGES
            .iter()
            .filter(|(file, _)| name.strip_prefix(file).is_some_and(|rest| rest.starts_with('_')));
        let Some((file, image)) = files.max_by_key(|(file, _)| file.len()) else {
            return Err(device_error(
                format!("{name}: no such kernel was built"),
                "build llmc again, from a clean clone",
            ));
        };
        let module = match self.modules.get(file) {
            Some(module) => module.0,
            None => {
                // SAFETY: nvcc wrote the image, and it is static.
                let module = unsafe { result::module::load_data(image.0.as_ptr().cast()) };
                let module = module.map_err(|e| failed(&format!("loading the kernels of {file}.cu"), e))?;
                self.modules.insert(file, Handle(module));
                module
            }
        };
        let symbol = CString::new(name).expect("kernels are named without zeros");
        // SAFETY: the module is loaded and is not unloaded before the context.
        unsafe { result::module::get_function(module, symbol) }.map_err(|e| failed(name, e))
    }
}

impl Device for Gpu {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer> {
        self.bind()?;
        // SAFETY: the host never reads the memory as anything but raw bytes.
        let address = unsafe { result::malloc_sync(bytes.max(1)) };
        let address =
            address.map_err(|e| failed(&format!("{}: allocating {bytes} bytes", self.properties.name), e))?;
        let memory = Memory { address, stream: self.stream.clone() };
        // SAFETY: the memory was allocated above, and `memory` frees it when it is dropped, after all queued work.
        Ok(unsafe { Buffer::new(self.properties.id, address, bytes, Box::new(memory)) })
    }

    fn upload(&self, bytes: &[u8], buffer: &mut Buffer) -> Result<()> {
        self.check(buffer, bytes.len());
        self.bind()?;
        // SAFETY: the buffer is on this device and long enough; `bytes` is borrowed until the copy is done.
        let copied = unsafe { result::memcpy_htod_async(buffer.address(), bytes, self.stream.cu_stream()) };
        copied.and_then(|()| self.stream.synchronize()).map_err(|e| failed("copying to the GPU", e))
    }

    fn download(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        self.check(buffer, bytes.len());
        self.bind()?;
        // SAFETY: the buffer is on this device and long enough; `bytes` is borrowed until the copy is done.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, buffer.address(), self.stream.cu_stream()) };
        copied
            .and_then(|()| self.stream.synchronize())
            .map_err(|e| failed("the work of the GPU, or copying from it", e))
    }

    fn copy(&self, from: &Buffer, to: &mut Buffer) -> Result<()> {
        self.check(from, 0);
        self.check(to, from.bytes());
        self.bind()?;
        let stream = self.stream.cu_stream();
        // SAFETY: both buffers are on this device and long enough; freeing them waits for the copy.
        let queued = unsafe { result::memcpy_dtod_async(to.address(), from.address(), from.bytes(), stream) };
        queued.map_err(|e| failed("copying within the GPU", e))
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        self.bind()?;
        let function = self.function(launch.kernel(), launch.shared_bytes())?;
        let parameter = launch.parameter().as_ptr().cast_mut().cast::<c_void>();
        let [x, y, z] = launch.grid();
        let (grid, block) = ((x, y, z), (launch.block(), 1, 1));
        let (shared, stream) = (launch.shared_bytes(), self.stream.cu_stream());
        // SAFETY: the wrapper has laid out the parameter as the kernel declares it and checked that its pointers cover
        // the memory that the kernel touches; the driver copies the parameter before it returns.
        let launched =
            unsafe { result::launch_kernel(function, grid, block, shared, stream, &mut [parameter]) };
        launched.map_err(|e| failed(&format!("launching {}", launch.kernel()), e))
    }

    fn multiply(&self, dense: &DenseProduct) -> Result<()> {
        self.bind()?;
        if self.library.get().is_none() {
            let library = Library::open(self.stream.clone(), self.allocate(WORKSPACE_BYTES)?)?;
            self.library.get_or_init(|| library);
        }
        self.library.get().expect("it was just opened").multiply(dense)
    }

    fn time(&self, count: usize, runs: usize, work: &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
        work(0)?; // loading and allocating at first use must not be recorded
        self.stream.synchronize().map_err(|e| failed("the work of the GPU", e))?;
        let graph = self.record(&mut || (0..count).try_for_each(&mut *work))?;
        let once = || self.time_graph(&graph).map_err(|e| failed("timing a graph", e));
        let begun = Instant::now();
        while begun.elapsed() < WARM_UP {
            once()?; // the first launch uploads the graph, and the clocks of an idle GPU rise slowly
        }
        (0..runs).map(|_| Ok(once()? / count as f64)).collect()
    }
}

/// Memory from cuMemAlloc.
struct Memory {
    address: sys::CUdeviceptr,
    stream: Arc<CudaStream>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.stream.context().bind_to_thread().is_ok() {
            // SAFETY: allocated by `allocate`, freed once. An error here comes from earlier work; `download` reports
            // it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Loads the driver and returns its version. Checks first that it is present, because the bindings panic otherwise.
fn driver_version() -> Result<i32> {
    if !driver_is_present() {
        let hint = "install the driver of the GPU (`nvidia-smi` must work), or run on the CPU";
        return Err(device_error("no NVIDIA driver: libcuda could not be loaded".into(), hint));
    }
    let mut version = 0;
    // SAFETY: the function writes one integer and may be called before any other.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
    asked.result().map_err(|e| failed("asking for the driver's version", e))?;
    if version < OLDEST_DRIVER {
        let (found, needed) = (version_name(version), version_name(OLDEST_DRIVER));
        let what = format!("the NVIDIA driver is of CUDA {found}, {needed} is needed");
        let hint = match OLDEST_DRIVER {
            13_000.. => "update the driver, or build llmc with a CUDA 12 toolkit",
            _ => "update the driver",
        };
        return Err(device_error(what, hint));
    }
    result::init().map_err(|e| failed("starting the driver", e))?;
    Ok(version)
}

/// Returns true if the driver is present. If candle links it, the program would not have started without it.
#[cfg(feature = "candle-cuda")]
fn driver_is_present() -> bool {
    true
}

#[cfg(not(feature = "candle-cuda"))]
fn driver_is_present() -> bool {
    // SAFETY: loads the driver's library, whose initializers are NVIDIA's.
    unsafe { sys::is_culib_present() }
}

fn new_stream(ordinal: usize) -> Result<Arc<CudaStream>, DriverError> {
    CudaContext::new(ordinal)?.new_stream()
}

fn version_name(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn properties(context: &CudaContext, version: i32) -> Result<Properties, DriverError> {
    static OPENED: AtomicU64 = AtomicU64::new(1);
    let number = |attribute| context.attribute(attribute).map(|value| value.max(0) as u32);
    let (major, minor) = context.compute_capability()?;
    Ok(Properties {
        id: OPENED.fetch_add(1, Ordering::Relaxed),
        name: context.name()?,
        uuid: uuid(context.uuid()?.bytes.map(|byte| byte as u8)),
        capability: (10 * major + minor) as u32,
        processors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        cache_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
        memory_bytes: context.total_mem()?,
        library: library_is_present(),
        driver: format!("CUDA {}", version_name(version)),
    })
}

/// Formats a UUID as nvidia-smi prints it: hexadecimal, with hyphens after bytes 4, 6, 8 and 10.
fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::from("GPU-");
    for (i, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}

//! [`Gpu`]: a [`Device`] by the CUDA driver, which is loaded when the first GPU is opened. The only file here with `unsafe`.
//!
//! One stream per `Gpu`, so that work is done in order; memory by cuMemAlloc, whose release waits for the work that uses it.

use std::collections::HashMap;
use std::ffi::CString;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction_attribute as FunctionAttribute};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream};

use super::super::device::{Buffer, DenseProduct, Device, Launch, Properties};
use super::library::{Library, WORKSPACE_BYTES, library_is_present};
use crate::error::{Error, Result};

/// A fat binary, aligned as the driver likes it.
#[repr(align(64))]
struct Image<T: ?Sized>(T);

/// Kernels by the name of their file: every kernel's name begins with it.
const IMAGES: &[(&str, &Image<[u8]>)] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The oldest driver API that has all that is called here, and runs what the kernels were compiled to: `build.rs` knows.
const OLDEST_DRIVER: i32 = include!(concat!(env!("OUT_DIR"), "/oldest_driver.rs"));
/// How long work runs before its time counts.
const WARM_UP: Duration = Duration::from_millis(100);

/// An NVIDIA GPU.
pub struct Gpu {
    properties: Properties,
    stream: Arc<CudaStream>,
    kernels: Mutex<Kernels>,
    library: OnceLock<Library>,
}

/// What was loaded: modules by file, functions by name. They are unloaded with the context.
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

// SAFETY: the driver's handles of modules and functions may be used from any thread that has made their context its own, which
// each call here does first.
unsafe impl<T> Send for Handle<T> {}

impl Gpu {
    /// Opens a GPU by its number.
    ///
    /// # Errors
    /// Without a driver, with one that is too old, without such a GPU.
    pub fn open(ordinal: usize) -> Result<Gpu> {
        let version = driver_version()?;
        let count = CudaContext::device_count().map_err(|e| failed("counting GPUs", e))?;
        if ordinal >= count as usize {
            let what = format!("no GPU {ordinal}: the driver knows {count}");
            return Err(device_error(what, "`nvidia-smi` lists them; CUDA_VISIBLE_DEVICES may hide some"));
        }
        let open = || -> Result<_, DriverError> {
            let context = CudaContext::new(ordinal)?;
            let stream = context.new_stream()?;
            Ok((properties(&context, version)?, stream))
        };
        let (properties, stream) = open().map_err(|e| failed("opening the GPU", e))?;
        Ok(Gpu { properties, stream, kernels: Mutex::default(), library: OnceLock::new() })
    }

    /// The GPU of a stream, which its work is queued on.
    ///
    /// # Errors
    /// With a driver that is too old.
    #[cfg(feature = "candle-cuda")]
    pub fn adopt(stream: Arc<CudaStream>) -> Result<Gpu> {
        let properties =
            properties(stream.context(), driver_version()?).map_err(|e| failed("asking the GPU", e))?;
        Ok(Gpu { properties, stream, kernels: Mutex::default(), library: OnceLock::new() })
    }

    /// Makes the GPU's context this thread's.
    fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(|e| failed("using the GPU", e))
    }

    /// The function of a kernel, which may use as much shared memory as it is launched with.
    fn function(&self, name: &str, shared_bytes: u32) -> Result<sys::CUfunction> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kernels.functions.get(name).copied();
        let handle = match known {
            Some(function) if function.shared_bytes >= shared_bytes => return Ok(function.handle.0),
            Some(function) => function.handle.0,
            None => kernels.load(name)?,
        };
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is of a module that is never unloaded before the context.
        let raised =
            unsafe { result::function::set_function_attribute(handle, attribute, shared_bytes as i32) };
        raised.map_err(|e| failed(&format!("{name}: {shared_bytes} bytes of shared memory"), e))?;
        kernels.functions.insert(name.to_owned(), Function { handle: Handle(handle), shared_bytes });
        Ok(handle)
    }

    /// Records what `work` queues as a graph.
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

    /// Seconds that the GPU takes for a graph.
    fn time_graph(&self, graph: &CudaGraph) -> Result<f64, DriverError> {
        let event = || self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        // The first still runs when the second is launched, so that launching takes no time of the GPU's.
        graph.launch()?;
        let start = event()?;
        graph.launch()?;
        let end = event()?;
        Ok(f64::from(start.elapsed_ms(&end)?) / 1e3)
    }
}

impl Kernels {
    /// Loads the file whose name the kernel's begins with; `gemm_small_…` is of `gemm_small`, not of `gemm`.
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
                // SAFETY: nvcc wrote the image, which lives as long as the program.
                let module = unsafe { result::module::load_data(image.0.as_ptr().cast()) };
                let module = module.map_err(|e| failed(&format!("loading the kernels of {file}.cu"), e))?;
                self.modules.insert(file, Handle(module));
                module
            }
        };
        let symbol = CString::new(name).expect("kernels are named without zeros");
        // SAFETY: the module was loaded, and is not unloaded before the context.
        unsafe { result::module::get_function(module, symbol) }.map_err(|e| failed(name, e))
    }
}

impl Device for Gpu {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer> {
        self.bind()?;
        // SAFETY: what is there is never read by the host before it was written: `download` reads raw bytes.
        let address = unsafe { result::malloc_sync(bytes.max(1)) };
        let address =
            address.map_err(|e| failed(&format!("{}: allocating {bytes} bytes", self.properties.name), e))?;
        let memory = Memory { address, stream: self.stream.clone() };
        Ok(Buffer::new(self.properties.id, address, bytes, Box::new(memory)))
    }

    fn upload(&self, bytes: &[u8], buffer: &mut Buffer) -> Result<()> {
        assert!(bytes.len() <= buffer.bytes(), "upload: the buffer is too short");
        self.bind()?;
        // SAFETY: the buffer is of this device and long enough; `bytes` is borrowed until the copy is done.
        let copied = unsafe { result::memcpy_htod_async(buffer.address(), bytes, self.stream.cu_stream()) };
        copied.and_then(|()| self.stream.synchronize()).map_err(|e| failed("copying to the GPU", e))
    }

    fn download(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        assert!(bytes.len() <= buffer.bytes(), "download: the buffer is too short");
        self.bind()?;
        // SAFETY: the buffer is of this device and long enough; `bytes` is borrowed until the copy is done.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, buffer.address(), self.stream.cu_stream()) };
        copied
            .and_then(|()| self.stream.synchronize())
            .map_err(|e| failed("the work of the GPU, or copying from it", e))
    }

    fn copy(&self, from: &Buffer, to: &mut Buffer) -> Result<()> {
        assert!(from.bytes() <= to.bytes(), "copy: the buffer is too short");
        self.bind()?;
        let (to, from, bytes, stream) = (to.address(), from.address(), from.bytes(), self.stream.cu_stream());
        // SAFETY: both buffers are of this device and long enough; their release waits for the copy.
        let queued = unsafe { result::memcpy_dtod_async(to, from, bytes, stream) };
        queued.map_err(|e| failed("copying within the GPU", e))
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        self.bind()?;
        let function = self.function(launch.kernel(), launch.shared_bytes())?;
        let ([x, y, z], parameter) = (launch.grid(), launch.parameter().as_ptr().cast_mut().cast::<c_void>());
        let (grid, block) = ((x, y, z), (launch.block(), 1, 1));
        let (shared, stream) = (launch.shared_bytes(), self.stream.cu_stream());
        // SAFETY: the wrapper has laid the parameter out as the kernel declares it and checked that its pointers hold what the
        // kernel touches; the driver copies the parameter before it returns.
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
        work(0)?; // what is loaded and allocated at first use is not recorded
        self.stream.synchronize().map_err(|e| failed("the work of the GPU", e))?;
        let graph = self.record(&mut || (0..count).try_for_each(&mut *work))?;
        let once = || self.time_graph(&graph).map_err(|e| failed("timing a graph", e));
        let begun = Instant::now();
        while begun.elapsed() < WARM_UP {
            once()?; // the first launch uploads the graph; the clocks of an idle GPU take a while to rise
        }
        (0..runs).map(|_| Ok(once()? / count as f64)).collect()
    }
}

/// Memory by cuMemAlloc.
struct Memory {
    address: sys::CUdeviceptr,
    stream: Arc<CudaStream>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.stream.context().bind_to_thread().is_ok() {
            // SAFETY: allocated by `allocate`, freed once. A failure is that of work before, which `download` reports.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Loads the driver. It is looked for first, because the bindings panic where it is not.
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

/// Where candle links the driver, the program would not have started without it.
#[cfg(feature = "candle-cuda")]
fn driver_is_present() -> bool {
    true
}

#[cfg(not(feature = "candle-cuda"))]
fn driver_is_present() -> bool {
    // SAFETY: it loads the library of the driver, whose initializers are NVIDIA's.
    unsafe { sys::is_culib_present() }
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

/// As nvidia-smi writes it: hexadecimal, with hyphens behind bytes 4, 6, 8 and 10.
fn uuid(bytes: [u8; 16]) -> String {
    let hyphen = |i| if [4, 6, 8, 10].contains(&i) { "-" } else { "" };
    let digits = bytes.iter().enumerate().map(|(i, byte)| format!("{}{byte:02x}", hyphen(i)));
    format!("GPU-{}", digits.collect::<String>())
}

/// The driver's words, with what to do about them.
fn failed(what: &str, error: DriverError) -> Error {
    use sys::cudaError_enum::*;
    let hint = match error.0 {
        CUDA_ERROR_OUT_OF_MEMORY => {
            "the GPU's memory is full: `nvidia-smi` shows what else holds some; otherwise take fewer rows at a time, or a smaller model"
        }
        CUDA_ERROR_NO_DEVICE => {
            "there is no GPU that the driver can use; `nvidia-smi` says why. The CPU needs none"
        }
        CUDA_ERROR_NO_BINARY_FOR_GPU | CUDA_ERROR_INVALID_PTX | CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "the kernels are for compute capability 8.0 and more, and need a driver as new as the toolkit they were built with"
        }
        CUDA_ERROR_ILLEGAL_ADDRESS | CUDA_ERROR_LAUNCH_FAILED | CUDA_ERROR_MISALIGNED_ADDRESS => {
            "a kernel has failed, and the GPU must be opened again: please report it with the command that led here"
        }
        _ => "`nvidia-smi` shows the GPUs and their driver; the CPU needs neither",
    };
    device_error(format!("{what}: {}", describe(error)), hint)
}

fn describe(error: DriverError) -> String {
    let words =
        error.error_string().map_or_else(|_| "an unknown error".into(), |words| words.to_string_lossy());
    format!("{words} ({:?})", error.0)
}

pub(super) fn device_error(what: String, hint: &str) -> Error {
    Error::Device { what, hint: hint.to_owned() }
}

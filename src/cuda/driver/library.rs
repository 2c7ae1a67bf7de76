//! [`Library`]: cuBLAS, loaded at the first dense product.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublas::{result, sys};
use cudarc::driver::CudaStream;

use super::super::buffer::Buffer;
use super::super::dense_product::DenseProduct;
use super::super::types::Half;
use super::error::device_error;
use crate::error::{Error, Result};

/// A cuBLAS handle on a stream. It computes one product at a time.
pub(crate) struct Library {
    handle: Mutex<Handle>,
    stream: Arc<CudaStream>,
    workspace: Buffer,
}

/// Bytes of the workspace, as NVIDIA recommends for Hopper. Without it, cuBLAS would allocate while a graph is
/// recorded.
pub(crate) const WORKSPACE_BYTES: usize = 32 << 20;

struct Handle(sys::cublasHandle_t);

// SAFETY: a handle may be used from any thread, by one thread at a time; the mutex ensures this.
unsafe impl Send for Handle {}

impl Library {
    /// Loads cuBLAS; `workspace` has [`WORKSPACE_BYTES`] on the stream's device.
    ///
    /// # Errors
    /// If cuBLAS is not installed.
    pub(crate) fn open(stream: Arc<CudaStream>, workspace: Buffer) -> Result<Library> {
        if !library_is_present() {
            let hint = "add the folder of libcublas.so to LD_LIBRARY_PATH (it comes with the toolkit), or use `gemm`";
            return Err(device_error("cuBLAS could not be loaded".into(), hint));
        }
        let handle = result::create_handle().map_err(failed)?;
        let library = Library { handle: Mutex::new(Handle(handle)), stream, workspace };
        // SAFETY: both were just created and live as long as the library.
        unsafe { result::set_stream(handle, library.stream.cu_stream().cast()) }.map_err(failed)?;
        let (address, bytes) = (library.workspace.address() as *mut c_void, library.workspace.bytes());
        // SAFETY: the memory is on the stream's device and lives as long as the handle.
        unsafe { sys::cublasSetWorkspace_v2(handle, address, bytes) }.result().map_err(failed)?;
        // Partial sums stay in f32, as in llmc's own kernels.
        let exact = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        // SAFETY: as above.
        unsafe { sys::cublasSetMathMode(handle, exact) }.result().map_err(failed)?;
        Ok(library)
    }

    /// Computes y\[m\]\[n\] = x·wᵀ. cuBLAS is column-major, so it computes yᵀ = w·xᵀ: our row-major matrices already
    /// are those transposes.
    pub(crate) fn multiply(&self, dense: &DenseProduct) -> Result<()> {
        use sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        use sys::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT;
        use sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        let [m, n, k] = dense.size().map(|size| size as i32);
        let kind = match dense.half() {
            Half::F16 => sys::cudaDataType_t::CUDA_R_16F,
            Half::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
        };
        let (one, zero) = (1f32, 0f32);
        let (one, zero) = ((&raw const one).cast::<c_void>(), (&raw const zero).cast::<c_void>());
        let ((x, x_stride), (w, w_stride), (y, y_stride)) = (dense.x(), dense.w(), dense.y());
        let [ldx, ldw, ldy] = [x_stride, w_stride, y_stride].map(|stride| stride as i32);
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the wrapper has checked that the matrices have these shapes and are on the stream's device.
        let queued = unsafe {
            result::gemm_ex(
                handle.0,
                CUBLAS_OP_T,
                CUBLAS_OP_N,
                n,
                m,
                k,
                one,
                w as *const c_void,
                kind,
                ldw,
                x as *const c_void,
                kind,
                ldx,
                zero,
                y as *mut c_void,
                kind,
                ldy,
                CUBLAS_COMPUTE_32F,
                CUBLAS_GEMM_DFALT,
            )
        };
        queued.map_err(failed)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.stream.context().bind_to_thread().is_ok() {
            // SAFETY: created by `open`, destroyed once.
            let _ = unsafe { result::destroy_handle(handle.0) };
        }
    }
}

/// Returns true if cuBLAS can be loaded. If candle links it, the program would not have started without it.
#[cfg(feature = "candle-cuda")]
pub(crate) fn library_is_present() -> bool {
    true
}

#[cfg(not(feature = "candle-cuda"))]
pub(crate) fn library_is_present() -> bool {
    // SAFETY: loads the library, whose initializers are NVIDIA's.
    unsafe { sys::is_culib_present() }
}

fn failed(error: result::CublasError) -> Error {
    let hint = "the GPU's memory may be full, or cuBLAS older than the driver; `gemm` needs no cuBLAS";
    device_error(format!("cuBLAS: {:?}", error.0), hint)
}

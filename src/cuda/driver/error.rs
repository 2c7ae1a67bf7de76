//! Errors of the CUDA driver, with hints.

use cudarc::driver::result::DriverError;
use cudarc::driver::sys;

use crate::error::Error;

/// Converts an error of the driver and adds a hint.
pub(crate) fn failed(what: &str, error: DriverError) -> Error {
    use sys::cudaError_enum::*;
    let hint = match error.0 {
        CUDA_ERROR_OUT_OF_MEMORY => {
            "the GPU's memory is full: `nvidia-smi` shows which programs use it; take fewer rows at a time, or a smaller model"
        }
        CUDA_ERROR_NO_DEVICE => {
            "the driver finds no GPU that it can use; check with `nvidia-smi`, or run on the CPU"
        }
        CUDA_ERROR_NO_BINARY_FOR_GPU | CUDA_ERROR_INVALID_PTX | CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "the kernels need compute capability 8.0 or more, and a driver as new as the toolkit that built them"
        }
        CUDA_ERROR_ILLEGAL_ADDRESS | CUDA_ERROR_LAUNCH_FAILED | CUDA_ERROR_MISALIGNED_ADDRESS => {
            "a kernel has failed, and the GPU must be opened again: please report this with the command that you ran"
        }
        _ => "`nvidia-smi` shows the GPUs and their driver; or run on the CPU",
    };
    device_error(format!("{what}: {}", describe(error)), hint)
}

fn describe(error: DriverError) -> String {
    let words =
        error.error_string().map_or_else(|_| "an unknown error".into(), |words| words.to_string_lossy());
    format!("{words} ({:?})", error.0)
}

pub(crate) fn device_error(what: String, hint: &str) -> Error {
    Error::Device { what, hint: hint.to_owned() }
}

//! The backend that runs blocks over the calibration set, in f32 on any device.

use crate::backend::Device;
use crate::backend::candle::{self, Candle};
use crate::error::Result;
use crate::tensor::DType;

/// The backend of a device.
#[derive(Debug, Clone)]
pub(crate) enum Machine {
    /// The CPU backend.
    Cpu,
    /// Candle, on its device.
    Candle(Candle),
}

/// Checks, before any work, that a device can be opened.
///
/// # Errors
/// See [`Machine::open`].
pub(crate) fn check_device(device: Device) -> Result<()> {
    Machine::open(device).map(drop)
}

/// Returns the part of a journal's key that names the device. It is empty for the CPU backend.
pub(crate) fn key(device: Device) -> String {
    if device == Device::Cpu { String::new() } else { format!("{device}\n") }
}

impl Machine {
    /// Opens a device.
    ///
    /// # Errors
    /// A GPU that is not there, or that this llmc was not built for.
    pub(crate) fn open(device: Device) -> Result<Machine> {
        Ok(match device {
            Device::Cpu => Machine::Cpu,
            Device::Candle => Machine::Candle(Candle::new(candle::Device::Cpu, DType::F32)?),
            Device::Cuda(number) => Machine::Candle(Candle::new(candle::Device::Cuda(number), DType::F32)?),
        })
    }

    /// Candle on this device, for gradients; on the CPU for the CPU backend, which has none.
    pub(crate) fn trainer(&self) -> Result<Candle> {
        match self {
            Machine::Cpu => Candle::new(candle::Device::Cpu, DType::F32),
            Machine::Candle(candle) => Ok(candle.clone()),
        }
    }
}

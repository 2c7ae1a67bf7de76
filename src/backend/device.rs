//! The devices that a model runs on, by the names that `--device` takes.

use std::fmt;
use std::str::FromStr;

/// A device, and the backend that runs models on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// `cpu`: the CPU backend.
    #[default]
    Cpu,
    /// `candle`: the candle backend on the CPU, in the precision of the CPU backend. It runs the code of a GPU without one.
    Candle,
    /// `cuda:N`: the candle backend on an NVIDIA GPU (feature `candle-cuda`).
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Device, String> {
        match name.split_once(':') {
            None if name == "cpu" => Some(Device::Cpu),
            None if name == "candle" => Some(Device::Candle),
            None if name == "cuda" => Some(Device::Cuda(0)),
            Some(("cuda", number)) => number.parse().ok().map(Device::Cuda),
            _ => None,
        }
        .ok_or_else(|| "expected cpu, candle, cuda or cuda:NUMBER".to_owned())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Candle => f.write_str("candle"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (name, device) in [("cpu", Device::Cpu), ("candle", Device::Candle), ("cuda:3", Device::Cuda(3))]
        {
            assert_eq!(name.parse(), Ok(device));
            assert_eq!(device.to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cpu:0"] {
            assert!(wrong.parse::<Device>().is_err_and(|why| why.contains("cuda:NUMBER")), "{wrong}");
        }
    }
}

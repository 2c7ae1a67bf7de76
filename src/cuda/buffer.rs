//! [`Buffer`]: memory of a device. A kernel reads and writes it by address, so whoever creates one must guarantee the
//! memory.

use std::any::Any;
use std::fmt;

/// Memory of a device, freed when dropped.
pub struct Buffer {
    device: u64,
    address: u64,
    bytes: usize,
    _memory: Box<dyn Any + Send + Sync>,
}

impl Buffer {
    /// Creates a buffer over memory of a device, for implementations of [`Device`](super::Device).
    ///
    /// # Safety
    /// `address` is the start of `bytes` bytes of the device whose [`Properties::id`](super::Properties::id) is
    /// `device`. Its kernels may read and write them until the buffer is dropped, and after that until their queued
    /// work is done. `memory` may own them: the buffer drops it last.
    pub unsafe fn new(device: u64, address: u64, bytes: usize, memory: Box<dyn Any + Send + Sync>) -> Buffer {
        Buffer { device, address, bytes, _memory: memory }
    }

    /// Creates a buffer without memory, for a device that only records addresses.
    #[cfg(test)]
    pub(super) fn unbacked(device: u64, address: u64, bytes: usize) -> Buffer {
        Buffer { device, address, bytes, _memory: Box::new(()) }
    }

    /// Returns the [`Properties::id`](super::Properties::id) of the buffer's device.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Returns the address that the device's kernels use.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Returns the number of bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Buffer({} bytes at {:#x} of device {})", self.bytes, self.address, self.device)
    }
}

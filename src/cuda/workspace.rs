//! Memory that products need besides their operands: partial sums and tickets of split-K, the dense weight of the path
//! through the vendor's library, and the rounded inputs of W8A8. It grows to the largest product and serves one product
//! at a time.

use super::buffer::Buffer;
use super::device::Device;
use super::matrix::same_device;
use super::quantize_activations::QuantizedActivations;
use super::types::Half;
use crate::error::Result;

/// Memory for intermediate results; see the module.
#[derive(Debug, Default)]
pub struct Workspace {
    scratch: Option<Buffer>,
    tickets: Option<Buffer>,
    dense: Option<Buffer>,
    rounded: Option<QuantizedActivations>,
}

/// Memory of blocks that share an output: partial sums, and tickets that decide which block adds them. Empty if no
/// output is shared.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SplitBuffers<'a> {
    pub scratch: Option<&'a Buffer>,
    pub tickets: Option<&'a Buffer>,
}

impl Workspace {
    /// Creates an empty workspace.
    pub fn new() -> Workspace {
        Workspace::default()
    }

    /// Provides memory for this number of partial sums of four bytes, and of tickets, which are zero.
    pub(super) fn split_buffers(
        &mut self,
        device: &dyn Device,
        sums: usize,
        tickets: usize,
    ) -> Result<SplitBuffers<'_>> {
        let (sums, tickets) = (sums.saturating_mul(4), tickets.saturating_mul(4));
        grow(&mut self.scratch, device, sums)?;
        if grow(&mut self.tickets, device, tickets)? {
            // Every launch leaves the tickets at zero, so only new ones must be cleared.
            let cleared =
                self.tickets.as_mut().map_or(Ok(()), |new| device.upload(&vec![0; new.bytes()], new));
            if cleared.is_err() {
                self.tickets = None;
            }
            cleared?;
        }
        Ok(SplitBuffers { scratch: self.scratch.as_ref(), tickets: self.tickets.as_ref() })
    }

    /// Provides memory for a dense weight.
    pub(super) fn dense(&mut self, device: &dyn Device, bytes: usize) -> Result<&Buffer> {
        grow(&mut self.dense, device, bytes)?;
        Ok(self.dense.as_ref().expect("it was just made"))
    }

    /// Takes out memory for rounded inputs; [`Workspace::keep_rounded`] returns it.
    pub(super) fn take_rounded(
        &mut self,
        device: &dyn Device,
        half: Half,
        shape: [usize; 2],
    ) -> Result<QuantizedActivations> {
        let kept = self.rounded.take().and_then(|kept| kept.reshaped(half, shape));
        kept.map_or_else(|| QuantizedActivations::allocate(device, half, shape), Ok)
    }

    /// Keeps rounded inputs for the next product.
    pub(super) fn keep_rounded(&mut self, rounded: QuantizedActivations) {
        self.rounded = Some(rounded);
    }
}

/// Ensures this number of bytes on this device; returns true if they are new.
fn grow(slot: &mut Option<Buffer>, device: &dyn Device, bytes: usize) -> Result<bool> {
    if let Some(buffer) = slot {
        same_device(device, &[buffer])?;
        if buffer.bytes() >= bytes {
            return Ok(false);
        }
    }
    *slot = None; // freed first: there may not be room for both
    *slot = Some(device.allocate(bytes)?);
    Ok(true)
}

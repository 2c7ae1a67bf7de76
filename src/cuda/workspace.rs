//! Memory that products need besides their operands: partial sums and tickets of split-K, and the dense weight of the path through
//! the vendor's library, the rounded inputs of W8A8. It grows to the largest product, and is for one product at a time.

use super::Half;
use super::device::{Buffer, Device};
use super::matrix::same_device;
use super::quantize_activations::Rounded;
use crate::error::Result;

/// See the module.
#[derive(Debug, Default)]
pub struct Workspace {
    scratch: Option<Buffer>,
    tickets: Option<Buffer>,
    dense: Option<Buffer>,
    rounded: Option<Rounded>,
}

/// Where blocks that share an output leave their sums, and draw who adds them up. Nothing where no output is shared.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shared<'a> {
    pub scratch: Option<&'a Buffer>,
    pub tickets: Option<&'a Buffer>,
}

impl Workspace {
    /// Nothing yet.
    pub fn new() -> Workspace {
        Workspace::default()
    }

    /// Room for so many partial sums of four bytes and so many tickets, which are zero.
    pub(super) fn shared(&mut self, device: &dyn Device, sums: usize, tickets: usize) -> Result<Shared<'_>> {
        let (sums, tickets) = (sums.saturating_mul(4), tickets.saturating_mul(4));
        grow(&mut self.scratch, device, sums)?;
        if grow(&mut self.tickets, device, tickets)? {
            // Every launch leaves them at zero: only new ones are not.
            let cleared =
                self.tickets.as_mut().map_or(Ok(()), |new| device.upload(&vec![0; new.bytes()], new));
            if cleared.is_err() {
                self.tickets = None;
            }
            cleared?;
        }
        Ok(Shared { scratch: self.scratch.as_ref(), tickets: self.tickets.as_ref() })
    }

    /// Room for a dense weight.
    pub(super) fn dense(&mut self, device: &dyn Device, bytes: usize) -> Result<&Buffer> {
        grow(&mut self.dense, device, bytes)?;
        Ok(self.dense.as_ref().expect("it was just made"))
    }

    /// Room for rounded inputs, to be given back by [`Workspace::keep_rounded`].
    pub(super) fn take_rounded(
        &mut self,
        device: &dyn Device,
        half: Half,
        shape: [usize; 2],
    ) -> Result<Rounded> {
        let kept = self.rounded.take().and_then(|kept| kept.reshaped(half, shape));
        kept.map_or_else(|| Rounded::allocate(device, half, shape), Ok)
    }

    /// Keeps them for the next product.
    pub(super) fn keep_rounded(&mut self, rounded: Rounded) {
        self.rounded = Some(rounded);
    }
}

/// Makes sure of so many bytes on this device; true where they are new.
fn grow(held: &mut Option<Buffer>, device: &dyn Device, bytes: usize) -> Result<bool> {
    if let Some(buffer) = held {
        same_device(device, &[buffer])?;
        if buffer.bytes() >= bytes {
            return Ok(false);
        }
    }
    *held = None; // given back first: there may not be room for both
    *held = Some(device.allocate(bytes)?);
    Ok(true)
}

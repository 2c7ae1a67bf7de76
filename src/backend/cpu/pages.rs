//! Memory for packed weights: zeroed, aligned to pages, with huge pages if the system has them.
//!
//! A decoder reads every weight once per token. With pages of 4 KB the processor spends part of that time on address
//! translation.

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// The unit of a kernel's loads: a cache line, one AVX-512 register.
pub(super) type Line = [u8; 64];

/// Memory in lines.
#[derive(Debug)]
pub(super) struct Pages(MmapMut);

impl Pages {
    /// Allocates this number of lines of zeros.
    ///
    /// # Errors
    /// If the system has not enough memory.
    pub(crate) fn zeroed(lines: usize) -> Result<Pages> {
        let bytes = lines.checked_mul(size_of::<Line>()).ok_or_else(|| refused(usize::MAX))?;
        let map = MmapMut::map_anon(bytes).map_err(|_| refused(bytes))?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage); // If this is refused, the program is slower, not wrong.
        Ok(Pages(map))
    }

    /// Returns the lines.
    pub(crate) fn lines(&self) -> &[Line] {
        self.0.as_chunks().0
    }

    /// Returns the lines for writing.
    pub(crate) fn lines_mut(&mut self) -> &mut [Line] {
        self.0.as_chunks_mut().0
    }

    /// Returns the bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }
}

fn refused(bytes: usize) -> Error {
    let gigabytes = bytes as f64 / 1e9;
    Error::unsupported(
        format!("the system refuses {gigabytes:.2} GB of memory for packed weights"),
        "close other programs, or quantize the model to fewer bits first (`llmc quantize`)",
    )
}

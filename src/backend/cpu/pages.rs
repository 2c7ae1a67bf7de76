//! Memory for packed weights: zeroed, aligned to pages, huge ones where the system has them.
//!
//! A decoder reads every weight once per token. With pages of 4 KB the processor spends part of that on finding addresses.

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// What a kernel loads at once: a cache line, one AVX-512 register.
pub(super) type Line = [u8; 64];

/// Lines of memory.
#[derive(Debug)]
pub(super) struct Pages(MmapMut);

impl Pages {
    /// So many lines of zeros.
    ///
    /// # Errors
    /// Where the system has no such memory.
    pub fn zeroed(lines: usize) -> Result<Pages> {
        let bytes = lines.checked_mul(size_of::<Line>()).ok_or_else(|| refused(usize::MAX))?;
        let map = MmapMut::map_anon(bytes).map_err(|_| refused(bytes))?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage); // Slower, not wrong, where it is refused.
        Ok(Pages(map))
    }

    /// The lines.
    pub fn lines(&self) -> &[Line] {
        self.0.as_chunks().0
    }

    /// The lines, to be written.
    pub fn lines_mut(&mut self) -> &mut [Line] {
        self.0.as_chunks_mut().0
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
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

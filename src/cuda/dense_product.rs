//! [`DenseProduct`]: the operands of a product by the vendor's library. Only this crate creates one, from memory that
//! it has checked, because the library reads and writes by address.

use super::buffer::Buffer;
use super::types::Half;

/// The operands of [`Device::multiply`](super::Device::multiply): matrices of one type, given by address and row stride.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))] // not otherwise: its addresses are valid during the call only
pub struct DenseProduct {
    half: Half,
    size: [usize; 3],
    x: (u64, usize),
    w: (u64, usize),
    y: (u64, usize),
}

impl DenseProduct {
    /// Describes y\[m\]\[n\] = x\[m\]\[k\]·w\[n\]\[k\]ᵀ of size \[m, n, k\]. A matrix is a buffer and its row stride in
    /// elements.
    ///
    /// # Panics
    /// If a buffer is too short, or if its rows overlap.
    pub(super) fn new(
        half: Half,
        [m, n, k]: [usize; 3],
        x: (&Buffer, usize),
        w: (&Buffer, usize),
        y: (&Buffer, usize),
    ) -> DenseProduct {
        for ((buffer, stride), rows, cols) in [(x, m, k), (w, n, k), (y, m, n)] {
            assert!(
                cols <= stride && 2 * rows * stride <= buffer.bytes(),
                "dense product: memory is too short"
            );
        }
        let [x, w, y] = [x, w, y].map(|(buffer, stride)| (buffer.address(), stride));
        DenseProduct { half, size: [m, n, k], x, w, y }
    }

    /// Returns the type of all three matrices.
    pub fn half(&self) -> Half {
        self.half
    }

    /// Returns the rows of x and y, rows of w, columns of x and w.
    pub fn size(&self) -> [usize; 3] {
        self.size
    }

    /// Returns the address of x and its row stride in elements.
    pub fn x(&self) -> (u64, usize) {
        self.x
    }

    /// Returns the address of w and its row stride in elements.
    pub fn w(&self) -> (u64, usize) {
        self.w
    }

    /// Returns the address of y and its row stride in elements.
    pub fn y(&self) -> (u64, usize) {
        self.y
    }
}

//! [`DenseProduct`]: the operands of a product by the vendor's library. Only this crate creates one, from memory that it has
//! checked, because the library reads and writes by address.

use super::buffer::Buffer;
use super::matrix::Matrix;
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
    /// Describes y\[m\]\[n\] = x\[m\]\[k\]·w\[n\]\[k\]ᵀ, where rows of w begin every `w_stride` elements of a buffer.
    ///
    /// # Panics
    /// If the shapes do not agree, or if w is too short.
    pub(super) fn new(x: &Matrix, w: (&Buffer, usize), y: &Matrix) -> DenseProduct {
        let ([m, k], [y_rows, n], (w, w_stride)) = (x.shape(), y.shape(), w);
        assert!(m == y_rows && x.half() == y.half(), "dense product: x and y differ");
        assert!(k <= w_stride && 2 * n * w_stride <= w.bytes(), "dense product: w is too short");
        DenseProduct {
            half: x.half(),
            size: [m, n, k],
            x: (x.buffer().address(), x.stride()),
            w: (w.address(), w_stride),
            y: (y.buffer().address(), y.stride()),
        }
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

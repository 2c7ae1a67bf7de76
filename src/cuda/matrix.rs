//! Matrices in a device's memory, activations and packed weights; and the checks that operands fit together.

use super::buffer::Buffer;
use super::device::Device;
use super::layout::{DEPTH, STRIP};
use super::packed::PackedMatrix;
use super::types::{Bits, Half};
use crate::error::{Error, Result};
use crate::numerics::Scheme;

/// Activations, [rows, cols], of half precision. Rows begin every `stride` elements. Kernels read them 16 bytes at a
/// time if the stride is a multiple of 8.
#[derive(Debug)]
pub struct Matrix {
    buffer: Buffer,
    half: Half,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Matrix {
    /// Allocates a matrix whose rows begin every `cols` elements, or every next multiple of 8 if `aligned`.
    pub fn allocate(
        device: &dyn Device,
        half: Half,
        [rows, cols]: [usize; 2],
        aligned: bool,
    ) -> Result<Matrix> {
        let stride = if aligned { cols.next_multiple_of(8) } else { cols };
        let buffer = device.allocate(bytes_of(&[rows, stride], 2)?)?;
        Ok(Matrix { buffer, half, rows, cols, stride })
    }

    /// Creates a matrix in existing memory, with rows without gaps.
    ///
    /// # Panics
    /// If the memory is too short.
    #[cfg(feature = "candle-cuda")]
    pub(crate) fn over(buffer: Buffer, half: Half, [rows, cols]: [usize; 2]) -> Matrix {
        assert!(2 * rows * cols <= buffer.bytes(), "Matrix::over: the memory is too short");
        Matrix { buffer, half, rows, cols, stride: cols }
    }

    /// Copies values to a matrix [rows, cols] with aligned rows; they are rounded to the nearest.
    ///
    /// # Panics
    /// If `values` has another length.
    pub fn upload(
        device: &dyn Device,
        half: Half,
        [rows, cols]: [usize; 2],
        values: &[f32],
    ) -> Result<Matrix> {
        assert_eq!(values.len(), rows * cols, "Matrix::upload: wrong number of values");
        let mut matrix = Matrix::allocate(device, half, [rows, cols], true)?;
        let mut bytes = vec![0; rows * matrix.stride * 2];
        for (row, out) in
            values.chunks_exact(cols.max(1)).zip(bytes.chunks_exact_mut(2 * matrix.stride.max(1)))
        {
            write_halves(half, row, out);
        }
        device.upload(&bytes, &mut matrix.buffer)?;
        Ok(matrix)
    }

    /// Copies the values to the host, row-major [rows, cols].
    pub fn download(&self, device: &dyn Device) -> Result<Vec<f32>> {
        same_device(device, &[&self.buffer])?;
        let mut bytes = vec![0; self.rows * self.stride * 2];
        device.download(&self.buffer, &mut bytes)?;
        let rows = bytes.chunks_exact(2 * self.stride.max(1)).map(|row| &row[..2 * self.cols]);
        let halves = rows.flat_map(|row| row.chunks_exact(2));
        Ok(halves.map(|pair| self.half.decode(u16::from_le_bytes([pair[0], pair[1]]))).collect())
    }

    /// Fills the matrix with NaN, so that an unwritten element is noticed.
    pub(crate) fn poison(&mut self, device: &dyn Device) -> Result<()> {
        let bytes = vec![0xff; self.buffer.bytes()];
        device.upload(&bytes, &mut self.buffer)
    }

    /// Changes the view of the memory: [rows, cols], with rows every `stride` elements.
    ///
    /// # Errors
    /// If the memory is too short.
    pub fn view(self, [rows, cols]: [usize; 2], stride: usize) -> Result<Matrix> {
        if cols > stride || bytes_of(&[rows, stride], 2)? > self.buffer.bytes() {
            let what = format!("{rows}×{cols} every {stride} elements, in {} bytes", self.buffer.bytes());
            return Err(Error::unsupported(what, "allocate a larger matrix"));
        }
        Ok(Matrix { rows, cols, stride, ..self })
    }

    /// Returns [rows, columns].
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Returns the number of elements from one row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Returns the type of the elements.
    pub(crate) fn half(&self) -> Half {
        self.half
    }

    /// Checks that a kernel can read the rows 16 bytes at a time.
    pub(super) fn check_aligned(&self) -> Result<()> {
        if self.stride.is_multiple_of(8) && self.buffer.address().is_multiple_of(16) {
            return Ok(());
        }
        let what =
            format!("rows of x begin every {} elements, which is not a multiple of 16 bytes", self.stride);
        Err(Error::unsupported(what, "allocate x with aligned rows"))
    }

    /// Returns the memory.
    pub(crate) fn buffer(&self) -> &Buffer {
        &self.buffer
    }
}

/// Copies a vector to a device in half precision; a bias has as many elements as the weight has rows.
pub fn upload_vector(device: &dyn Device, half: Half, values: &[f32]) -> Result<Buffer> {
    let mut bytes = vec![0; 2 * values.len()];
    write_halves(half, values, &mut bytes);
    let mut buffer = device.allocate(bytes.len())?;
    device.upload(&bytes, &mut buffer)?;
    Ok(buffer)
}

/// A [`PackedMatrix`] in a device's memory.
#[derive(Debug)]
pub struct Weight {
    pub(super) scheme: Scheme,
    pub(super) bits: Bits,
    pub(super) half: Half,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) group: usize,
    pub(super) codes: Buffer,
    pub(super) scales: Buffer,
    pub(super) zeros: Option<Buffer>,
}

impl Weight {
    /// Copies a packed matrix to a device.
    pub fn upload(device: &dyn Device, packed: &PackedMatrix) -> Result<Weight> {
        let copy = |bytes: &[u8]| {
            let mut buffer = device.allocate(bytes.len())?;
            device.upload(bytes, &mut buffer)?;
            Ok(buffer)
        };
        let scales: Vec<u8> = packed.scales().iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let [rows, cols] = packed.shape();
        Ok(Weight {
            scheme: packed.scheme(),
            bits: packed.bits(),
            half: packed.half(),
            rows,
            cols,
            group: packed.group(),
            codes: copy(packed.codes())?,
            scales: copy(&scales)?,
            zeros: packed.zeros().map(copy).transpose()?,
        })
    }

    /// Copies the weight on its device.
    pub(crate) fn duplicate(&self, device: &dyn Device) -> Result<Weight> {
        let copy = |from: &Buffer| {
            let mut to = device.allocate(from.bytes())?;
            device.copy(from, &mut to)?;
            Ok(to)
        };
        same_device(device, &self.buffers())?;
        let zeros = self.zeros.as_ref().map(copy).transpose()?;
        Ok(Weight { codes: copy(&self.codes)?, scales: copy(&self.scales)?, zeros, ..*self })
    }

    /// Returns [rows, columns]: outputs and inputs of the linear layer.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Returns the width of a code.
    pub(crate) fn bits(&self) -> Bits {
        self.bits
    }

    /// Returns the type of activations that it multiplies.
    pub(crate) fn half(&self) -> Half {
        self.half
    }

    /// Returns the bytes that a product must read.
    pub(crate) fn bytes(&self) -> usize {
        self.codes.bytes() + self.scales.bytes() + self.zeros.as_ref().map_or(0, Buffer::bytes)
    }

    /// Returns the number of strips of 64 rows.
    pub(super) fn strips(&self) -> usize {
        self.rows.div_ceil(STRIP)
    }

    /// Returns the number of columns with padding.
    pub(super) fn depth(&self) -> usize {
        self.cols.next_multiple_of(DEPTH)
    }

    /// Returns the suffix of the names of its kernels: `w4_f16`, `w8_bf16_zero`.
    pub(super) fn suffix(&self) -> String {
        let zero = if self.zeros.is_some() { "_zero" } else { "" };
        format!("{}_{}{zero}", self.bits, self.half)
    }

    pub(super) fn buffers(&self) -> Vec<&Buffer> {
        [&self.codes, &self.scales].into_iter().chain(&self.zeros).collect()
    }
}

/// Returns the bytes of a tensor of this shape.
pub(super) fn bytes_of(shape: &[usize], element: usize) -> Result<usize> {
    let bytes = shape.iter().try_fold(element, |product, dim| product.checked_mul(*dim));
    bytes.ok_or_else(|| {
        let what = format!("a matrix of {shape:?} is larger than any memory");
        Error::unsupported(what, "take fewer rows at a time")
    })
}

/// Checks that all buffers of a call are on the device of the call.
pub(super) fn same_device(device: &dyn Device, buffers: &[&Buffer]) -> Result<()> {
    let id = device.properties().id;
    match buffers.iter().find(|buffer| buffer.device() != id) {
        None => Ok(()),
        Some(buffer) => {
            let what = format!("memory of device {} used on device {id}", buffer.device());
            Err(Error::unsupported(what, "copy the matrix to the device that multiplies"))
        }
    }
}

fn write_halves(half: Half, values: &[f32], out: &mut [u8]) {
    for (value, out) in values.iter().zip(out.chunks_exact_mut(2)) {
        out.copy_from_slice(&half.encode(*value).to_le_bytes());
    }
}

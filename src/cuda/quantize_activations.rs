//! `quantize_activations`: rows of x → INT8 and one scale each, as `w8a8` reads them.

use super::buffer::Buffer;
use super::device::{Device, Geometry, Parameter, launch};
use super::layout::DEPTH;
use super::matrix::{Matrix, bytes_of, same_device};
use super::types::Half;
use crate::error::{Error, Result};

/// Rows rounded to INT8, each with the scale absmax/127.
#[derive(Debug)]
pub struct QuantizedActivations {
    pub(super) codes: Buffer,
    pub(super) scales: Buffer,
    pub(super) half: Half,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl QuantizedActivations {
    /// Allocates memory for `rows` × `cols` activations of type `half`.
    pub fn allocate(
        device: &dyn Device,
        half: Half,
        [rows, cols]: [usize; 2],
    ) -> Result<QuantizedActivations> {
        let codes = device.allocate(code_bytes([rows, cols])?)?;
        Ok(QuantizedActivations { codes, scales: device.allocate(4 * rows)?, half, rows, cols })
    }

    /// Reuses the memory for another shape; returns `None` if it is too short.
    pub(super) fn reshaped(self, half: Half, [rows, cols]: [usize; 2]) -> Option<QuantizedActivations> {
        let holds = code_bytes([rows, cols]).is_ok_and(|bytes| bytes <= self.codes.bytes());
        (holds && 4 * rows <= self.scales.bytes()).then_some(QuantizedActivations {
            half,
            rows,
            cols,
            ..self
        })
    }

    /// Returns [rows, columns].
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Copies the scales to the host, and the codes row-major in the order of the columns.
    pub fn download(&self, device: &dyn Device) -> Result<(Vec<f32>, Vec<i8>)> {
        same_device(device, &[&self.codes, &self.scales])?;
        let (mut scales, mut codes) = (vec![0; 4 * self.rows], vec![0; code_bytes(self.shape())?]);
        device.download(&self.scales, &mut scales)?;
        device.download(&self.codes, &mut codes)?;
        let scales = scales.chunks_exact(4).map(|s| f32::from_le_bytes([s[0], s[1], s[2], s[3]])).collect();
        let rows = codes.chunks_exact(self.cols.next_multiple_of(DEPTH).max(1)).take(self.rows);
        let codes = rows.flat_map(|row| (0..self.cols).map(|column| row[place(column)].cast_signed()));
        Ok((scales, codes.collect()))
    }
}

/// Returns the bytes of the codes, with padding.
fn code_bytes([rows, cols]: [usize; 2]) -> Result<usize> {
    bytes_of(&[rows, cols.next_multiple_of(DEPTH)], 1)
}

/// Returns the position of a column in a row: each 16 columns are in the order in which a W8 word holds them.
fn place(column: usize) -> usize {
    let within = column % 16;
    let (q, p) = (within % 8 / 2, 2 * (within % 2) + within / 8);
    column - within + 4 * q + p
}

/// Rounds x to INT8.
///
/// # Errors
/// If `out` has another shape or type, if rows of x are not aligned to 16 bytes, or if the device fails.
pub fn quantize_activations(device: &dyn Device, x: &Matrix, out: &mut QuantizedActivations) -> Result<()> {
    let [m, k] = x.shape();
    if out.shape() != [m, k] || out.half != x.half() || m == 0 || k == 0 {
        let what = format!("rounding {m}×{k} of {} into {:?} of {}", x.half(), out.shape(), out.half);
        return Err(Error::unsupported(what, "allocate the output in the shape and type of x"));
    }
    x.check_aligned()?;
    same_device(device, &[x.buffer(), &out.codes, &out.scales])?;
    let parameter = Parameter::default()
        .pointer(Some(&out.codes))
        .pointer(Some(&out.scales))
        .pointer(Some(x.buffer()))
        .pair(m, k)
        .pair(x.stride(), 0);
    let geometry = Geometry { grid: [m, 1, 1], block: 256, shared_bytes: 32 };
    launch(device, format!("quantize_activations_{}", x.half()), geometry, parameter)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formula of kernels/README.md, inverted.
    #[test]
    fn columns_lie_as_in_a_word_of_codes() {
        for (q, p) in (0..4).flat_map(|q| (0..4).map(move |p| (q, p))) {
            assert_eq!(place(32 + 2 * q + p / 2 + 8 * (p % 2)), 32 + 4 * q + p);
        }
    }
}

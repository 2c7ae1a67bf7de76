//! [`Grid`]: the scales and zero points of a scheme, as stored and as the codecs read them.

use std::borrow::Cow;

use super::{Number, Scheme};

/// The parameters that a scheme rounds with: one scale (and zero point) per tensor, channel, group or block.
///
/// Index of the entry for element (row, col): [`Scheme::grid_index`]. Values are exactly representable in the scheme's
/// scale type, so that the stored values are those that were rounded with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grid {
    /// One per grid entry, row-major.
    pub scales: Vec<f32>,
    /// One per grid entry, in the domain of the codes (unsigned); empty if the scheme is symmetric.
    pub zero_points: Vec<u8>,
    /// NVFP4's per-tensor divisor; `None` elsewhere.
    pub global_scale: Option<f32>,
}

/// A grid as the codecs read it: w = decode(code, zero)·scale.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Cells {
    /// One per grid entry, NVFP4's global scale divided out.
    pub scales: Vec<f32>,
    /// One per grid entry: the zero point as the codec subtracts it, 0 if the scheme is symmetric.
    pub zeros: Vec<f32>,
}

impl Grid {
    /// Returns the scales with the global scale divided out.
    pub(super) fn effective_scales(&self) -> Cow<'_, [f32]> {
        match self.global_scale {
            Some(global) => self.scales.iter().map(|scale| scale / global).collect(),
            None => Cow::Borrowed(&self.scales),
        }
    }

    /// Returns the zero points as the codec of `number` subtracts them; empty if there are none.
    pub(super) fn zeros(&self, number: Number) -> Vec<f32> {
        let Number::Int { bits } = number else { return Vec::new() };
        let offset = f32::from(1u16 << (bits - 1));
        self.zero_points.iter().map(|&zero| f32::from(zero) - offset).collect()
    }
}

impl Scheme {
    /// Returns the grid as [`Scheme::round_column`] takes it.
    pub(crate) fn cells(&self, grid: &Grid) -> Cells {
        let (scales, mut zeros) = (grid.effective_scales().into_owned(), grid.zeros(self.number));
        zeros.resize(scales.len(), 0.0);
        Cells { scales, zeros }
    }
}

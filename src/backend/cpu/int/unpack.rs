//! Panels shown in f32: to the bit what `QTensor::dequantize` gives.

use super::lanes::Lanes;
use super::layout::{Columns, Grid, Line, Offset, PerRow, Width};
use super::plain::Plain;
use crate::backend::cpu::packed::PANEL;
use crate::numerics::simd::Kernel;

/// Writes a panel, [columns, PANEL].
pub struct Unpack<'a> {
    /// What divides the columns.
    pub columns: &'a Columns,
    /// Those of the panel.
    pub lines: &'a [Line],
    /// What its codes are scaled and offset with.
    pub grid: &'a Grid,
    /// The number of the panel there.
    pub index: usize,
    /// [columns, PANEL].
    pub out: &'a mut [f32],
}

impl Kernel for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let columns = self.columns;
        let lines_each = columns.group * columns.step / columns.width.columns();
        let outs = self.out[..columns.count * PANEL].as_chunks_mut::<PANEL>().0;
        let groups = self.lines.chunks(lines_each).zip(outs.chunks_mut(columns.group * columns.step));
        for (group, (lines, out)) in groups.enumerate() {
            let weigh = Weigh::new(self.grid, self.index * columns.groups() + group);
            for (line, out) in lines.iter().zip(out.chunks_mut(columns.width.columns())) {
                weigh.line(line, columns.width, out);
            }
        }
    }
}

/// w = scale·(code − zero) − minimum.
struct Weigh {
    scale: PerRow<f32>,
    zero: PerRow<f32>,
    minimum: Option<PerRow<f32>>,
}

impl Weigh {
    /// The numbers of an entry (panel·groups + group).
    #[inline(always)]
    fn new(grid: &Grid, entry: usize) -> Weigh {
        let scale = grid.scales.load::<Plain>(entry);
        let (zero, minimum) = match &grid.offset {
            Offset::Zero(zero) => ([f32::from(*zero); PANEL], None),
            Offset::Zeros(zeros) => (Plain::floats_of_u8(&zeros[entry]), None),
            Offset::Minimums(minimums) => ([0.0; PANEL], Some(minimums.load::<Plain>(entry))),
        };
        Weigh { scale, zero, minimum }
    }

    /// Up to a line's columns.
    #[inline(always)]
    fn line(&self, line: &Line, width: Width, out: &mut [PerRow<f32>]) {
        for (i, out) in out.iter_mut().enumerate() {
            let (byte, shift) = (i % 4, 4 * (i / 4));
            for (lane, out) in out.iter_mut().enumerate() {
                let code = match width {
                    Width::Nibble => line[4 * lane + byte] >> shift & 15,
                    Width::Byte => line[4 * lane + byte],
                };
                *out = self.scale[lane] * (f32::from(code) - self.zero[lane]);
                if let Some(minimum) = &self.minimum {
                    *out -= minimum[lane];
                }
            }
        }
    }
}

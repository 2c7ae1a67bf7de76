//! Panels unpacked to f32, with the same bits as `QTensor::dequantize`.

use super::lanes::IntLanes;
use super::layout::{ColumnLayout, Offset, PanelGrid, Width};
use super::line::{Line, PerRow};
use super::plain::PlainInt;
use crate::backend::cpu::packed::PANEL;
use crate::numerics::simd::Kernel;

/// Unpacks a panel to [columns, PANEL].
pub(crate) struct UnpackKernel<'a> {
    /// Division of the columns.
    pub columns: &'a ColumnLayout,
    /// Lines of the panel.
    pub lines: &'a [Line],
    /// Scales and offsets of the codes.
    pub grid: &'a PanelGrid,
    /// Number of the panel in the grid.
    pub index: usize,
    /// Output [columns, PANEL].
    pub out: &'a mut [f32],
}

impl Kernel for UnpackKernel<'_> {
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

/// The formula of a weight: w = scale·(code − zero) − minimum.
struct Weigh {
    scale: PerRow<f32>,
    zero: PerRow<f32>,
    minimum: Option<PerRow<f32>>,
}

impl Weigh {
    /// Loads the numbers of an entry (panel·groups + group).
    #[inline(always)]
    fn new(grid: &PanelGrid, entry: usize) -> Weigh {
        let scale = grid.scales.load::<PlainInt>(entry);
        let (zero, minimum) = match &grid.offset {
            Offset::Zero(zero) => ([f32::from(*zero); PANEL], None),
            Offset::Zeros(zeros) => (PlainInt::floats_of_u8(&zeros[entry]), None),
            Offset::Minimums(minimums) => ([0.0; PANEL], Some(minimums.load::<PlainInt>(entry))),
        };
        Weigh { scale, zero, minimum }
    }

    /// Unpacks at most the columns of one line.
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

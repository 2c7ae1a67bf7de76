//! The product of rows of inputs and panels of weights: tiles of the output whose sums stay in registers, written once over
//! [`Lanes`] and compiled for each [`Level`].
//!
//! A panel is a run of lines, each of 16 rows × 1, 2 columns. A tile of R rows and P panels loads P lines and R inputs for
//! R·P products, so that arithmetic, not loading, is what takes its time.
//!
//! Loops count, and use no adapters of iterators: those are not always inlined in functions with an instruction set of their
//! own, and what is not inlined neither uses it nor leaves the sums in registers (30 times slower, when it happened).
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::super::level::Level;
use super::super::packed::PANEL;
use super::super::pages::Line;
use super::lanes::{Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// What the lines of a panel hold, and how they meet inputs.
pub(in super::super) trait Format {
    /// An element of the inputs.
    type Input: Copy;
    /// A line, ready to be multiplied.
    type Weights<V: Lanes>: Copy;
    /// Columns per line.
    const COLUMNS: usize;

    fn load<V: Lanes>(line: &Line) -> Self::Weights<V>;
    /// sum + the products of a line with [`Format::COLUMNS`] inputs.
    ///
    /// # Safety
    /// So many inputs must be readable.
    unsafe fn add<V: Lanes>(sum: V, weights: Self::Weights<V>, inputs: *const Self::Input) -> V;
}

/// f32, one column per line.
pub(in super::super) struct Singles;
/// bfloat16, two columns per line, interleaved; f32 inputs.
pub(in super::super) struct Pairs;
/// f16, two columns per line, one after the other; f32 inputs.
pub(in super::super) struct Halves;
/// As [`Pairs`], with inputs in bfloat16 too.
pub(in super::super) struct PairsByPairs;

impl Format for Singles {
    type Input = f32;
    type Weights<V: Lanes> = V;
    const COLUMNS: usize = 1;

    #[inline(always)]
    fn load<V: Lanes>(line: &Line) -> V {
        V::singles(V::raw(line))
    }
    #[inline(always)]
    unsafe fn add<V: Lanes>(sum: V, weights: V, inputs: *const f32) -> V {
        // SAFETY: the caller's.
        sum.add_product(weights, V::splat(unsafe { *inputs }))
    }
}

impl Format for Pairs {
    type Input = f32;
    type Weights<V: Lanes> = [V; 2];
    const COLUMNS: usize = 2;

    #[inline(always)]
    fn load<V: Lanes>(line: &Line) -> [V; 2] {
        V::pairs(V::raw(line))
    }
    #[inline(always)]
    unsafe fn add<V: Lanes>(sum: V, [even, odd]: [V; 2], inputs: *const f32) -> V {
        // SAFETY: the caller's.
        let [first, second] = unsafe { [*inputs, *inputs.add(1)] };
        sum.add_product(even, V::splat(first)).add_product(odd, V::splat(second))
    }
}

impl Format for Halves {
    type Input = f32;
    type Weights<V: Lanes> = [V; 2];
    const COLUMNS: usize = 2;

    #[inline(always)]
    fn load<V: Lanes>(line: &Line) -> [V; 2] {
        V::halves(V::raw(line))
    }
    #[inline(always)]
    unsafe fn add<V: Lanes>(sum: V, weights: [V; 2], inputs: *const f32) -> V {
        // SAFETY: the caller's.
        unsafe { Pairs::add(sum, weights, inputs) }
    }
}

impl Format for PairsByPairs {
    type Input = u16;
    type Weights<V: Lanes> = V::Raw;
    const COLUMNS: usize = 2;

    #[inline(always)]
    fn load<V: Lanes>(line: &Line) -> V::Raw {
        V::raw(line)
    }
    #[inline(always)]
    unsafe fn add<V: Lanes>(sum: V, weights: V::Raw, inputs: *const u16) -> V {
        // SAFETY: the caller's.
        sum.add_pairs(weights, unsafe { [*inputs, *inputs.add(1)] })
    }
}

/// Lines that stay in the second cache beside inputs: 256 KB.
const SLICE: usize = 4096;

/// Lines ahead that a lone row asks for.
const AHEAD: usize = 16;

/// Inputs [rows, stride] × consecutive panels → out.
pub(in super::super) struct Product<'a, I> {
    /// [rows, stride], of which each row's first `lines`·[`Format::COLUMNS`] are multiplied.
    pub inputs: &'a [I],
    pub stride: usize,
    pub rows: usize,
    /// Panels, one after the other.
    pub weights: &'a [Line],
    /// Lines per panel.
    pub lines: usize,
    /// Columns of the output: the panels' rows that exist.
    pub width: usize,
    /// [rows, out_stride], of which `width` columns are written.
    pub out: &'a mut [f32],
    pub out_stride: usize,
}

impl<I: Copy> Product<'_, I> {
    /// Computes it with the kernels of a level that this CPU has.
    pub fn compute<F: Format<Input = I>>(self, level: Level) {
        match level {
            Level::Plain => self.sweep::<Plain, F>(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level is only made where it was detected.
            Level::Avx2 => unsafe { avx2::<F>(self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512 { bf16: false, .. } => unsafe { avx512::<F>(self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx512 { bf16: true, .. } => unsafe { avx512_bf16::<F>(self) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => self.sweep::<Plain, F>(),
        }
    }

    /// Some panels outside, slices of their columns within, tiles of rows inside: a slice stays in the second cache while
    /// all rows pass. Each sum goes on from where the slice before it left it.
    #[inline(always)]
    fn sweep<V: Lanes, F: Format<Input = I>>(mut self) {
        let panels = self.width.div_ceil(PANEL);
        let tiles = self.rows.div_ceil(V::most_rows(F::COLUMNS));
        let slice = if tiles > 1 { SLICE / V::PANELS } else { self.lines };
        // One row alone waits for its sums: more panels at once keep the units busy.
        let step = if self.rows == 1 { V::ROW_PANELS } else { V::PANELS };
        for panel in (0..panels).step_by(step) {
            let together = panel..panels.min(panel + step);
            for line in (0..self.lines).step_by(slice) {
                let lines = line..self.lines.min(line + slice);
                for tile in 0..tiles {
                    // Tiles of nearly equal height, rather than a rest of one row.
                    let rows = self.rows * tile / tiles..self.rows * (tile + 1) / tiles;
                    self.tile::<V, F>(rows, together.clone(), lines.clone());
                }
            }
        }
    }

    #[inline(always)]
    fn tile<V: Lanes, F: Format<Input = I>>(
        &mut self,
        rows: Range<usize>,
        panels: Range<usize>,
        lines: Range<usize>,
    ) {
        let column = panels.start * PANEL;
        let mut args = Tile {
            inputs: &self.inputs[rows.start * self.stride + lines.start * F::COLUMNS..],
            stride: self.stride,
            weights: &self.weights[panels.start * self.lines + lines.start..],
            panel_stride: self.lines,
            lines: lines.len(),
            goes_on: lines.start > 0,
            width: (self.width - column).min(panels.len() * PANEL),
            out: &mut self.out[rows.start * self.out_stride + column..],
            out_stride: self.out_stride,
        };
        V::tile::<F>(&mut args, rows.len(), panels.len());
    }
}

/// What a tile reads and writes; its rows and panels are the first of these.
pub(in super::super) struct Tile<'a, I> {
    inputs: &'a [I],
    stride: usize,
    weights: &'a [Line],
    /// Lines from a panel to the next.
    panel_stride: usize,
    /// Lines multiplied of each panel.
    lines: usize,
    /// Whether `out` holds sums to go on with.
    goes_on: bool,
    width: usize,
    out: &'a mut [f32],
    out_stride: usize,
}

#[inline(always)]
pub(super) fn tile<V: Lanes, F: Format, const R: usize, const P: usize>(args: &mut Tile<F::Input>) {
    let mut sums = [[V::zero(); P]; R];
    for r in 0..R * usize::from(args.goes_on) {
        for p in 0..P {
            sums[r][p] = read(&args.out[r * args.out_stride..][..args.width][p * PANEL..]);
        }
    }
    sums = add_lines::<V, F, R, P>(args, sums);
    for r in 0..R {
        for p in 0..P {
            write(sums[r][p], &mut args.out[r * args.out_stride..][..args.width][p * PANEL..]);
        }
    }
}

#[inline(always)]
fn add_lines<V: Lanes, F: Format, const R: usize, const P: usize>(
    args: &Tile<F::Input>,
    mut sums: [[V; P]; R],
) -> [[V; P]; R] {
    let Tile { inputs, stride, weights, panel_stride, lines, .. } = *args;
    assert!((R - 1) * stride + lines * F::COLUMNS <= inputs.len(), "tile: inputs too short");
    assert!((P - 1) * panel_stride + lines <= weights.len(), "tile: weights too short");
    let (inputs, weights) = (inputs.as_ptr(), weights.as_ptr());
    for line in 0..lines {
        // SAFETY: `lines` lines are readable of each panel, see above.
        let mut loaded = [F::load::<V>(unsafe { &*weights.add(line) }); P];
        for p in 1..P {
            // SAFETY: as above.
            loaded[p] = F::load::<V>(unsafe { &*weights.add(p * panel_stride + line) });
        }
        for p in 0..P * usize::from(R == 1) {
            V::prefetch(weights.wrapping_add(p * panel_stride + line + AHEAD));
        }
        for r in 0..R {
            // SAFETY: lines·COLUMNS inputs are readable of each row, see above.
            let inputs = unsafe { inputs.add(r * stride + line * F::COLUMNS) };
            for p in 0..P {
                // SAFETY: as above.
                sums[r][p] = unsafe { F::add(sums[r][p], loaded[p], inputs) };
            }
        }
    }
    sums
}

/// Reads the first lanes, as many as exist.
#[inline(always)]
fn read<V: Lanes>(values: &[f32]) -> V {
    match values.first_chunk() {
        Some(values) => V::load(values),
        None => {
            let mut all = [0.0; PANEL];
            all[..values.len()].copy_from_slice(values);
            V::load(&all)
        }
    }
}

/// Writes the first lanes, as many as exist.
#[inline(always)]
fn write<V: Lanes>(sum: V, out: &mut [f32]) {
    match out.first_chunk_mut() {
        Some(out) => sum.store(out),
        None => {
            let mut all = [0.0; PANEL];
            sum.store(&mut all);
            out.copy_from_slice(&all[..out.len()]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<F: Format>(product: Product<F::Input>) {
    product.sweep::<Avx2, F>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<F: Format>(product: Product<F::Input>) {
    product.sweep::<Avx512<false>, F>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn avx512_bf16<F: Format>(product: Product<F::Input>) {
    product.sweep::<Avx512<true>, F>();
}

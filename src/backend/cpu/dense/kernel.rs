//! The product of rows of inputs and panels of weights: tiles of the output whose sums stay in registers, written once over
//! [`Lanes`] and compiled for each [`Level`].
//!
//! A panel is a run of lines, each of 16 rows × 1, 2 columns. A tile of R rows and P panels loads P lines and R inputs for
//! R·P products, so that arithmetic, not loading, is what takes its time.

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
    fn add<V: Lanes>(sum: V, weights: Self::Weights<V>, inputs: &[Self::Input]) -> V;
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
    fn add<V: Lanes>(sum: V, weights: V, inputs: &[f32]) -> V {
        sum.add_product(weights, V::splat(inputs[0]))
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
    fn add<V: Lanes>(sum: V, [even, odd]: [V; 2], inputs: &[f32]) -> V {
        sum.add_product(even, V::splat(inputs[0])).add_product(odd, V::splat(inputs[1]))
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
    fn add<V: Lanes>(sum: V, weights: [V; 2], inputs: &[f32]) -> V {
        Pairs::add(sum, weights, inputs)
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
    fn add<V: Lanes>(sum: V, weights: V::Raw, inputs: &[u16]) -> V {
        sum.add_pairs(weights, [inputs[0], inputs[1]])
    }
}

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

    /// Panels outside, tiles of rows inside: a pair of panels stays in the nearest caches while all rows pass.
    #[inline(always)]
    fn sweep<V: Lanes, F: Format<Input = I>>(mut self) {
        let panels = self.width.div_ceil(PANEL);
        let [most_rows, most_panels] = V::TILE;
        // One row alone waits for its sums: more panels at once keep the units busy.
        let step = if self.rows == 1 && most_panels > 1 { 4 } else { most_panels };
        for panel in (0..panels).step_by(step) {
            let tiles = self.rows.div_ceil(most_rows);
            for tile in 0..tiles {
                // Tiles of nearly equal height, rather than a rest of one row.
                let (from, to) = (self.rows * tile / tiles, self.rows * (tile + 1) / tiles);
                let together = step.min(panels - panel);
                self.tile::<V, F>(from, to - from, panel, together);
            }
        }
    }

    #[inline(always)]
    fn tile<V: Lanes, F: Format<Input = I>>(&mut self, row: usize, rows: usize, panel: usize, panels: usize) {
        let at = panel * PANEL;
        let mut args = Tile {
            inputs: &self.inputs[row * self.stride..],
            stride: self.stride,
            weights: &self.weights[panel * self.lines..],
            lines: self.lines,
            width: (self.width - at).min(panels * PANEL),
            out: &mut self.out[row * self.out_stride + at..],
            out_stride: self.out_stride,
        };
        V::tile::<F>(&mut args, rows, panels);
    }
}

/// What a tile reads and writes; its rows and panels are the first of these.
pub(in super::super) struct Tile<'a, I> {
    inputs: &'a [I],
    stride: usize,
    weights: &'a [Line],
    lines: usize,
    width: usize,
    out: &'a mut [f32],
    out_stride: usize,
}

/// Lines ahead that a lone row asks for.
const AHEAD: usize = 16;

#[inline(always)]
pub(super) fn tile<V: Lanes, F: Format, const R: usize, const P: usize>(args: &mut Tile<F::Input>) {
    assert!((R - 1) * args.stride + args.lines * F::COLUMNS <= args.inputs.len(), "tile: inputs too short");
    assert!(P * args.lines <= args.weights.len(), "tile: weights too short");
    let (inputs, weights) = (args.inputs.as_ptr(), args.weights.as_ptr());
    let mut sums = [[V::zero(); P]; R];
    for line in 0..args.lines {
        // SAFETY: P·lines lines are readable, see above.
        let at = |p: usize| unsafe { &*weights.add(p * args.lines + line) };
        let loaded: [F::Weights<V>; P] = std::array::from_fn(|p| F::load(at(p)));
        if R == 1 {
            (0..P).for_each(|p| V::prefetch(weights.wrapping_add(p * args.lines + line + AHEAD)));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: (R − 1)·stride + lines·COLUMNS inputs are readable, see above.
            let inputs = unsafe {
                std::slice::from_raw_parts(inputs.add(r * args.stride + line * F::COLUMNS), F::COLUMNS)
            };
            for (sum, &weights) in sums.iter_mut().zip(&loaded) {
                *sum = F::add(*sum, weights, inputs);
            }
        }
    }
    for (sums, out) in sums.iter().zip(args.out.chunks_mut(args.out_stride)) {
        for (sum, out) in sums.iter().zip(out[..args.width].chunks_mut(PANEL)) {
            write(*sum, out);
        }
    }
}

/// Writes the lanes that exist.
#[inline(always)]
fn write<V: Lanes>(sum: V, out: &mut [f32]) {
    if let Ok(out) = <&mut [f32; PANEL]>::try_from(&mut *out) {
        return sum.store(out);
    }
    let mut all = [0.0; PANEL];
    sum.store(&mut all);
    out.copy_from_slice(&all[..out.len()]);
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

//! One tile of the output: its sums stay in registers while the loop runs over the lines.
//!
//! Loops use counters for the reason given in `kernel`.
#![allow(clippy::needless_range_loop)]

use super::super::packed::PANEL;
use super::lanes::{FloatLanes, FloatTile, Format};

/// Prefetch distance of a single row, in lines.
const AHEAD: usize = 16;

#[inline(always)]
pub(super) fn tile<V: FloatLanes, F: Format, const R: usize, const P: usize>(args: &mut FloatTile<F::Input>) {
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
fn add_lines<V: FloatLanes, F: Format, const R: usize, const P: usize>(
    args: &FloatTile<F::Input>,
    mut sums: [[V; P]; R],
) -> [[V; P]; R] {
    let FloatTile { inputs, stride, weights, panel_stride, lines, .. } = *args;
    assert!((R - 1) * stride + lines * F::COLUMNS <= inputs.len(), "tile: inputs too short");
    assert!((P - 1) * panel_stride + lines <= weights.len(), "tile: weights too short");
    let (inputs, weights) = (inputs.as_ptr(), weights.as_ptr());
    for line in 0..lines {
        // SAFETY: `lines` lines of each panel are readable, see the assertion above.
        let mut loaded = [F::load::<V>(unsafe { &*weights.add(line) }); P];
        for p in 1..P {
            // SAFETY: as above.
            loaded[p] = F::load::<V>(unsafe { &*weights.add(p * panel_stride + line) });
        }
        for p in 0..P * usize::from(R == 1) {
            V::prefetch(weights.wrapping_add(p * panel_stride + line + AHEAD));
        }
        for r in 0..R {
            // SAFETY: lines·COLUMNS inputs of each row are readable, see the assertion above.
            let inputs = unsafe { inputs.add(r * stride + line * F::COLUMNS) };
            for p in 0..P {
                // SAFETY: as above.
                sums[r][p] = unsafe { F::add(sums[r][p], loaded[p], inputs) };
            }
        }
    }
    sums
}

/// Reads the existing lanes, which come first.
#[inline(always)]
fn read<V: FloatLanes>(values: &[f32]) -> V {
    match values.first_chunk() {
        Some(values) => V::load(values),
        None => {
            let mut all = [0.0; PANEL];
            all[..values.len()].copy_from_slice(values);
            V::load(&all)
        }
    }
}

/// Writes the existing lanes, which come first.
#[inline(always)]
fn write<V: FloatLanes>(sum: V, out: &mut [f32]) {
    match out.first_chunk_mut() {
        Some(out) => sum.store(out),
        None => {
            let mut all = [0.0; PANEL];
            sum.store(&mut all);
            out.copy_from_slice(&all[..out.len()]);
        }
    }
}

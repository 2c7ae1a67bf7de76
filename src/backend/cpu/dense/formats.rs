//! The [`Format`]s of lines: f32, bfloat16 and f16 weights with f32 inputs, and bfloat16 with bfloat16.

use super::super::pages::Line;
use super::lanes::{FloatLanes, Format};

/// Lines of f32, one column per line.
pub(in super::super) struct Singles;
/// Lines of bfloat16, two columns per line, interleaved; f32 inputs.
pub(in super::super) struct Pairs;
/// Lines of f16, two columns per line, one after the other; f32 inputs.
pub(in super::super) struct Halves;
/// The same lines as [`Pairs`], with inputs in bfloat16 too.
pub(in super::super) struct PairsByPairs;

impl Format for Singles {
    type Input = f32;
    type Weights<V: FloatLanes> = V;
    const COLUMNS: usize = 1;

    #[inline(always)]
    fn load<V: FloatLanes>(line: &Line) -> V {
        V::singles(V::raw(line))
    }
    #[inline(always)]
    unsafe fn add<V: FloatLanes>(sum: V, weights: V, inputs: *const f32) -> V {
        // SAFETY: the caller guarantees it.
        sum.add_product(weights, V::splat(unsafe { *inputs }))
    }
}

impl Format for Pairs {
    type Input = f32;
    type Weights<V: FloatLanes> = [V; 2];
    const COLUMNS: usize = 2;

    #[inline(always)]
    fn load<V: FloatLanes>(line: &Line) -> [V; 2] {
        V::pairs(V::raw(line))
    }
    #[inline(always)]
    unsafe fn add<V: FloatLanes>(sum: V, [even, odd]: [V; 2], inputs: *const f32) -> V {
        // SAFETY: the caller guarantees it.
        let [first, second] = unsafe { [*inputs, *inputs.add(1)] };
        sum.add_product(even, V::splat(first)).add_product(odd, V::splat(second))
    }
}

impl Format for Halves {
    type Input = f32;
    type Weights<V: FloatLanes> = [V; 2];
    const COLUMNS: usize = 2;

    #[inline(always)]
    fn load<V: FloatLanes>(line: &Line) -> [V; 2] {
        V::halves(V::raw(line))
    }
    #[inline(always)]
    unsafe fn add<V: FloatLanes>(sum: V, weights: [V; 2], inputs: *const f32) -> V {
        // SAFETY: the caller guarantees it.
        unsafe { Pairs::add(sum, weights, inputs) }
    }
}

impl Format for PairsByPairs {
    type Input = u16;
    type Weights<V: FloatLanes> = V::Raw;
    const COLUMNS: usize = 2;
    const BFLOAT16_INPUTS: bool = true;

    #[inline(always)]
    fn load<V: FloatLanes>(line: &Line) -> V::Raw {
        V::raw(line)
    }
    #[inline(always)]
    unsafe fn add<V: FloatLanes>(sum: V, weights: V::Raw, inputs: *const u16) -> V {
        // SAFETY: the caller guarantees it.
        sum.add_pairs(weights, unsafe { [*inputs, *inputs.add(1)] })
    }
}

//! One group: the grid that its clipping factors make, the values that its weights round to, and the gradients of both.
//!
//! Integers are signed here, as in the paper; [`QTensor`](crate::numerics::QTensor)'s are these plus 2^(bits−1).

use crate::numerics::{Extent, Number, ScaleType, Scheme, simd};

/// 1.5·2^23: adding it to a small float and taking it away again rounds half to even.
const ROUNDER: f32 = 12_582_912.0;

/// Weights worked on at a time: a loop of this fixed length vectorizes, and so many partial sums are kept apart.
const LANES: usize = 16;

/// Factors of a group's extent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Clip {
    /// Of its largest value.
    pub alpha: f32,
    /// Of its smallest.
    pub beta: f32,
}

/// The grid entry of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Entry {
    pub scale: f32,
    /// A whole number.
    pub zero: f32,
}

/// The integers of a scheme.
#[derive(Debug, Clone, Copy)]
pub(super) struct Integers {
    min: f32,
    max: f32,
    symmetric: bool,
    kind: ScaleType,
}

/// Sums of gradients over a group, for its clipping factors.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    /// Of the scale.
    pub scale: f32,
    /// Of all values that are clipped.
    pub clipped: f32,
}

impl Integers {
    /// # Panics
    /// If the scheme is not one of integers.
    pub(crate) fn new(scheme: &Scheme) -> Integers {
        let Number::Int { bits } = scheme.number else { panic!("autoround was given {scheme}") };
        let half = f32::from(1u16 << (bits - 1));
        Integers { min: -half, max: half - 1.0, symmetric: scheme.symmetric, kind: scheme.scale }
    }

    /// The code minus the signed integer.
    pub(crate) fn offset(self) -> f32 {
        -self.min
    }

    /// The grid entry of a group whose extent (which includes zero) is clipped; the covering one where factors are 1.
    pub(crate) fn entry(self, extent: Extent, clip: Clip) -> Entry {
        let (low, high) = (extent.min * clip.beta, extent.max * clip.alpha);
        let steps = self.max - self.min;
        if self.symmetric {
            return Entry { scale: self.kind.covering(high.max(-low), steps / 2.0), zero: 0.0 };
        }
        if low == high {
            return Entry { scale: self.kind.of_zeros(), zero: 0.0 };
        }
        let scale = self.kind.covering(high - low, steps);
        Entry { scale, zero: (self.min - low / scale).clamp(self.min, self.max).round_ties_even() }
    }

    /// The integer less the zero point that `x` = w/s + v rounds to.
    #[inline(always)]
    pub(crate) fn round(self, x: f32, zero: f32) -> f32 {
        let clamped = simd::min(simd::max(x + zero, self.min), self.max);
        (clamped + ROUNDER) - ROUNDER - zero
    }

    /// W̃ of a group.
    #[inline(always)]
    pub(crate) fn values(self, entry: Entry, w: &[f32], v: &[f32], out: &mut [f32]) {
        for ((w, v), out) in w.iter().zip(v).zip(out) {
            *out = self.round(w / entry.scale + v, entry.zero) * entry.scale;
        }
    }

    /// Moves V by `step` against the sign of its gradient, given that of W̃, and sums up what [`Integers::clip_gradient`]
    /// needs. `low` is the group's clipped minimum, which its zero point is made from.
    #[inline(always)]
    pub(crate) fn descend(self, group: Group, v: &mut [f32], gradient: &[f32], step: f32) -> Sums {
        let mut lanes = [[0.0; LANES]; 2];
        let (w_chunks, w_rest) = group.w.as_chunks::<LANES>();
        let (v_chunks, v_rest) = v.as_chunks_mut::<LANES>();
        let (g_chunks, g_rest) = gradient.as_chunks::<LANES>();
        for ((w, v), g) in w_chunks.iter().zip(v_chunks).zip(g_chunks) {
            self.descend_chunk(group, w, v, g, step, &mut lanes);
        }
        if !w_rest.is_empty() {
            let mut padded = [[0.0; LANES]; 3];
            for (padded, rest) in padded.iter_mut().zip([w_rest, &*v_rest, g_rest]) {
                padded[..rest.len()].copy_from_slice(rest);
            }
            let [w, mut v, g] = padded;
            self.descend_chunk(group, &w, &mut v, &g, step, &mut lanes);
            v_rest.copy_from_slice(&v[..v_rest.len()]);
        }
        let [scale, clipped] = lanes.map(|lanes| lanes.iter().sum());
        Sums { scale, clipped }
    }

    /// A value within range is s·round(w/s + v), whose slope in s is the integer less w/s; a clipped one is
    /// s·(limit − z), where z follows −low/s.
    #[inline(always)]
    fn descend_chunk(
        self,
        group: Group,
        w: &[f32; LANES],
        v: &mut [f32; LANES],
        g: &[f32; LANES],
        step: f32,
        [for_scale, for_clipped]: &mut [[f32; LANES]; 2],
    ) {
        let Entry { scale, zero } = group.entry;
        let start = if self.symmetric { 0.0 } else { group.low / scale };
        for i in 0..LANES {
            let x = w[i] / scale;
            let moved = x + v[i] + zero;
            let inside = moved >= self.min - 0.5 && moved <= self.max + 0.5;
            let through = if inside { g[i] } else { 0.0 };
            let level = self.round(x + v[i], zero);
            for_scale[i] += g[i] * (level - if inside { x } else { start });
            for_clipped[i] += g[i] - through;
            let downhill = if through > 0.0 { -step } else { 0.0 } + if through < 0.0 { step } else { 0.0 };
            v[i] = simd::min(simd::max(v[i] + downhill, -0.5), 0.5);
        }
    }

    /// The gradient of the clipping factors.
    pub(crate) fn clip_gradient(self, extent: Extent, clip: Clip, sums: Sums) -> Clip {
        let steps = self.max - self.min;
        if !self.symmetric {
            let beta = sums.scale * -extent.min / steps + sums.clipped * extent.min;
            return Clip { alpha: sums.scale * extent.max / steps, beta };
        }
        // Only the end of the larger magnitude makes the scale.
        match extent.max * clip.alpha >= -extent.min * clip.beta {
            true => Clip { alpha: sums.scale * extent.max * 2.0 / steps, beta: 0.0 },
            false => Clip { alpha: 0.0, beta: sums.scale * -extent.min * 2.0 / steps },
        }
    }
}

/// A group's weights, and its grid entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group<'a> {
    pub w: &'a [f32],
    pub entry: Entry,
    /// Its smallest value times β.
    pub low: f32,
}

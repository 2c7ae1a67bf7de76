//! x ≈ scale·code − min with codes 0 … top: the search behind Q2_K, Q4_K and Q5_K.
//!
//! As in llama.cpp's `make_qkx3_quants`, several steps from the smallest value up are tried, each followed by weighted least
//! squares. The error of a fit comes from five moments, so that a candidate costs one pass. llama.cpp then rounds scales and
//! mins independently; [`Search::choose`] rounds each min for its rounded scale and compares true errors.

use half::f16;

use super::half_scale::Unit;
use super::super_block::SUPER_BLOCK;
use super::weights::{Rule, Scaled, SubBlocks, sub_blocks};
use crate::numerics::ggml::lanes::{self, Lanes};
use crate::numerics::ggml::parts::Parts;

/// The parameters of a type's search.
pub(crate) struct SearchParameters {
    /// The largest code.
    pub top: f32,
    /// The largest integer scale, and min.
    pub scale_top: f32,
    /// Candidate steps: the range of a sub-block divided by top + this.
    pub steps: &'static [f32],
    /// The weights.
    pub rule: Rule,
}

/// Steps from the fitted integer scale, and from the min that suits the scale: tried in this order.
const NEIGHBOURS: [[f32; 2]; 5] = [[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]];

/// Rounds of choosing integer scales and solving for the f16 ones.
const ROUNDS: usize = 2;

/// Sub-blocks whose Σw·Σwl² − (Σwl)² is below this part of Σw·Σwl² have one code: min and scale cannot be separated.
const SINGULAR: f32 = 1e-5;

/// The super-block of zeros.
const ZERO: Parts =
    Parts { d: f16::ZERO, dmin: f16::ZERO, scales: [0; 16], minimums: [0; 16], codes: [0; SUPER_BLOCK] };

/// Dequantizes in sub-blocks of E: value = (d·scale)·code − dmin·min.
#[inline(always)]
pub(crate) fn dequantize<const E: usize>(parts: &Parts, out: &mut [f32]) {
    let (d, dmin) = (parts.d.to_f32(), parts.dmin.to_f32());
    for (j, (out, codes)) in out.chunks_exact_mut(E).zip(parts.codes.chunks_exact(E)).enumerate() {
        let (scale, min) = (d * f32::from(parts.scales[j]), dmin * f32::from(parts.minimums[j]));
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = scale * f32::from(code) - min;
        }
    }
}

/// Weighted sums over each sub-block, l being the codes.
#[derive(Clone, Copy)]
struct Moments<L> {
    w: L,
    wx: L,
    wl: L,
    wll: L,
    wxl: L,
}

impl<L: Lanes> Moments<L> {
    #[inline(always)]
    fn of<const E: usize>(sub: &SubBlocks<L, E>, inverse_scale: L, min: L, top: f32) -> Self {
        let (zero, top) = (L::splat(0.0), L::splat(top));
        let mut sums = Moments { w: sub.sum_w, wx: sub.sum_wx, wl: zero, wll: zero, wxl: zero };
        for ((x, w), wx) in sub.x.iter().zip(&sub.w).zip(&sub.wx) {
            let code = x.add(min).mul(inverse_scale).max(zero).min(top).round();
            let wl = w.mul(code);
            sums.wl = sums.wl.add(wl);
            sums.wll = sums.wll.add(wl.mul(code));
            sums.wxl = sums.wxl.add(wx.mul(code));
        }
        sums
    }

    /// Returns Σwx² − Σw(scale·l − min − x)²: the error that a fit saves over zeros.
    #[inline(always)]
    fn gain(&self, scale: L, min: L) -> L {
        let by_scale = twice(self.wxl.add(min.mul(self.wl))).sub(scale.mul(self.wll));
        let by_min = twice(self.wx).add(min.mul(self.w));
        scale.mul(by_scale).sub(min.mul(by_min))
    }

    /// Returns the least-squares scale and min ≥ 0 for these codes.
    #[inline(always)]
    fn solve(self) -> Fit<L> {
        let zero = L::splat(0.0);
        let product = self.w.mul(self.wll);
        let determinant = product.sub(self.wl.mul(self.wl));
        let inverse = determinant.inverse();
        let scale = self.w.mul(self.wxl).sub(self.wx.mul(self.wl)).mul(inverse);
        let min = self.wl.mul(self.wxl).sub(self.wll.mul(self.wx)).mul(inverse);
        let min = L::splat(SINGULAR).mul(product).if_less(determinant, min, zero);
        let scale = zero.if_less(min, scale, self.wxl.mul(self.wll.inverse()));
        let min = min.max(zero);
        Fit { scale, min, gain: self.gain(scale, min), moments: self }
    }
}

#[inline(always)]
fn twice<L: Lanes>(v: L) -> L {
    v.add(v)
}

/// Scale and min of each sub-block, with the moments of the codes they came from.
#[derive(Clone, Copy)]
struct Fit<L> {
    scale: L,
    min: L,
    gain: L,
    moments: Moments<L>,
}

impl<L: Lanes> Fit<L> {
    /// Returns, lane by lane, the one that gains more.
    #[inline(always)]
    fn or(self, b: Self) -> Self {
        let (less, a) = (self.gain, self.moments);
        Fit {
            scale: less.if_less(b.gain, b.scale, self.scale),
            min: less.if_less(b.gain, b.min, self.min),
            gain: less.if_less(b.gain, b.gain, self.gain),
            moments: Moments {
                wl: less.if_less(b.gain, b.moments.wl, a.wl),
                wll: less.if_less(b.gain, b.moments.wll, a.wll),
                wxl: less.if_less(b.gain, b.moments.wxl, a.wxl),
                ..a
            },
        }
    }

    /// Returns the best scale and min in real numbers.
    #[inline(always)]
    fn search<const E: usize>(sub: &SubBlocks<L, E>, parameters: &SearchParameters) -> Self {
        let zero = L::splat(0.0);
        let (mut low, mut high) = (zero, sub.x[0]);
        for x in &sub.x {
            low = low.min(*x);
            high = high.max(*x);
        }
        let min = zero.sub(low);
        let per_range = high.sub(low).inverse();
        let constant = Moments { w: sub.sum_w, wx: sub.sum_wx, wl: zero, wll: zero, wxl: zero };
        let mut best = Fit { scale: zero, min, gain: constant.gain(zero, min), moments: constant };
        for step in parameters.steps {
            let inverse_scale = L::splat(parameters.top + step).mul(per_range);
            best = best.or(Moments::of(sub, inverse_scale, min, parameters.top).solve());
        }
        best.or(Moments::of(sub, best.scale.inverse(), best.min, parameters.top).solve())
    }
}

/// The state of a super-block's search: its f16 scales as f32, in units of the block.
struct Search<'a, L> {
    parameters: &'a SearchParameters,
    d: f32,
    dmin: f32,
    /// Sums for the least-squares d and dmin: Σs²wll, Σs·m·wl, Σm²w, Σs·wxl, Σm·wx over sub-blocks of scale s, min m.
    sums: [L; 5],
}

impl<'a, L: Lanes> Search<'a, L> {
    /// Starts with d and dmin that reach the largest scale and min.
    #[inline(always)]
    fn start(parameters: &'a SearchParameters, fits: &[Fit<L>], unit: Unit) -> Self {
        let zero = L::splat(0.0);
        let (mut scale, mut min) = (zero, zero);
        for fit in fits {
            scale = scale.max(fit.scale);
            min = min.max(fit.min);
        }
        let d = unit.at_least(scale.largest() / parameters.scale_top);
        let dmin = unit.at_least(min.largest() / parameters.scale_top);
        Search { parameters, d, dmin, sums: [zero; 5] }
    }

    /// Replaces a fit by the best integer scale near it, and the min that suits that scale; returns both.
    #[inline(always)]
    fn choose<const E: usize>(&mut self, sub: &SubBlocks<L, E>, fit: &mut Fit<L>) -> [L; 2] {
        let (zero, top) = (L::splat(0.0), L::splat(self.parameters.scale_top));
        let (d, dmin) = (L::splat(self.d), L::splat(self.dmin));
        let fitted = fit.scale.mul(d.inverse());
        let per_weight = fit.moments.w.inverse();
        let mut best = Fit { gain: L::splat(f32::NEG_INFINITY), ..*fit };
        let mut chosen = [zero; 2];
        for [s_step, m_step] in NEIGHBOURS {
            let s = fitted.add(L::splat(s_step)).max(zero).min(top).round();
            let min = s.mul(d).mul(fit.moments.wl).sub(fit.moments.wx).mul(per_weight);
            let m = min.mul(dmin.inverse()).add(L::splat(m_step)).max(zero).min(top).round();
            let (scale, min) = (s.mul(d), m.mul(dmin));
            let moments = Moments::of(sub, scale.inverse(), min, self.parameters.top);
            let gain = moments.gain(scale, min);
            chosen = [best.gain.if_less(gain, s, chosen[0]), best.gain.if_less(gain, m, chosen[1])];
            best = best.or(Fit { scale, min, gain, moments });
        }
        self.add(chosen, &best.moments);
        *fit = best.moments.solve();
        chosen
    }

    #[inline(always)]
    fn add(&mut self, [s, m]: [L; 2], moments: &Moments<L>) {
        let terms = [
            s.mul(s).mul(moments.wll),
            s.mul(m).mul(moments.wl),
            m.mul(m).mul(moments.w),
            s.mul(moments.wxl),
            m.mul(moments.wx),
        ];
        for (sum, term) in self.sums.iter_mut().zip(&terms) {
            *sum = sum.add(*term);
        }
    }

    /// Solves for d and dmin by least squares over all codes if the system is well conditioned, and resets the sums.
    #[inline(always)]
    fn solve(&mut self, unit: Unit) {
        let [ss, sm, mm, sx, mx] = self.sums;
        let (ss, sm, mm, sx, mx) = (ss.sum(), sm.sum(), mm.sum(), sx.sum(), mx.sum());
        let determinant = ss * mm - sm * sm;
        if determinant > SINGULAR * ss * mm {
            let d = (sx * mm - sm * mx) / determinant;
            let dmin = (sm * sx - ss * mx) / determinant;
            if d > 0.0 && dmin >= 0.0 {
                (self.d, self.dmin) = (unit.nearest(d), unit.nearest(dmin));
            }
        } else if ss > 0.0 && mm == 0.0 {
            self.d = unit.nearest(sx / ss);
        }
        self.sums = [L::splat(0.0); 5];
    }

    /// Returns the block without its codes.
    #[inline(always)]
    fn finish(&self, chosen: &[[L; 2]], unit: Unit) -> Parts {
        let mut out = Parts { d: unit.store(self.d), dmin: unit.store(self.dmin), ..ZERO };
        for (g, [s, m]) in chosen.iter().enumerate() {
            for (j, (s, m)) in s.store().into_iter().zip(m.store()).enumerate() {
                (out.scales[8 * g + j], out.minimums[8 * g + j]) = (s as i8, m as u8);
            }
        }
        out
    }
}

/// Quantizes a super-block of 8·G sub-blocks of E values.
#[inline(always)]
pub(crate) fn quantize<L: Lanes, const E: usize, const G: usize>(
    x: &[f32],
    importance: Option<&[f32]>,
    parameters: &SearchParameters,
) -> Parts {
    let Some(block) = Scaled::new(x) else { return ZERO };
    let subs: [SubBlocks<L, E>; G] = sub_blocks(&block, importance, parameters.rule);
    let zero = L::splat(0.0);
    let mut fits = [Fit::search(&subs[0], parameters); G];
    for (fit, sub) in fits.iter_mut().zip(&subs).skip(1) {
        *fit = Fit::search(sub, parameters);
    }
    let mut search = Search::start(parameters, &fits, block.unit);
    let mut chosen = [[zero; 2]; G];
    for _ in 0..ROUNDS {
        for ((chosen, sub), fit) in chosen.iter_mut().zip(&subs).zip(&mut fits) {
            *chosen = search.choose(sub, fit);
        }
        search.solve(block.unit);
    }
    let mut out = search.finish(&chosen, block.unit);
    encode::<E>(&block, parameters.top, &mut out);
    out
}

/// Rounds the final codes under the stored scales.
#[inline(always)]
fn encode<const E: usize>(block: &Scaled, top: f32, out: &mut Parts) {
    let (d, dmin) = (block.unit.load(out.d), block.unit.load(out.dmin));
    for (j, (codes, x)) in out.codes.chunks_exact_mut(E).zip(block.x.chunks_exact(E)).enumerate() {
        let (scale, min) = (d * f32::from(out.scales[j]), dmin * f32::from(out.minimums[j]));
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (code, x) in codes.iter_mut().zip(x) {
            *code = lanes::code((x + min) * inverse, top);
        }
    }
}

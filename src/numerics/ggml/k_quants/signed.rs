//! x ≈ scale·code with codes −half … half − 1 and scales of either sign: the search behind Q3_K and Q6_K.
//!
//! As in llama.cpp's `make_qx_quants`, several steps that put the largest magnitude near −half are tried, each followed by
//! weighted least squares. [`Search::choose`] then compares the true errors of neighbouring integer scales.

use half::f16;

use super::half_scale::Unit;
use super::super_block::SUPER_BLOCK;
use super::weights::{Rule, Scaled, SubBlocks, sub_blocks};
use crate::numerics::ggml::lanes::{self, Lanes};
use crate::numerics::ggml::parts::Parts;

/// The parameters of a type's search.
pub(crate) struct SearchParameters {
    /// Codes are −half … half − 1.
    pub half: f32,
    /// Integer scales are −this … this − 1.
    pub scale_half: f32,
    /// The extent of the search without importance.
    pub alone: Effort,
    /// The extent of the search with importance.
    pub given: Effort,
    /// The weights.
    pub rule: Rule,
}

/// The extent of a search.
pub(crate) struct Effort {
    /// Candidate steps: the largest magnitude divided by half + this.
    pub steps: &'static [f32],
    /// Integer scales tried around the fitted one, in this order.
    pub neighbours: &'static [f32],
    /// Rounds of choosing integer scales and solving for the f16 one.
    pub rounds: usize,
}

/// Dequantizes in sub-blocks of 16: value = (d·scale)·(code − half).
#[inline(always)]
pub(crate) fn dequantize(half: i16, parts: &Parts, out: &mut [f32]) {
    let d = parts.d.to_f32();
    for ((out, codes), scale) in out.chunks_exact_mut(E).zip(parts.codes.chunks_exact(E)).zip(parts.scales) {
        let scale = d * f32::from(scale);
        for (out, &code) in out.iter_mut().zip(codes) {
            *out = scale * f32::from(i16::from(code) - half);
        }
    }
}

/// Elements of a sub-block.
const E: usize = 16;

/// The least-squares scale of each sub-block for its codes l, and the error that it saves.
#[derive(Clone, Copy)]
struct Fit<L> {
    scale: L,
    gain: L,
    wll: L,
    wxl: L,
}

impl<L: Lanes> Fit<L> {
    #[inline(always)]
    fn of(sub: &SubBlocks<L, E>, inverse_scale: L, half: f32) -> Self {
        let (low, high) = (L::splat(-half), L::splat(half - 1.0));
        let (mut wll, mut wxl) = (L::splat(0.0), L::splat(0.0));
        for ((x, w), wx) in sub.x.iter().zip(&sub.w).zip(&sub.wx) {
            let code = x.mul(inverse_scale).max(low).min(high).round();
            wll = wll.add(w.mul(code).mul(code));
            wxl = wxl.add(wx.mul(code));
        }
        let scale = wxl.mul(wll.inverse());
        Fit { scale, gain: scale.mul(wxl), wll, wxl }
    }

    /// Returns, lane by lane, the one that gains more.
    #[inline(always)]
    fn or(self, b: Self) -> Self {
        Fit {
            scale: self.gain.if_less(b.gain, b.scale, self.scale),
            gain: self.gain.if_less(b.gain, b.gain, self.gain),
            wll: self.gain.if_less(b.gain, b.wll, self.wll),
            wxl: self.gain.if_less(b.gain, b.wxl, self.wxl),
        }
    }

    /// Returns the best scale in real numbers.
    #[inline(always)]
    fn search(sub: &SubBlocks<L, E>, half: f32, effort: &Effort) -> Self {
        let zero = L::splat(0.0);
        let (mut low, mut high) = (sub.x[0], sub.x[0]);
        for x in &sub.x {
            low = low.min(*x);
            high = high.max(*x);
        }
        let extreme = zero.sub(low).if_less(high, high, low).inverse();
        let mut best = Fit { scale: zero, gain: zero, wll: zero, wxl: zero };
        for step in effort.steps {
            best = best.or(Fit::of(sub, extreme.mul(L::splat(-half - step)), half));
        }
        best
    }
}

/// The state of a super-block's search: its f16 scale as f32, in units of the block.
struct Search<'a, L> {
    parameters: &'a SearchParameters,
    effort: &'a Effort,
    d: f32,
    /// Σs²wll and Σs·wxl over sub-blocks of integer scale s.
    sums: [L; 2],
}

impl<L: Lanes> Search<'_, L> {
    /// Replaces a fit by the best integer scale near it, and returns the integer.
    #[inline(always)]
    fn choose(&mut self, sub: &SubBlocks<L, E>, fit: &mut Fit<L>) -> L {
        let (low, high) = (L::splat(-self.parameters.scale_half), L::splat(self.parameters.scale_half - 1.0));
        let d = L::splat(self.d);
        let fitted = fit.scale.mul(d.inverse());
        let mut best = Fit { gain: L::splat(f32::NEG_INFINITY), ..*fit };
        let mut chosen = L::splat(0.0);
        for step in self.effort.neighbours {
            let s = fitted.add(L::splat(*step)).max(low).min(high).round();
            let scale = s.mul(d);
            let codes = Fit::of(sub, scale.inverse(), self.parameters.half);
            let gain = scale.mul(codes.wxl.add(codes.wxl).sub(scale.mul(codes.wll)));
            chosen = best.gain.if_less(gain, s, chosen);
            best = best.or(Fit { gain, ..codes });
        }
        self.sums[0] = self.sums[0].add(chosen.mul(chosen).mul(best.wll));
        self.sums[1] = self.sums[1].add(chosen.mul(best.wxl));
        *fit = best;
        chosen
    }

    /// Solves for d by least squares over all codes, and resets the sums.
    #[inline(always)]
    fn solve(&mut self, unit: Unit) {
        let (ss, sx) = (self.sums[0].sum(), self.sums[1].sum());
        if ss > 0.0 {
            self.d = unit.nearest(sx / ss);
        }
        self.sums = [L::splat(0.0); 2];
    }
}

/// Quantizes a super-block.
#[inline(always)]
pub(crate) fn quantize<L: Lanes>(
    x: &[f32],
    importance: Option<&[f32]>,
    parameters: &SearchParameters,
) -> Parts {
    let zero = Parts {
        d: f16::ZERO,
        dmin: f16::ZERO,
        scales: [0; 16],
        minimums: [0; 16],
        codes: [parameters.half as u8; SUPER_BLOCK],
    };
    let Some(block) = Scaled::new(x) else { return zero };
    let effort = if importance.is_some() { &parameters.given } else { &parameters.alone };
    let subs: [SubBlocks<L, E>; 2] = sub_blocks(&block, importance, parameters.rule);
    let mut fits =
        [Fit::search(&subs[0], parameters.half, effort), Fit::search(&subs[1], parameters.half, effort)];
    let d = block.unit.at_least(extreme(&fits) / -parameters.scale_half);
    let mut search = Search { parameters, effort, d, sums: [L::splat(0.0); 2] };
    let mut chosen = [L::splat(0.0); 2];
    for _ in 0..effort.rounds {
        for ((chosen, sub), fit) in chosen.iter_mut().zip(&subs).zip(&mut fits) {
            *chosen = search.choose(sub, fit);
        }
        search.solve(block.unit);
    }
    let mut out = Parts { d: block.unit.store(search.d), ..zero };
    for (to, s) in out.scales.chunks_exact_mut(8).zip(chosen) {
        to.copy_from_slice(&s.store().map(|s| s as i8));
    }
    encode(&block, parameters.half, &mut out);
    out
}

/// Returns the scale of the largest magnitude, with its sign: it becomes the integer −scale_half, the wider side.
#[inline(always)]
fn extreme<L: Lanes>(fits: &[Fit<L>; 2]) -> f32 {
    let mut most = 0f32;
    for fit in fits {
        for scale in fit.scale.store() {
            most = if scale.abs() > most.abs() { scale } else { most };
        }
    }
    most
}

/// Rounds the final codes under the stored scales.
#[inline(always)]
fn encode(block: &Scaled, half: f32, out: &mut Parts) {
    let d = block.unit.load(out.d);
    for ((codes, x), scale) in out.codes.chunks_exact_mut(E).zip(block.x.chunks_exact(E)).zip(out.scales) {
        let scale = d * f32::from(scale);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for (code, x) in codes.iter_mut().zip(x) {
            *code = lanes::code(x * inverse + half, 2.0 * half - 1.0);
        }
    }
}

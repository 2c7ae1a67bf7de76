//! x ≈ scale·code − min with codes 0 … top: the search behind Q2_K, Q4_K and Q5_K.
//!
//! After llama.cpp's `make_qkx3_quants` in the idea of trying several steps from the smallest value up, each followed by
//! weighted least squares. The error of a fit comes from five moments, so that a candidate costs one pass. llama.cpp
//! then rounds scales and mins independently; [`Search::choose`] rounds each min for its rounded scale and compares
//! true errors.

use half::f16;

use super::half_scale::Unit;
use super::lanes::Lanes;
use super::weights::{Rule, Scaled, SubBlocks, sub_blocks};
use super::{Parts, SUPER_BLOCK};

/// What a type searches.
pub struct Plan {
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

/// Sub-blocks whose Σw·Σwl² − (Σwl)² is below this part of Σw·Σwl² have one code: no min can be told from the scale.
const SINGULAR: f32 = 1e-5;

/// A super-block before it is packed. A type with 8 sub-blocks uses the first 8 scales and mins.
pub struct AffineBlock {
    /// Unit of the scales.
    pub d: f16,
    /// Unit of the mins.
    pub dmin: f16,
    /// Integer scale of each sub-block.
    pub scales: [u8; 16],
    /// Integer min of each sub-block.
    pub mins: [u8; 16],
    /// Codes in order.
    pub codes: [u8; SUPER_BLOCK],
}

impl AffineBlock {
    const ZERO: AffineBlock = AffineBlock {
        d: f16::ZERO,
        dmin: f16::ZERO,
        scales: [0; 16],
        mins: [0; 16],
        codes: [0; SUPER_BLOCK],
    };

    /// value = (d·scale)·code − dmin·min, in sub-blocks of E.
    #[inline(always)]
    pub fn dequantize<const E: usize>(&self, out: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (j, (out, codes)) in out.chunks_exact_mut(E).zip(self.codes.chunks_exact(E)).enumerate() {
            let (scale, min) = (d * f32::from(self.scales[j]), dmin * f32::from(self.mins[j]));
            for (out, &code) in out.iter_mut().zip(codes) {
                *out = scale * f32::from(code) - min;
            }
        }
    }
}

impl From<AffineBlock> for Parts {
    fn from(block: AffineBlock) -> Parts {
        let AffineBlock { d, dmin, scales, mins, codes } = block;
        Parts { d, dmin, scales: scales.map(u8::cast_signed), minimums: mins, codes }
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

    /// Σwx² − Σw(scale·l − min − x)²: what a fit saves over storing zero.
    #[inline(always)]
    fn gain(&self, scale: L, min: L) -> L {
        let by_scale = twice(self.wxl.add(min.mul(self.wl))).sub(scale.mul(self.wll));
        let by_min = twice(self.wx).add(min.mul(self.w));
        scale.mul(by_scale).sub(min.mul(by_min))
    }

    /// The least-squares scale and min ≥ 0 for these codes.
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
    /// Lane by lane, the one that gains more.
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

    /// The best scale and min in real numbers.
    #[inline(always)]
    fn search<const E: usize>(sub: &SubBlocks<L, E>, plan: &Plan) -> Self {
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
        for step in plan.steps {
            let inverse_scale = L::splat(plan.top + step).mul(per_range);
            best = best.or(Moments::of(sub, inverse_scale, min, plan.top).solve());
        }
        best.or(Moments::of(sub, best.scale.inverse(), best.min, plan.top).solve())
    }
}

/// The state of a super-block's search: its f16 scales as f32, in units of the block.
struct Search<'a, L> {
    plan: &'a Plan,
    d: f32,
    dmin: f32,
    /// Sums for the least-squares d and dmin: Σs²wll, Σs·m·wl, Σm²w, Σs·wxl, Σm·wx over sub-blocks of scale s, min m.
    sums: [L; 5],
}

impl<'a, L: Lanes> Search<'a, L> {
    /// With d and dmin that reach the largest scale and min.
    #[inline(always)]
    fn start(plan: &'a Plan, fits: &[Fit<L>], unit: Unit) -> Self {
        let zero = L::splat(0.0);
        let (mut scale, mut min) = (zero, zero);
        for fit in fits {
            scale = scale.max(fit.scale);
            min = min.max(fit.min);
        }
        let d = unit.at_least(scale.largest() / plan.scale_top);
        let dmin = unit.at_least(min.largest() / plan.scale_top);
        Search { plan, d, dmin, sums: [zero; 5] }
    }

    /// Replaces a fit by the best integer scale near it, and the min that suits that scale; returns both.
    #[inline(always)]
    fn choose<const E: usize>(&mut self, sub: &SubBlocks<L, E>, fit: &mut Fit<L>) -> [L; 2] {
        let (zero, top) = (L::splat(0.0), L::splat(self.plan.scale_top));
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
            let moments = Moments::of(sub, scale.inverse(), min, self.plan.top);
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

    /// d and dmin by least squares over all codes, where the system is sound; then the sums start again.
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

    /// The block, but for its codes.
    #[inline(always)]
    fn finish(&self, chosen: &[[L; 2]], unit: Unit) -> AffineBlock {
        let mut out = AffineBlock { d: unit.store(self.d), dmin: unit.store(self.dmin), ..AffineBlock::ZERO };
        for (g, [s, m]) in chosen.iter().enumerate() {
            for (j, (s, m)) in s.store().into_iter().zip(m.store()).enumerate() {
                (out.scales[8 * g + j], out.mins[8 * g + j]) = (s as u8, m as u8);
            }
        }
        out
    }
}

/// Quantizes a super-block of 8·G sub-blocks of E values.
#[inline(always)]
pub fn quantize<L: Lanes, const E: usize, const G: usize>(
    x: &[f32],
    importance: Option<&[f32]>,
    plan: &Plan,
) -> AffineBlock {
    let Some(block) = Scaled::new(x) else { return AffineBlock::ZERO };
    let subs: [SubBlocks<L, E>; G] = sub_blocks(&block, importance, plan.rule);
    let zero = L::splat(0.0);
    let mut fits = [Fit::search(&subs[0], plan); G];
    for (fit, sub) in fits.iter_mut().zip(&subs).skip(1) {
        *fit = Fit::search(sub, plan);
    }
    let mut search = Search::start(plan, &fits, block.unit);
    let mut chosen = [[zero; 2]; G];
    for _ in 0..ROUNDS {
        for ((chosen, sub), fit) in chosen.iter_mut().zip(&subs).zip(&mut fits) {
            *chosen = search.choose(sub, fit);
        }
        search.solve(block.unit);
    }
    let mut out = search.finish(&chosen, block.unit);
    encode::<E>(&block, plan.top, &mut out);
    out
}

/// Rounds the final codes under the stored scales.
#[inline(always)]
fn encode<const E: usize>(block: &Scaled, top: f32, out: &mut AffineBlock) {
    let (d, dmin) = (block.unit.load(out.d), block.unit.load(out.dmin));
    for (j, (codes, x)) in out.codes.chunks_exact_mut(E).zip(block.x.chunks_exact(E)).enumerate() {
        let (scale, min) = (d * f32::from(out.scales[j]), dmin * f32::from(out.mins[j]));
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for (code, x) in codes.iter_mut().zip(x) {
            *code = super::lanes::code((x + min) * inverse, top);
        }
    }
}

//! `hqq`: half-quadratic quantization, for integers with zero points.
//!
//! **What.** Minimizes a sparse norm of the error, Σ|w − s·(q − z)|^p with p < 1, which forgives the few weights at the edge
//! and fits the many. The half-quadratic split of Badri & Shaji takes turns, β growing by κ:
//!
//! ```text
//! e ← shrink(w − s·(q − z)),  shrink(x) = sign(x)·max(|x| − |x|^(p−1)/β, 0)    errors set aside
//! z ← mean(q − (w − e)/s),    q ← round(w/s + z)
//! ```
//!
//! **What differs from the paper.** There z is a real number and s stays min-max. Every format written here stores integer
//! zero points, and from a min-max range no whole step of z helps: measured over MiniLM's layers at 2, 3 and 4 bits, z then
//! never moves. So (1) the quadratic step solves for s and z together, by least squares of w − e on q; z is rounded, and s
//! is solved again for that z; (2) it starts from the clip search of [`mse`]; (3) errors are measured in steps of
//! the scale, so that β means the same for every tensor; (4) each group keeps the best of min-max, the start and all
//! iterations by the norm itself, so that no group is worse than `rtn` by it. Relative to `rtn`, groups of 64,
//! MiniLM:
//!
//! | bits | mse: Σe² | mse: Σ\|e\|^0.7 | hqq: Σe² | hqq: Σ\|e\|^0.7 |
//! |---|---|---|---|---|
//! | 2 | 0.60 | 0.79 | 0.64 | 0.76 |
//! | 3 | 0.82 | 0.90 | 0.85 | 0.88 |
//! | 4 | 0.91 | 0.95 | 0.93 | 0.94 |
//!
//! **When.** 2 to 4 bits with zero points and no calibration data, where outliers matter; `mse` has the lower squared error.
//!
//! **Cost.** 50 to 90 ns per weight and core (`mse`: 10), more for fewer bits; no data.
//!
//! ```text
//! llmc quantize --scheme w4a16-asym --method hqq model/
//! ```
//!
//! Reference: Badri & Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models",
//! <https://mobiusml.github.io/hqq_blog/>, <https://github.com/mobiusml/hqq> (`hqq/core/optimize.py`).

use std::sync::Arc;

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use super::mse;
use crate::error::{Result, within};
use crate::numerics::simd::{self, Kernel};
use crate::numerics::{Context, Granularity, Grid, Number, QTensor, ScaleType, Scheme};
use crate::stage::{self, Block, BlockLinear, Def, Quantization, Quantize, Stage};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "hqq",
    summary: "fit scales and zero points to the many weights rather than to the outliers: no data, about 2.5 times the time of mse",
    supports,
    build: |table| Ok(Stage::Quantize(Arc::new(stage::parse::<Hqq>("hqq", table)?.validate()?))),
};

fn supports(scheme: &Scheme) -> Result<(), &'static str> {
    match (scheme.number, scheme.granularity) {
        (Number::Int { .. }, _) if scheme.symmetric => Err(
            "hqq moves zero points, and this scheme has none: use mse, or an asymmetric scheme (--asymmetric)",
        ),
        (Number::Int { .. }, Granularity::Channel | Granularity::Group(_)) => Ok(()),
        (Number::Int { .. }, _) => Err("hqq fits one row's group at a time: use scales per channel or group"),
        _ => Err("hqq moves the zero points of integers, and this scheme has none: use mse"),
    }
}

/// Parameters, named as in the paper.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Hqq {
    /// p: the norm whose error is minimized, 0 < p < 1.
    pub lp_norm: f32,
    /// β: errors are set aside beyond about β^(1/(p−2)) steps of the scale.
    pub beta: f32,
    /// κ: the factor of β after each iteration.
    pub kappa: f32,
    /// The largest number of iterations; a group stops after two without improvement.
    pub iters: usize,
}

impl Default for Hqq {
    /// The reference implementation's values.
    fn default() -> Self {
        Hqq { lp_norm: 0.7, beta: 10.0, kappa: 1.01, iters: 20 }
    }
}

impl Hqq {
    /// Refuses values that make no sense.
    fn validate(self) -> Result<Hqq> {
        within("hqq: lp_norm", self.lp_norm, 0.01..=1.0)?;
        within("hqq: beta", self.beta, 1e-6..=1e6)?;
        within("hqq: kappa", self.kappa, 0.01..=100.0)?;
        within("hqq: iters", self.iters, 0..=10_000)?;
        Ok(self)
    }

    fn quantize_linear(&self, linear: &BlockLinear, scheme: &Scheme) -> Result<QTensor> {
        let (w, context) = (linear.dense()?, linear.context());
        Ok(scheme.round(w, self.search(scheme, w, &context), &context))
    }

    /// The grid of least norm found, group by group.
    fn search(&self, scheme: &Scheme, w: ArrayView2<f32>, context: &Context) -> Grid {
        let Number::Int { bits } = scheme.number else { return scheme.fit(w, context) };
        let covering = scheme.fit(w, context);
        let mut grid = mse::search(scheme, w, context);
        let [_, groups] = scheme.grid_shape(w.nrows(), w.ncols());
        let w = w.as_standard_layout();
        for (row, values) in w.rows().into_iter().enumerate() {
            let values = values.to_slice().expect("rows of the standard layout are contiguous");
            for (group, values) in values.chunks(scheme.width(values.len())).enumerate() {
                let entry = row * groups + group;
                let found = simd::dispatch(Descent {
                    parameters: self,
                    values,
                    kind: scheme.scale,
                    max: f32::from(u8::MAX >> (8 - bits)),
                    covering: Cell::of(&covering, entry),
                    start: Cell::of(&grid, entry),
                });
                grid.scales[entry] = found.scale;
                grid.zero_points[entry] = found.zero as u8;
            }
        }
        grid
    }
}

impl Quantize for Hqq {
    fn weighs_columns(&self, _scheme: &Scheme) -> bool {
        true
    }

    fn quantize(&self, block: &Block) -> Result<Quantization> {
        Quantization::of_each(block, |linear, scheme| self.quantize_linear(linear, &scheme))
    }
}

/// One grid entry; `zero` is an integer in the domain of the codes.
#[derive(Debug, Clone, Copy)]
struct Cell {
    scale: f32,
    zero: f32,
}

impl Cell {
    fn of(grid: &Grid, entry: usize) -> Cell {
        Cell { scale: grid.scales[entry], zero: grid.zero_points[entry].into() }
    }
}

/// The search over one group.
struct Descent<'a> {
    parameters: &'a Hqq,
    values: &'a [f32],
    kind: ScaleType,
    /// Largest code.
    max: f32,
    /// The min-max cell.
    covering: Cell,
    start: Cell,
}

impl Kernel for Descent<'_> {
    type Output = Cell;

    #[inline(always)]
    fn run(self) -> Cell {
        let mut beta = self.parameters.beta;
        let mut best = self.covering;
        let mut least = self.sweep(best, beta).norm(best.scale, self.parameters.lp_norm);
        let (mut cell, mut idle) = (self.start, 0);
        for _ in 0..=self.parameters.iters {
            let sums = self.sweep(cell, beta);
            let norm = sums.norm(cell.scale, self.parameters.lp_norm);
            idle = if norm < least { 0 } else { idle + 1 };
            if norm < least {
                (least, best) = (norm, cell);
            }
            match sums.solve(cell, self.values.len() as f32, self.max) {
                Some(next) if idle < 2 => cell = Cell { scale: self.kind.nearest(next.scale), ..next },
                _ => break,
            }
            beta *= self.parameters.kappa;
        }
        best
    }
}

/// Weights worked on at a time: each step below is a loop of its own over them, which LLVM vectorizes.
const TILE: usize = 64;

const ONES: [f32; TILE] = [1.0; TILE];

/// Partial sums kept apart, and added in an order that no target changes.
const LANES: usize = 8;

impl Descent<'_> {
    /// Rounds the group with a cell, and gathers the sums for the next one.
    #[inline(always)]
    fn sweep(&self, cell: Cell, beta: f32) -> Sums {
        let mut sums = [[0.0; LANES]; 5];
        for values in self.values.chunks(TILE) {
            let [mut q, mut t, mut powers] = [[0.0; TILE]; 3];
            for (((&value, q), t), power) in values.iter().zip(&mut q).zip(&mut t).zip(&mut powers) {
                (*q, *t, *power) = self.split(value, cell, beta);
            }
            let factors = [(&powers, &ONES), (&q, &ONES), (&t, &ONES), (&q, &q), (&q, &t)];
            for (lanes, (a, b)) in sums.iter_mut().zip(factors) {
                add_products(lanes, a, b);
            }
        }
        let [powers, q, t, qq, qt] =
            sums.map(|[a, b, c, d, e, f, g, h]| ((a + e) + (c + g)) + ((b + f) + (d + h)));
        Sums { powers, q, t, qq, qt }
    }

    /// One weight in steps of the scale: (its code less the zero point, the weight less the error set aside, |error|^p).
    #[inline(always)]
    fn split(&self, value: f32, cell: Cell, beta: f32) -> (f32, f32, f32) {
        let x = value / cell.scale;
        let code = simd::min(simd::max(x + cell.zero, 0.0), self.max);
        let q = (code + ROUNDER) - ROUNDER - cell.zero;
        let error = x - q;
        let magnitude = error.abs();
        let power = pow(magnitude, self.parameters.lp_norm - 1.0);
        let aside = simd::max(magnitude - power / beta, 0.0).copysign(error);
        (q, x - aside, magnitude * power)
    }
}

#[inline(always)]
fn add_products(lanes: &mut [f32; LANES], a: &[f32; TILE], b: &[f32; TILE]) {
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
}

/// 1.5·2^23: adding it to a small float and taking it away again rounds half to even.
const ROUNDER: f32 = 12_582_912.0;

/// Sums over a group, in steps of its scale: q is the code less its zero point, t the weight less the error set aside.
struct Sums {
    /// Σ|error|^p.
    powers: f32,
    q: f32,
    t: f32,
    qq: f32,
    qt: f32,
}

impl Sums {
    /// Σ|error|^p in the unit of the weights.
    #[inline(always)]
    fn norm(&self, scale: f32, p: f32) -> f32 {
        self.powers * pow(scale, p)
    }

    /// The least-squares line t = a·q + b gives the zero point, z − b/a rounded; through that zero point, the scale. `None`
    /// where all codes are alike.
    #[inline(always)]
    fn solve(&self, cell: Cell, n: f32, max: f32) -> Option<Cell> {
        let variance = self.qq - self.q * self.q / n;
        let covariance = self.qt - self.q * self.t / n;
        let slope = covariance / variance;
        let offset = (self.t - slope * self.q) / n;
        let moved = simd::min(simd::max(cell.zero - offset / slope, 0.0), max);
        let zero = (moved + ROUNDER) - ROUNDER;
        let shift = cell.zero - zero;
        let factor = (self.qt + shift * self.t) / (self.qq + 2.0 * shift * self.q + n * shift * shift);
        let solved = variance > 0.0 && covariance > 0.0 && factor > 0.0 && factor.is_finite();
        solved.then_some(Cell { scale: cell.scale * factor, zero })
    }
}

/// x^exponent for x ≥ 0 and |exponent| < 1, within 1e-5: exp2(exponent·log2 x) by series, which vectorize where `powf` is a
/// call. Zero counts as 2^-127.
#[inline(always)]
fn pow(x: f32, exponent: f32) -> f32 {
    exp2(exponent * log2(x))
}

/// log2 = e + 2·atanh((m − 1)/(m + 1))/ln 2, with x = m·2^e and m in [√½, √2].
#[inline(always)]
fn log2(x: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let shifted = x.to_bits().wrapping_sub(SQRT_HALF);
    let exponent = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff) + SQRT_HALF);
    let t = (m - 1.0) / (m + 1.0);
    let t2 = t * t;
    exponent + t * (2.885_39 + t2 * (0.961_796_7 + t2 * (0.577_078 + t2 * 0.412_198_6)))
}

/// Taylor's series of 2^fraction, fraction in [−½, ½], and the exponent put in place.
#[inline(always)]
fn exp2(y: f32) -> f32 {
    let y = simd::min(simd::max(y, -126.0), 126.0);
    let rounded = y + ROUNDER;
    let whole = rounded - ROUNDER;
    let f = (y - whole) * std::f32::consts::LN_2;
    let series = 1.0 + f * (1.0 + f * (0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * (1.0 / 120.0)))));
    series * f32::from_bits(rounded.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_those_of_the_library() {
        for i in 1..2000 {
            let x = (i as f32 / 100.0 - 10.0).exp2() * 1.37;
            for exponent in [-0.9, -0.3, 0.3, 0.7] {
                let (ours, theirs) = (pow(x, exponent), x.powf(exponent));
                assert!((ours / theirs - 1.0).abs() < 1e-5, "{x}^{exponent}: {ours}, {theirs}");
            }
        }
        assert!(pow(0.0, -0.3).is_finite() && pow(0.0, 0.7) < 1e-20);
        assert!(pow(f32::MAX, -0.9) > 0.0);
    }

    /// w = 3·(q − 5) exactly, but for one outlier: the fit must find the scale and zero point of the others.
    #[test]
    fn an_outlier_is_set_aside() {
        let mut values: Vec<f32> = (0..64).map(|i| 3.0 * (f32::from(i as u8 % 16) - 5.0)).collect();
        values[7] = 75.0;
        let descent = Descent {
            parameters: &Hqq::default(),
            values: &values,
            kind: ScaleType::F32,
            max: 15.0,
            covering: Cell { scale: 6.0, zero: 2.0 },
            start: Cell { scale: 3.1, zero: 5.0 },
        };
        let found = descent.run();
        assert!((found.scale - 3.0).abs() < 0.01 && found.zero == 5.0, "{found:?}");
    }

    #[test]
    fn every_instruction_set_finds_the_same_grid() {
        for (cols, group) in [(1, 1), (7, 4), (130, 65), (200, 128)] {
            let w = ArrayView2::from_shape((3, cols), &WAVE[..3 * cols]).expect("as many values");
            let scheme = Scheme::int(3, Granularity::Group(group), false, ScaleType::F16);
            let find = || Hqq::default().search(&scheme, w, &Context::default());
            let fast = find();
            simd::PORTABLE.set(true);
            let plain = find();
            simd::PORTABLE.set(false);
            assert_eq!(fast, plain, "{cols} {group}");
        }
    }

    /// 600 values without a pattern, from huge to denormal.
    static WAVE: std::sync::LazyLock<Vec<f32>> = std::sync::LazyLock::new(|| {
        let value = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
        (0..600).map(|i| value(i) * [1.0, 1e-3, 1e-41, 1e6][i as usize % 97 % 4]).collect()
    });
}

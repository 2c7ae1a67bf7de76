//! The weight of each error in a search, if the importance of columns is known.

use super::block::{self, PerWeight};

/// The weights h·√(k·mean(x²) + x²) of llama.cpp's searches, from the importance h of columns. They keep large values close
/// even if h is small. The mean is over `x`: a row, or a super-block.
///
/// Values are taken relative to the largest, because squares of f32 overflow; a common factor changes no search.
pub(crate) struct Weighing<'a> {
    importance: &'a [PerWeight<f32>],
    absmax: f32,
    floor: f32,
}

impl<'a> Weighing<'a> {
    /// Creates the weights of the blocks of `x`; `spread` is k above. `None` without importance.
    #[inline(always)]
    pub(crate) fn new(x: &[f32], importance: Option<&'a [f32]>, spread: f32) -> Option<Self> {
        let importance = importance?.as_chunks().0;
        let absmax = x.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        let absmax = if absmax > 0.0 { absmax } else { 1.0 };
        let squares: f32 = x.iter().map(|v| (v / absmax) * (v / absmax)).sum();
        Some(Weighing { importance, absmax, floor: spread * squares / x.len() as f32 })
    }

    /// Returns the weights of block `index`, whose values are `x`. Never negative, never NaN.
    #[inline(always)]
    pub(crate) fn block(&self, index: usize, x: &PerWeight<f32>) -> PerWeight<f32> {
        let importance = &self.importance[index];
        block::each(|j| {
            let relative = x[j] / self.absmax;
            let weight = importance[j] * (self.floor + relative * relative).sqrt();
            if weight > 0.0 { weight } else { 0.0 }
        })
    }
}

//! How much the error of each weight counts when an importance is known.

use super::block::{self, Block};

/// Turns the importance h of columns into the weights h·√(k·mean(x²) + x²) of llama.cpp's searches, which keep large
/// values close even where h does not ask for it. The mean is over `x`: a row, or a super-block.
///
/// Values are taken relative to the largest, because squares of f32 overflow; a common factor changes no search.
pub struct Weighing<'a> {
    importance: &'a [Block<f32>],
    absmax: f32,
    floor: f32,
}

impl<'a> Weighing<'a> {
    /// Weights of the blocks of `x`; `spread` is k above. None without importance.
    #[inline(always)]
    pub fn new(x: &[f32], importance: Option<&'a [f32]>, spread: f32) -> Option<Self> {
        let importance = importance?.as_chunks().0;
        let absmax = x.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        let absmax = if absmax > 0.0 { absmax } else { 1.0 };
        let squares: f32 = x.iter().map(|v| (v / absmax) * (v / absmax)).sum();
        Some(Weighing { importance, absmax, floor: spread * squares / x.len() as f32 })
    }

    /// The weights of block `index`, whose values are `x`. Never negative, never NaN.
    #[inline(always)]
    pub fn block(&self, index: usize, x: &Block<f32>) -> Block<f32> {
        let importance = &self.importance[index];
        block::each(|j| {
            let relative = x[j] / self.absmax;
            let weight = importance[j] * (self.floor + relative * relative).sqrt();
            if weight > 0.0 { weight } else { 0.0 }
        })
    }
}

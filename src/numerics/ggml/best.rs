//! The best of a search's candidates, eight of which are tried at once, one per lane.

use super::lanes::Lanes;

/// The best candidate of each lane so far: its gain, and its N numbers.
pub(crate) struct Best<L, const N: usize> {
    gain: L,
    fit: [L; N],
}

impl<L: Lanes, const N: usize> Best<L, N> {
    /// Creates an empty choice.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Best { gain: L::splat(0.0), fit: [L::splat(0.0); N] }
    }

    /// Keeps, lane by lane, the candidate that gains more; a gain of NaN is no gain.
    #[inline(always)]
    pub(crate) fn offer(&mut self, gain: L, fit: [L; N]) {
        for (kept, new) in self.fit.iter_mut().zip(fit) {
            *kept = self.gain.if_less(gain, new, *kept);
        }
        self.gain = self.gain.if_less(gain, gain, self.gain);
    }

    /// Returns the best of all lanes, the first of equals; `None` if no candidate gained.
    #[inline(always)]
    pub(crate) fn into_fit(self) -> Option<[f32; N]> {
        let (gain, mut best) = (self.gain.store(), 0);
        for lane in 1..gain.len() {
            best = if gain[lane] > gain[best] { lane } else { best };
        }
        (gain[best] > 0.0).then(|| self.fit.map(|fit| fit.store()[best]))
    }
}

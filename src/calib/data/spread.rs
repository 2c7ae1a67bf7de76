//! An even choice among many.

use crate::numerics::random::SplitMix64;

/// Returns `count` of the numbers below `available`, one from each of `count` even stretches, ascending.
pub(crate) fn spread(count: usize, available: usize, random: &mut SplitMix64) -> Vec<usize> {
    let edge = |i: usize| (i as u128 * available as u128 / count as u128) as usize;
    (0..count).map(|i| edge(i) + random.below(edge(i + 1) - edge(i))).collect()
}

//! The calibration sequences of each step: all of them in a shuffled order, then again in another order.

/// An endless supply of batches.
#[derive(Debug)]
pub(super) struct Batches {
    size: usize,
    order: Vec<usize>,
    at: usize,
    state: u64,
}

impl Batches {
    /// Batches of `size` samples, or of all samples if there are fewer.
    pub(crate) fn new(samples: usize, size: usize, seed: u64) -> Batches {
        Batches {
            size: size.clamp(1, samples.max(1)),
            order: (0..samples).collect(),
            at: samples,
            state: seed,
        }
    }

    /// Returns the next batch. Samples left at the end of an order that make no whole batch are skipped.
    pub(crate) fn next(&mut self) -> Vec<usize> {
        if self.at + self.size > self.order.len() {
            self.shuffle();
            self.at = 0;
        }
        self.at += self.size;
        self.order[self.at - self.size..self.at].to_vec()
    }

    /// Fisher and Yates' shuffle.
    fn shuffle(&mut self) {
        for last in (1..self.order.len()).rev() {
            let other = (self.random() % (last as u64 + 1)) as usize;
            self.order.swap(last, other);
        }
    }

    /// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_comes_before_any_comes_again() {
        let mut batches = Batches::new(6, 2, 1);
        for _ in 0..3 {
            let mut seen: Vec<usize> = (0..3).flat_map(|_| batches.next()).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        }
        let mut few = Batches::new(2, 8, 1);
        let mut batch = few.next();
        batch.sort_unstable();
        assert_eq!(batch, [0, 1]);
    }

    #[test]
    fn the_seed_decides_the_order() {
        let order = |seed| Batches::new(100, 100, seed).next();
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}

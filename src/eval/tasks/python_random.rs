//! Python's `random`, so that a seed gives the same examples as in lm-evaluation-harness: MT19937 (Matsumoto and Nishimura
//! 1998, <https://doi.org/10.1145/272991.272995>), CPython's seeding
//! (<https://github.com/python/cpython/blob/3.12/Modules/_randommodule.c>), and `random.sample`
//! (<https://github.com/python/cpython/blob/3.12/Lib/random.py>). Not for cryptography.

use std::collections::HashSet;

const N: usize = 624;
const M: usize = 397;

/// `random.Random(seed)`.
#[derive(Debug, Clone)]
pub(crate) struct PythonRandom {
    state: [u32; N],
    next: usize,
}

impl PythonRandom {
    /// Seeds the generator with a non-negative integer.
    pub(crate) fn new(seed: u64) -> PythonRandom {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key = if high == 0 { vec![low] } else { vec![low, high] };
        PythonRandom { state: mixed(&key), next: N }
    }

    /// Draws `count` different numbers below `population`, in the order of drawing.
    ///
    /// # Panics
    /// `count` > `population`.
    pub(crate) fn sample(&mut self, population: usize, count: usize) -> Vec<usize> {
        assert!(count <= population, "a sample of {count} from {population}");
        if population <= pool_limit(count) {
            return self.sample_from_pool(population, count);
        }
        let mut seen = HashSet::new();
        std::iter::repeat_with(|| self.below(population))
            .filter(|&drawn| seen.insert(drawn))
            .take(count)
            .collect()
    }

    fn sample_from_pool(&mut self, population: usize, count: usize) -> Vec<usize> {
        let mut pool: Vec<usize> = (0..population).collect();
        (0..count).map(|_| pool.swap_remove(self.below(pool.len()))).collect()
    }

    /// Draws a number below `limit`, by rejection.
    fn below(&mut self, limit: usize) -> usize {
        let bits = usize::BITS - limit.leading_zeros();
        assert!((1..=32).contains(&bits), "tables have between 1 and 2³² − 1 rows");
        loop {
            let drawn = (self.word() >> (32 - bits)) as usize;
            if drawn < limit {
                return drawn;
            }
        }
    }

    fn word(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

/// The population up to which CPython considers a list cheaper than a set.
fn pool_limit(count: usize) -> usize {
    let table = if count > 5 { 4usize.pow(((count * 3) as f64).log(4.0).ceil() as u32) } else { 0 };
    21 + table
}

/// The reference implementation's `init_by_array`.
fn mixed(key: &[u32]) -> [u32; N] {
    let mut state = [0u32; N];
    state[0] = 19_650_218;
    for i in 1..N {
        state[i] = scramble(state[i - 1], 1_812_433_253).wrapping_add(i as u32);
    }
    let mut i = 1;
    for j in (0..key.len()).cycle().take(N) {
        state[i] = (state[i] ^ scramble(state[i - 1], 1_664_525)).wrapping_add(key[j]).wrapping_add(j as u32);
        i = advance(i, &mut state);
    }
    for _ in 1..N {
        state[i] = (state[i] ^ scramble(state[i - 1], 1_566_083_941)).wrapping_sub(i as u32);
        i = advance(i, &mut state);
    }
    state[0] = 0x8000_0000;
    state
}

/// The index after `i`. At the end, copies the last word to the front and continues with 1.
fn advance(i: usize, state: &mut [u32; N]) -> usize {
    if i + 1 < N {
        return i + 1;
    }
    state[0] = state[N - 1];
    1
}

fn scramble(word: u32, factor: u32) -> u32 {
    (word ^ (word >> 30)).wrapping_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of CPython 3.11 for `r = random.Random(seed); r.sample(range(population), count)`, …
    #[test]
    fn samples_equal_those_of_python() {
        let mut random = PythonRandom::new(1234);
        assert_eq!(random.sample(10, 3), [7, 1, 0]);
        assert_eq!(random.sample(1000, 5), [92, 932, 965, 961, 826]);
        assert_eq!(random.sample(100, 8), [74, 4, 85, 88, 10, 12, 98, 45]);
        assert_eq!(random.sample(30, 7), [7, 0, 28, 25, 27, 11, 20]);
        assert_eq!(PythonRandom::new((1 << 40) + 5).sample(7473, 5), [4131, 4234, 2200, 5437, 224]);
    }
}

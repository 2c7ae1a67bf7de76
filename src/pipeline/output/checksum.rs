//! Checksums of the bytes of an output, to find damage when a run goes on.
//!
//! The words of a file, each times a weight of its place, are added up. Addition is commutative, so pieces may be added in any order
//! and any cut, as the threads write them; a hash would have to read all of it again, which costs a tenth of a run. The sum
//! finds damage. Nobody is kept from forging it.

use std::sync::LazyLock;

use crate::numerics::random::SplitMix64;
use crate::numerics::simd::{self, Kernel};

/// Words of a block, which all blocks weigh alike; a block's sum has a weight of its own.
const WORDS: usize = 1024;
const WORD: usize = size_of::<u32>();
const BLOCK: usize = WORDS * WORD;

static WEIGHTS: LazyLock<[u32; WORDS]> = LazyLock::new(|| {
    let mut random = SplitMix64(0);
    std::array::from_fn(|_| (random.next() >> 32) as u32 | 1)
});

/// Returns the sum of bytes that begin at an offset of their file. The sums of pieces add up, wrapping.
pub(super) fn checksum(offset: u64, mut bytes: &[u8]) -> u64 {
    let (mut block, mut start) = (offset / BLOCK as u64, (offset % BLOCK as u64) as usize);
    let mut sum = 0_u64;
    while !bytes.is_empty() {
        let (here, rest) = bytes.split_at(bytes.len().min(BLOCK - start));
        let weight = SplitMix64(block).next() | 1;
        sum = sum.wrapping_add(within_block(start, here).wrapping_mul(weight));
        (block, start, bytes) = (block + 1, 0, rest);
    }
    sum
}

/// The sum of bytes that begin at an offset of a block and end in it.
fn within_block(start: usize, bytes: &[u8]) -> u64 {
    let (head, bytes) = bytes.split_at(bytes.len().min(start.next_multiple_of(WORD) - start));
    let (words, tail) = bytes.as_chunks::<WORD>();
    let first = (start + head.len()) / WORD;
    let sum = simd::dispatch(Weigh { words, weights: &WEIGHTS[first..] });
    let tail_start = start + head.len() + words.len() * WORD;
    sum.wrapping_add(part_of_word(start, head)).wrapping_add(part_of_word(tail_start, tail))
}

/// Words, and the weights of their places.
struct Weigh<'a> {
    words: &'a [[u8; WORD]],
    weights: &'a [u32],
}

impl Kernel for Weigh<'_> {
    type Output = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        let weighted = |(word, weight): (&[u8; WORD], &u32)| {
            u64::from(u32::from_le_bytes(*word)).wrapping_mul(u64::from(*weight))
        };
        self.words.iter().zip(self.weights).map(weighted).fold(0, u64::wrapping_add)
    }
}

/// The sum of bytes that begin at an offset of a block and lie within a word.
fn part_of_word(start: usize, bytes: &[u8]) -> u64 {
    let byte = |(at, byte): (usize, &u8)| {
        let shift = 8 * ((start + at) % WORD);
        (u64::from(*byte) << shift).wrapping_mul(u64::from(WEIGHTS[(start + at) / WORD]))
    };
    bytes.iter().enumerate().map(byte).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(count: usize) -> Vec<u8> {
        let mut random = SplitMix64(7);
        (0..count).map(|_| random.next() as u8).collect()
    }

    /// One byte at a time, as the definition has it.
    fn plain(offset: u64, bytes: &[u8]) -> u64 {
        let byte = |(at, byte): (usize, &u8)| {
            let place = offset + at as u64;
            let (block, within) = (place / BLOCK as u64, (place % BLOCK as u64) as usize);
            let weight = u64::from(WEIGHTS[within / WORD]).wrapping_mul(SplitMix64(block).next() | 1);
            (u64::from(*byte) << (8 * (within % WORD))).wrapping_mul(weight)
        };
        bytes.iter().enumerate().map(byte).fold(0, u64::wrapping_add)
    }

    #[test]
    fn pieces_of_any_cut_add_up() {
        let bytes = bytes(3 * BLOCK + 5);
        let mut random = SplitMix64(1);
        for offset in [0, 1, 2, 3, 7, BLOCK as u64 - 1, 123_456_789_013] {
            let whole = checksum(offset, &bytes);
            assert_eq!(whole, plain(offset, &bytes), "{offset}");
            for _ in 0..50 {
                let (mut sum, mut at) = (0_u64, 0);
                while at < bytes.len() {
                    let end = bytes.len().min(at + 1 + random.below(900));
                    sum = sum.wrapping_add(checksum(offset + at as u64, &bytes[at..end]));
                    at = end;
                }
                assert_eq!(sum, whole, "{offset}");
            }
        }
        assert_eq!(checksum(5, &[]), 0);
    }

    #[test]
    fn damage_changes_the_sum() {
        let whole = bytes(2 * BLOCK);
        let check = |damage: &dyn Fn(&mut Vec<u8>)| {
            let mut damaged = whole.clone();
            damage(&mut damaged);
            assert_ne!(damaged, whole);
            assert_ne!(checksum(3, &damaged), checksum(3, &whole));
        };
        for bit in (0..8 * whole.len()).step_by(37) {
            check(&|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        }
        check(&|bytes| bytes[..512].fill(0));
        check(&|bytes| bytes.rotate_left(BLOCK)); // two blocks in each other's place
        check(&|bytes| bytes.swap(0, 4));
        check(&|bytes| [3, 7].iter().for_each(|&at| bytes[at] ^= 0x80)); // the highest bits of two words
    }
}

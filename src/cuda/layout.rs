//! The layout of codes in a packed matrix, as drawn in `kernels/README.md`: this file moves codes into it and back. It
//! handles bytes only; `packed` knows their meaning.
//!
//! Both widths use the same steps. In a tile, the 16 codes of a row are two words of eight bytes. W4 first merges them
//! into one word (columns 0–7 in the low nibbles, 8–15 in the high ones) and adds a second row, 8 below; W8 keeps the
//! two words. Then the bytes of a pair of words are interleaved, which gives one 32-bit word to each of four lanes.
//! Last, the words of four such pairs are transposed, which gives each of the four lanes its vector of 16 bytes.

use super::types::Bits;

/// Rows of a strip, the contiguous unit.
pub(crate) const STRIP: usize = 64;
/// Columns of a tile.
pub(crate) const TILE: usize = 16;
/// Columns are padded to a multiple of this number.
pub(crate) const DEPTH: usize = 128;

const TILES: usize = DEPTH / TILE;
const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;

/// Codes of 64 rows × 128 columns, row-major: the unit of one pass. Tiles are not read from the matrix directly,
/// because its rows often lie a power of two apart and would evict each other from the cache.
type Chunk = [[u8; DEPTH]; STRIP];

/// Lays out a strip: `rows` has at most 64 rows of `cols` codes; missing rows and columns become 0.
pub(crate) fn pack_strip(bits: Bits, rows: &[u8], cols: usize, out: &mut [u8]) {
    let mut chunk: Chunk = [[0; DEPTH]; STRIP];
    for (i, out) in out.chunks_exact_mut(TILES * bits.tile_bytes()).enumerate() {
        let span = i * DEPTH..cols.min((i + 1) * DEPTH);
        for (row, held) in rows.chunks_exact(cols).zip(&mut chunk) {
            held[..span.len()].copy_from_slice(&row[span.clone()]);
            held[span.len()..].fill(0);
        }
        for (tile, out) in out.chunks_exact_mut(bits.tile_bytes()).enumerate() {
            match bits {
                Bits::W4 => pack_tile_w4(&chunk, tile * TILE, out),
                Bits::W8 => pack_tile_w8(&chunk, tile * TILE, out),
            }
        }
    }
}

/// Reads a strip back, without the padding: the inverse of [`pack_strip`].
pub(crate) fn unpack_strip(bits: Bits, packed: &[u8], cols: usize, rows: &mut [u8]) {
    let mut chunk: Chunk = [[0; DEPTH]; STRIP];
    for (i, packed) in packed.chunks_exact(TILES * bits.tile_bytes()).enumerate() {
        for (tile, packed) in packed.chunks_exact(bits.tile_bytes()).enumerate() {
            match bits {
                Bits::W4 => unpack_tile_w4(packed, tile * TILE, &mut chunk),
                Bits::W8 => unpack_tile_w8(packed, tile * TILE, &mut chunk),
            }
        }
        let span = i * DEPTH..cols.min((i + 1) * DEPTH);
        for (row, held) in rows.chunks_exact_mut(cols).zip(&chunk) {
            row[span.clone()].copy_from_slice(&held[..span.len()]);
        }
    }
}

/// Returns the position of row `n` of a strip among the 64 scales (or zero points) of a group.
pub(crate) const fn scale_place(n: usize) -> usize {
    8 * (n % 8) + n / 8
}

/// Packs a W4 tile: lanes 4r … 4r+3 hold rows r, 16+r, 32+r, 48+r, each with the row 8 below it.
fn pack_tile_w4(chunk: &Chunk, at: usize, out: &mut [u8]) {
    let merged = |n: usize| {
        let [low, high] = eights(&chunk[n], at);
        (low & LOW) | (high & LOW) << 4
    };
    for (r, out) in out.chunks_exact_mut(64).enumerate() {
        let pairs = [0, 16, 32, 48].map(|n| interleave(merged(n + r), merged(n + r + 8)));
        write_transposed(&pairs, out);
    }
}

fn unpack_tile_w4(packed: &[u8], at: usize, chunk: &mut Chunk) {
    for (r, packed) in packed.chunks_exact(64).enumerate() {
        for (pair, n) in read_transposed(packed).into_iter().zip([0, 16, 32, 48]) {
            let (upper, lower) = separate(pair);
            put_eights(&mut chunk[n + r], at, [upper & LOW, upper >> 4 & LOW]);
            put_eights(&mut chunk[n + r + 8], at, [lower & LOW, lower >> 4 & LOW]);
        }
    }
}

/// Packs a W8 tile: lanes 4r … 4r+3 of vector v hold rows 32v+r, 32v+8+r, 32v+16+r, 32v+24+r.
fn pack_tile_w8(chunk: &Chunk, at: usize, out: &mut [u8]) {
    for (i, out) in out.chunks_exact_mut(64).enumerate() {
        let first = 32 * (i / 8) + i % 8;
        let pairs = [0, 8, 16, 24].map(|n| {
            let [low, high] = eights(&chunk[first + n], at);
            interleave(low, high)
        });
        write_transposed(&pairs, out);
    }
}

fn unpack_tile_w8(packed: &[u8], at: usize, chunk: &mut Chunk) {
    for (i, packed) in packed.chunks_exact(64).enumerate() {
        let first = 32 * (i / 8) + i % 8;
        for (pair, n) in read_transposed(packed).into_iter().zip([0, 8, 16, 24]) {
            let (low, high) = separate(pair);
            put_eights(&mut chunk[first + n], at, [low, high]);
        }
    }
}

/// Returns the 16 codes of a row in a tile, as two words.
#[inline(always)]
fn eights(row: &[u8; DEPTH], at: usize) -> [u64; 2] {
    let word = |at: usize| u64::from_le_bytes(row[at..at + 8].try_into().expect("eight bytes"));
    [word(at), word(at + 8)]
}

#[inline(always)]
fn put_eights(row: &mut [u8; DEPTH], at: usize, [low, high]: [u64; 2]) {
    row[at..at + 8].copy_from_slice(&low.to_le_bytes());
    row[at + 8..at + 16].copy_from_slice(&high.to_le_bytes());
}

/// Interleaves bytes, a₀ b₀ a₁ b₁ … a₇ b₇: four 32-bit words, one for each of four lanes.
#[inline(always)]
fn interleave(a: u64, b: u64) -> [u8; 16] {
    let four = |a: u64, b: u64| u128::from(spread(a) | spread(b) << 8);
    (four(a & 0xffff_ffff, b & 0xffff_ffff) | four(a >> 32, b >> 32) << 64).to_le_bytes()
}

/// Spreads four bytes to every second byte.
#[inline(always)]
fn spread(x: u64) -> u64 {
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    (x | x << 8) & 0x00ff_00ff_00ff_00ff
}

/// Splits a pair into two words: the inverse of [`interleave`].
#[inline(always)]
fn separate(pair: [u8; 16]) -> (u64, u64) {
    let every_other = |first: usize| u64::from_le_bytes(std::array::from_fn(|i| pair[2 * i + first]));
    (every_other(0), every_other(1))
}

/// Writes word q of pair j as word j of lane q.
#[inline(always)]
fn write_transposed(pairs: &[[u8; 16]; 4], out: &mut [u8]) {
    for (q, lane) in out.chunks_exact_mut(16).enumerate() {
        for (word, pair) in lane.chunks_exact_mut(4).zip(pairs) {
            word.copy_from_slice(&pair[4 * q..4 * q + 4]);
        }
    }
}

/// Reads the pairs back: the inverse of [`write_transposed`].
#[inline(always)]
fn read_transposed(packed: &[u8]) -> [[u8; 16]; 4] {
    std::array::from_fn(|j| std::array::from_fn(|i| packed[16 * (i / 4) + 4 * j + i % 4]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::numerics::random::SplitMix64;

    /// Returns (byte, shift) of the code of row n and column k of a tile, by searching the formulas of
    /// kernels/README.md.
    fn place(bits: Bits, n: usize, k: usize) -> (usize, usize) {
        let lanes = (0..32).flat_map(|l| (0..4).flat_map(move |j| (0..8).map(move |p| (l, j, p))));
        let mut found = lanes.filter_map(|(l, j, p)| match bits {
            Bits::W4 => (k == 2 * (l % 4) + p / 4 + 8 * (p % 2) && n == 16 * j + l / 4 + 8 * ((p % 4) / 2))
                .then_some((16 * l + 4 * j + p / 2, 4 * (p % 2))),
            Bits::W8 => {
                let (v, p) = (p / 4, p % 4);
                (k == 2 * (l % 4) + p / 2 + 8 * (p % 2) && n == 32 * v + 8 * j + l / 4)
                    .then_some((512 * v + 16 * l + 4 * j + p, 0))
            }
        });
        let place = found.next().unwrap();
        assert_eq!(found.next(), None, "two places for row {n}, column {k}");
        place
    }

    /// Packs code by code: the plain twin of [`pack_strip`].
    fn plain(bits: Bits, rows: &[u8], cols: usize, out: &mut [u8]) {
        for (i, &code) in rows.iter().enumerate() {
            let (n, k) = (i / cols, i % cols);
            let (byte, shift) = place(bits, n, k % TILE);
            out[k / TILE * bits.tile_bytes() + byte] |= code << shift;
        }
    }

    #[test]
    fn each_code_lies_where_the_kernels_look_and_comes_back() {
        let mut random = SplitMix64(7);
        for bits in [Bits::W4, Bits::W8] {
            for (rows, cols) in [(64, 128usize), (1, 1), (3, 129), (64, 16), (17, 255), (63, 300), (64, 7)] {
                let codes: Vec<u8> = (0..rows * cols).map(|_| random.below(bits.levels()) as u8).collect();
                let len = cols.next_multiple_of(DEPTH) / TILE * bits.tile_bytes();
                let (mut packed, mut expected) = (vec![0xaa; len], vec![0; len]);
                pack_strip(bits, &codes, cols, &mut packed);
                plain(bits, &codes, cols, &mut expected);
                assert!(packed == expected, "{bits} {rows}×{cols}");
                let mut back = vec![0xaa; codes.len()];
                unpack_strip(bits, &packed, cols, &mut back);
                assert!(back == codes, "{bits} {rows}×{cols}");
            }
        }
    }

    #[test]
    fn scales_of_a_strip_lie_by_lane() {
        let mut places: Vec<usize> = (0..STRIP).map(scale_place).collect();
        assert_eq!(places[..10], [0, 8, 16, 24, 32, 40, 48, 56, 1, 9]);
        places.sort_unstable();
        assert!(places.into_iter().eq(0..STRIP));
    }
}

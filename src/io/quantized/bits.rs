//! Codes of 2 to 8 bits out of packed streams. Every layout's words are little-endian with the least significant code
//! first, so a row of words is one bit stream over its bytes, and a code lies within two neighbouring bytes.

use crate::numerics::pack;

/// Unpacks the first `out.len()` codes of a stream that has as many.
pub(super) fn unpack(stream: &[u8], bits: u8, out: &mut [u8]) {
    pack::unpack(&stream[..pack::packed_len(out.len(), bits)], bits, out);
}

/// The `index`-th code of a stream.
pub(super) fn code_at(stream: &[u8], bits: u8, index: usize) -> u8 {
    let bit = index * usize::from(bits);
    let byte = |i: usize| u16::from(stream.get(i).copied().unwrap_or(0));
    let pair = byte(bit / 8) | byte(bit / 8 + 1) << 8;
    (pair >> (bit % 8)) as u8 & mask(bits)
}

/// The largest code.
pub(super) fn mask(bits: u8) -> u8 {
    u8::MAX >> (8 - bits)
}

/// Words packed along their first dimension, [height, width]: each column is a stream.
pub(super) struct Columns<'a> {
    words: &'a [[u8; 4]],
    width: usize,
    bits: u8,
}

impl<'a> Columns<'a> {
    pub(crate) fn new(bytes: &'a [u8], width: usize, bits: u8) -> Columns<'a> {
        Columns { words: bytes.as_chunks().0, width, bits }
    }

    /// Unpacks codes `32·unit..` of a column, `out.len()` ≤ 32 of them: they begin on a word, whatever the bits.
    pub(crate) fn unpack(&self, column: usize, unit: usize, out: &mut [u8]) {
        let bits = usize::from(self.bits);
        let mut stream = [[0u8; 4]; 8];
        for (i, word) in stream[..bits].iter_mut().enumerate() {
            *word = self.words.get((unit * bits + i) * self.width + column).copied().unwrap_or_default();
        }
        unpack(stream.as_flattened(), self.bits, out);
    }

    /// One code of a column.
    pub(crate) fn code(&self, column: usize, index: usize) -> u8 {
        let mut unit = [0u8; 32];
        self.unpack(column, index / 32, &mut unit);
        unit[index % 32]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[track_caller]
    fn check(words: &[u32], bits: u8, expected: impl Fn(usize) -> u8) {
        let stream = bytes(words);
        let mut codes = vec![0; stream.len() * 8 / usize::from(bits)];
        unpack(&stream, bits, &mut codes);
        let expected: Vec<u8> = (0..codes.len()).map(expected).collect();
        assert_eq!(codes, expected);
        let columns = Columns::new(&stream, 1, bits);
        let by_column: Vec<u8> = (0..codes.len()).map(|i| columns.code(0, i)).collect();
        assert_eq!(by_column, expected);
    }

    #[test]
    fn the_formats_own_vectors() {
        check(&[0x7654_3210], 4, |i| i as u8);
        check(&[0xfedc_ba98], 4, |i| 8 + i as u8);
        check(&[0x88fa_c688, 0xc688_fac6, 0xfac6_88fa], 3, |i| i as u8 % 8);
        check(&[0xdb6d_b6db, 0xb6db_6db6, 0x6db6_db6d], 3, |_| 3);
        check(&[0x2492_4924, 0x4924_9249, 0x9249_2492], 3, |_| 4);
        check(&[0x8080_8080], 8, |_| 128);
    }

    #[test]
    fn odd_lengths_stop_where_the_row_does() {
        let mut three = [9; 3];
        unpack(&[0x21, 0x43], 4, &mut three);
        assert_eq!(three, [1, 2, 3]);
        unpack(&[], 5, &mut []);
    }
}

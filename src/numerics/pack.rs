//! Codes ↔ streams of bits, least significant first.
//!
//! Element k of a run occupies bits k·b .. k·b+b of its stream, across byte and word borders. As 32-bit little-endian words
//! this is compressed-tensors' `weight_packed` and GPTQ's `qweight`; with b = 4 it is NVFP4's and MXFP4's pairs (even element
//! in the low nibble).
//!
//! Eight codes fill exactly b bytes. They are merged in one u64, in three steps that halve the number of fields
//! (8 of 8 bits apart → 4 of 16 → 2 of 32 → 1): about a dozen operations for eight codes, for every b.

/// Returns the bytes of a run of `codes` codes.
pub(crate) const fn packed_len(codes: usize, bits: u8) -> usize {
    (codes * bits as usize).div_ceil(8)
}

/// Returns the bytes of a run that is padded to whole 32-bit words.
pub const fn row_len(codes: usize, bits: u8) -> usize {
    packed_len(codes, bits).next_multiple_of(4)
}

/// Packs one run: `codes.len()` codes of `bits` (1..=8) bits into [`packed_len`] bytes; unused bits of the last byte are
/// 0. Bits of a code beyond `bits` are dropped.
///
/// # Panics
/// If `out` has another length, or `bits` is out of range.
pub(crate) fn pack(codes: &[u8], bits: u8, out: &mut [u8]) {
    assert_eq!(out.len(), packed_len(codes.len(), bits), "pack: wrong output length");
    match bits {
        1 => pack_run::<1>(codes, out),
        2 => pack_run::<2>(codes, out),
        3 => pack_run::<3>(codes, out),
        4 => pack_run::<4>(codes, out),
        5 => pack_run::<5>(codes, out),
        6 => pack_run::<6>(codes, out),
        7 => pack_run::<7>(codes, out),
        8 => out.copy_from_slice(codes),
        _ => panic!("pack: {bits} bits"),
    }
}

/// Reads one run back, one byte per code: the inverse of [`pack`].
///
/// # Panics
/// If `packed` has another length than [`packed_len`] of `codes.len()`, or `bits` is out of range.
pub(crate) fn unpack(packed: &[u8], bits: u8, codes: &mut [u8]) {
    assert_eq!(packed.len(), packed_len(codes.len(), bits), "unpack: wrong input length");
    match bits {
        1 => unpack_run::<1>(packed, codes),
        2 => unpack_run::<2>(packed, codes),
        3 => unpack_run::<3>(packed, codes),
        4 => unpack_run::<4>(packed, codes),
        5 => unpack_run::<5>(packed, codes),
        6 => unpack_run::<6>(packed, codes),
        7 => unpack_run::<7>(packed, codes),
        8 => codes.copy_from_slice(packed),
        _ => panic!("unpack: {bits} bits"),
    }
}

/// Packs rows of `cols` codes, each padded with zeros to whole 32-bit words: [rows, ceil(cols·bits/32)] words.
///
/// # Panics
/// If the lengths disagree.
pub fn pack_rows(codes: &[u8], cols: usize, bits: u8, out: &mut [u8]) {
    if codes.is_empty() {
        return;
    }
    let (len, padded) = (packed_len(cols, bits), row_len(cols, bits));
    assert_eq!(out.len(), codes.len() / cols * padded, "pack_rows: wrong output length");
    for (row, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(padded)) {
        let (packed, padding) = out.split_at_mut(len);
        pack(row, bits, packed);
        padding.fill(0);
    }
}

/// Reads rows back: the inverse of [`pack_rows`].
///
/// # Panics
/// If the lengths disagree.
pub fn unpack_rows(packed: &[u8], cols: usize, bits: u8, codes: &mut [u8]) {
    if codes.is_empty() {
        return;
    }
    let (len, padded) = (packed_len(cols, bits), row_len(cols, bits));
    assert_eq!(packed.len(), codes.len() / cols * padded, "unpack_rows: wrong input length");
    for (row, packed) in codes.chunks_exact_mut(cols).zip(packed.chunks_exact(padded)) {
        unpack(&packed[..len], bits, row);
    }
}

/// Packs along columns: codes [rows, cols] become [ceil(rows·bits/32), cols] 32-bit words (compressed-tensors'
/// `weight_zero_point`).
///
/// # Panics
/// If the lengths disagree.
pub(crate) fn pack_columns(codes: &[u8], cols: usize, bits: u8, out: &mut [u8]) {
    if codes.is_empty() {
        return;
    }
    let rows = codes.len() / cols;
    assert_eq!(out.len(), row_len(rows, bits) * cols, "pack_columns: wrong output length");
    let mut column = vec![0; rows];
    let mut packed = vec![0; row_len(rows, bits)];
    for col in 0..cols {
        for (code, row) in column.iter_mut().zip(codes.chunks_exact(cols)) {
            *code = row[col];
        }
        pack_rows(&column, rows, bits, &mut packed);
        for (words, word) in out.chunks_exact_mut(4 * cols).zip(packed.chunks_exact(4)) {
            words[4 * col..][..4].copy_from_slice(word);
        }
    }
}

fn pack_run<const B: usize>(codes: &[u8], out: &mut [u8]) {
    let (chunks, rest) = codes.as_chunks::<8>();
    let (packed, last) = out.split_at_mut(chunks.len() * B);
    for (codes, packed) in chunks.iter().zip(packed.as_chunks_mut::<B>().0) {
        packed.copy_from_slice(&merge::<B>(*codes)[..B]);
    }
    let mut codes = [0; 8];
    codes[..rest.len()].copy_from_slice(rest);
    last.copy_from_slice(&merge::<B>(codes)[..last.len()]);
}

fn unpack_run<const B: usize>(packed: &[u8], codes: &mut [u8]) {
    let (chunks, rest) = codes.as_chunks_mut::<8>();
    let (packed, last) = packed.split_at(chunks.len() * B);
    for (codes, packed) in chunks.iter_mut().zip(packed.as_chunks::<B>().0) {
        let mut bytes = [0; 8];
        bytes[..B].copy_from_slice(packed);
        *codes = split::<B>(bytes);
    }
    let mut bytes = [0; 8];
    bytes[..last.len()].copy_from_slice(last);
    rest.copy_from_slice(&split::<B>(bytes)[..rest.len()]);
}

const BYTES: u64 = 0x00FF_00FF_00FF_00FF;
const SHORTS: u64 = 0x0000_FFFF_0000_FFFF;
const WORDS: u64 = 0x0000_0000_FFFF_FFFF;

/// Returns a mask of the low `bits` bits of every `apart`-bit field.
const fn fields(bits: usize, apart: usize) -> u64 {
    let mut mask = 0;
    let mut at = 0;
    while at < 64 {
        mask |= ((1 << bits) - 1) << at;
        at += apart;
    }
    mask
}

/// Returns eight codes in the low 8·B bits.
#[inline(always)]
fn merge<const B: usize>(codes: [u8; 8]) -> [u8; 8] {
    let x = u64::from_le_bytes(codes) & const { fields(B, 8) };
    let x = (x & BYTES) | ((x >> 8) & BYTES) << B;
    let x = (x & SHORTS) | ((x >> 16) & SHORTS) << (2 * B);
    let x = (x & WORDS) | (x >> 32) << (4 * B);
    x.to_le_bytes()
}

/// Returns the codes again: the inverse of [`merge`].
#[inline(always)]
fn split<const B: usize>(packed: [u8; 8]) -> [u8; 8] {
    let x = u64::from_le_bytes(packed);
    let x = (x & const { fields(4 * B, 64) }) | ((x >> (4 * B)) & const { fields(4 * B, 64) }) << 32;
    let x = (x & const { fields(2 * B, 32) }) | ((x >> (2 * B)) & const { fields(2 * B, 32) }) << 16;
    let x = (x & const { fields(B, 16) }) | ((x >> B) & const { fields(B, 16) }) << 8;
    x.to_le_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads columns back: the inverse of [`pack_columns`].
    fn unpack_columns(packed: &[u8], cols: usize, bits: u8, codes: &mut [u8]) {
        if codes.is_empty() {
            return;
        }
        let rows = codes.len() / cols;
        assert_eq!(packed.len(), row_len(rows, bits) * cols, "unpack_columns: wrong input length");
        let mut column = vec![0; rows];
        let mut words = vec![0; row_len(rows, bits)];
        for col in 0..cols {
            for (word, packed) in words.chunks_exact_mut(4).zip(packed.chunks_exact(4 * cols)) {
                word.copy_from_slice(&packed[4 * col..][..4]);
            }
            unpack_rows(&words, rows, bits, &mut column);
            for (row, &code) in codes.chunks_exact_mut(cols).zip(&column) {
                row[col] = code;
            }
        }
    }

    /// Packs by the definition: element k in stream bits k·b, least significant first.
    fn plain_pack(codes: &[u8], bits: u8) -> Vec<u8> {
        let mut out = vec![0; packed_len(codes.len(), bits)];
        for (k, code) in codes.iter().enumerate() {
            for bit in (0..usize::from(bits)).filter(|bit| code >> bit & 1 == 1) {
                let at = k * usize::from(bits) + bit;
                out[at / 8] |= 1 << (at % 8);
            }
        }
        out
    }

    fn words(codes: &[u8], bits: u8) -> Vec<u32> {
        let mut out = vec![0; row_len(codes.len(), bits)];
        pack_rows(codes, codes.len(), bits, &mut out);
        out.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
    }

    #[test]
    fn vectors_of_the_formats() {
        assert_eq!(words(&[0, 1, 2, 3, 4, 5, 6, 7], 4), [0x7654_3210]);
        assert_eq!(words(&[8, 9, 10, 11, 12, 13, 14, 15], 4), [0xFEDC_BA98]);
        let w3: Vec<u8> = (0..32).map(|i| i % 8).collect();
        assert_eq!(words(&w3, 3), [0x88FA_C688, 0xC688_FAC6, 0xFAC6_88FA]);
        assert_eq!(
            words(&[3; 32], 3),
            [0xDB6D_B6DB, 0xB6DB_6DB6, 0x6DB6_DB6D],
            "GPTQ v1's 3-bit zero points"
        );
        assert_eq!(
            words(&[4; 32], 3),
            [0x2492_4924, 0x4924_9249, 0x9249_2492],
            "GPTQ v2's 3-bit zero points"
        );
    }

    #[test]
    fn columns_are_rows_of_the_transpose() {
        let codes: Vec<u8> = (0..11 * 3).map(|i| i % 8).collect();
        let transpose: Vec<u8> = (0..3).flat_map(|c| (0..11).map(move |r| (r * 3 + c) % 8)).collect();
        let (mut columns, mut rows) = (vec![0xFF; 8 * 3], vec![0xFF; 8 * 3]);
        pack_columns(&codes, 3, 3, &mut columns);
        pack_rows(&transpose, 11, 3, &mut rows);
        let word = |bytes: &[u8], i: usize| bytes[4 * i..][..4].to_vec();
        for (row, col) in (0..2).flat_map(|row| (0..3).map(move |col| (row, col))) {
            assert_eq!(word(&columns, row * 3 + col), word(&rows, col * 2 + row));
        }
        let mut back = vec![0; codes.len()];
        unpack_columns(&columns, 3, 3, &mut back);
        assert_eq!(back, codes);
    }

    #[test]
    fn nothing_packs_to_nothing() {
        pack(&[], 3, &mut []);
        unpack(&[], 3, &mut []);
        pack_rows(&[], 0, 4, &mut []);
        pack_columns(&[], 0, 4, &mut []);
    }

    #[test]
    #[should_panic(expected = "wrong output length")]
    fn a_short_output_is_refused() {
        pack(&[1, 2, 3], 4, &mut [0]);
    }

    proptest! {
        /// Checks that bits beyond the code's are dropped.
        #[test]
        fn packing_equals_its_plain_twin(bits in 1u8..=8, codes in prop::collection::vec(any::<u8>(), 0..70)) {
            let mut packed = vec![0xFF; packed_len(codes.len(), bits)];
            pack(&codes, bits, &mut packed);
            prop_assert_eq!(&packed, &plain_pack(&codes, bits));
            let mut back = vec![0xFF; codes.len()];
            unpack(&packed, bits, &mut back);
            let kept: Vec<u8> = codes.iter().map(|code| code & (0xFF >> (8 - bits))).collect();
            prop_assert_eq!(back, kept);
        }

        #[test]
        fn rows_and_columns_come_back(bits in 1u8..=8, rows in 1usize..40, cols in 1usize..40, seed: u8) {
            let codes: Vec<u8> = (0..rows * cols).map(|i| (i as u8).wrapping_mul(37) ^ seed).collect();
            let codes: Vec<u8> = codes.into_iter().map(|code| code & (0xFF >> (8 - bits))).collect();
            let mut back = vec![0; codes.len()];
            let mut packed = vec![0xFF; rows * row_len(cols, bits)];
            pack_rows(&codes, cols, bits, &mut packed);
            unpack_rows(&packed, cols, bits, &mut back);
            prop_assert_eq!(&back, &codes);
            let mut packed = vec![0xFF; row_len(rows, bits) * cols];
            pack_columns(&codes, cols, bits, &mut packed);
            unpack_columns(&packed, cols, bits, &mut back);
            prop_assert_eq!(&back, &codes);
        }
    }
}

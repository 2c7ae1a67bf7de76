//! Codes ↔ streams of bits, least significant first.
//!
//! Element k of a run occupies bits k·b .. k·b+b of its stream, crossing byte and word borders where it must: as 32-bit
//! little-endian words this is compressed-tensors' `weight_packed` and GPTQ's `qweight`; with b = 4 it is NVFP4's and
//! MXFP4's pairs (even element in the low nibble).
//!
//! Eight codes fill exactly b bytes. They are merged in one u64, in three steps that halve the number of fields
//! (8 of 8 bits apart → 4 of 16 → 2 of 32 → 1): about a dozen operations for eight codes, whatever b.

/// Bytes of a run of `codes` codes.
pub const fn packed_len(codes: usize, bits: u8) -> usize {
    (codes * bits as usize).div_ceil(8)
}

/// Bytes of a run that is padded to whole 32-bit words.
pub const fn row_len(codes: usize, bits: u8) -> usize {
    packed_len(codes, bits).next_multiple_of(4)
}

/// Packs one run: `codes.len()` codes of `bits` (1..=8) bits into [`packed_len`] bytes; unused bits of the last byte are
/// 0. Bits of a code beyond `bits` are dropped.
///
/// # Panics
/// Where `out` has another length, or `bits` is out of range.
pub fn pack(codes: &[u8], bits: u8, out: &mut [u8]) {
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
/// Where `packed` has another length than [`packed_len`] of `codes.len()`, or `bits` is out of range.
pub fn unpack(packed: &[u8], bits: u8, codes: &mut [u8]) {
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
/// Where the lengths disagree.
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
/// Where the lengths disagree.
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
/// Where the lengths disagree.
pub fn pack_columns(codes: &[u8], cols: usize, bits: u8, out: &mut [u8]) {
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

/// Reads columns back: the inverse of [`pack_columns`].
///
/// # Panics
/// Where the lengths disagree.
pub fn unpack_columns(packed: &[u8], cols: usize, bits: u8, codes: &mut [u8]) {
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

/// The low `bits` bits of every `apart`-bit field.
const fn fields(bits: usize, apart: usize) -> u64 {
    let mut mask = 0;
    let mut at = 0;
    while at < 64 {
        mask |= ((1 << bits) - 1) << at;
        at += apart;
    }
    mask
}

/// Eight codes in the low 8·B bits.
#[inline(always)]
fn merge<const B: usize>(codes: [u8; 8]) -> [u8; 8] {
    let x = u64::from_le_bytes(codes) & const { fields(B, 8) };
    let x = (x & BYTES) | ((x >> 8) & BYTES) << B;
    let x = (x & SHORTS) | ((x >> 16) & SHORTS) << (2 * B);
    let x = (x & WORDS) | (x >> 32) << (4 * B);
    x.to_le_bytes()
}

/// The inverse of [`merge`].
#[inline(always)]
fn split<const B: usize>(packed: [u8; 8]) -> [u8; 8] {
    let x = u64::from_le_bytes(packed);
    let x = (x & const { fields(4 * B, 64) }) | ((x >> (4 * B)) & const { fields(4 * B, 64) }) << 32;
    let x = (x & const { fields(2 * B, 32) }) | ((x >> (2 * B)) & const { fields(2 * B, 32) }) << 16;
    let x = (x & const { fields(B, 16) }) | ((x >> B) & const { fields(B, 16) }) << 8;
    x.to_le_bytes()
}

//! Encodes rows of log-probabilities as bytes, in one of two forms.
//!
//! - `f32`: exact. The four bytes of the values form four planes. The plane of signs and exponents, which varies little within
//!   a row, is deflated: 3.02 bytes per value on SmolLM2. The mantissa planes are noise: deflating the next one would save
//!   3 % more at a tenth of the speed.
//! - `16bit`: the form of llama-perplexity's `--kl-divergence-base`: 65535 steps over the 16 nats below the row's largest
//!   value. The divergence omits smaller values, and log-probabilities of −16 or less. On SmolLM2 it gives 0.24412 instead
//!   of 0.24367 (Q4_0) and 0.003557 instead of 0.003552 (Q8_0).

use std::io::{Read, Write};
use std::ops::Range;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::eval::softmax::LogSoftmax;

/// The range of the 16-bit form, in nats.
const WINDOW: f32 = 16.0;
/// The steps of the 16-bit form.
const STEPS: f32 = 65535.0;
/// The bytes of a 16-bit row before its codes: step size and smallest value.
const PREFIX: usize = 8;

/// The encoding of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Exact.
    F32,
    /// 16 bits over 16 nats, as in llama.cpp.
    #[serde(rename = "16bit")]
    Bits16,
}

impl Precision {
    /// The divergence omits log-probabilities that are not above this value.
    pub(crate) fn floor(self) -> f32 {
        match self {
            Precision::F32 => f32::NEG_INFINITY,
            Precision::Bits16 => -WINDOW,
        }
    }

    /// The approximate bytes of a row.
    pub(crate) fn row_bytes(self, vocabulary: usize) -> u64 {
        match self {
            Precision::F32 => vocabulary as u64 * 31 / 10,
            Precision::Bits16 => (vocabulary * 2 + PREFIX) as u64,
        }
    }

    /// Encodes the log-probabilities of a row of logits.
    fn encode(self, logits: &[f32], softmax: &LogSoftmax) -> Vec<u8> {
        match self {
            Precision::F32 => encode_f32(logits, softmax),
            Precision::Bits16 => encode_16(logits, softmax),
        }
    }

    /// Decodes a row of log-probabilities. `None` if its length is not that of `out`.
    pub(crate) fn decode(self, row: &[u8], out: &mut [f32]) -> Option<()> {
        match self {
            Precision::F32 => decode_f32(row, out),
            Precision::Bits16 => decode_16(row, out),
        }
    }
}

fn encode_f32(logits: &[f32], softmax: &LogSoftmax) -> Vec<u8> {
    let values: Vec<[u8; 4]> = logits.iter().map(|x| softmax.log_probability(*x).to_le_bytes()).collect();
    let mut bytes = Vec::with_capacity(logits.len() * 25 / 8);
    for plane in 0..3 {
        bytes.extend(values.iter().map(|value| value[plane]));
    }
    let top: Vec<u8> = values.iter().map(|value| value[3]).collect();
    let mut deflated = DeflateEncoder::new(bytes, Compression::fast());
    deflated.write_all(&top).and_then(|()| deflated.finish()).expect("writing to memory cannot fail")
}

fn decode_f32(row: &[u8], out: &mut [f32]) -> Option<()> {
    let n = out.len();
    let (mantissas, deflated) = row.split_at_checked(n.checked_mul(3)?)?;
    let mut top = vec![0; n];
    let mut decoder = DeflateDecoder::new(deflated);
    decoder.read_exact(&mut top).ok()?;
    if !matches!(decoder.read(&mut [0]), Ok(0)) {
        return None;
    }
    let (low, rest) = mantissas.split_at(n);
    let (middle, high) = rest.split_at(n);
    for (i, out) in out.iter_mut().enumerate() {
        *out = f32::from_le_bytes([low[i], middle[i], high[i], top[i]]);
    }
    Some(())
}

fn encode_16(logits: &[f32], softmax: &LogSoftmax) -> Vec<u8> {
    let least = logits.iter().copied().fold(softmax.max, f32::min).max(softmax.max - WINDOW);
    let step = (softmax.max - least) / STEPS;
    let per_nat = if step > 0.0 { 1.0 / step } else { 0.0 };
    let mut bytes = Vec::with_capacity(PREFIX + 2 * logits.len());
    bytes.extend(step.to_le_bytes());
    bytes.extend(softmax.log_probability(least).to_le_bytes());
    for x in logits {
        let code = ((x - least).max(0.0) * per_nat).round_ties_even() as u16;
        bytes.extend(code.to_le_bytes());
    }
    bytes
}

fn decode_16(row: &[u8], out: &mut [f32]) -> Option<()> {
    let (prefix, codes) = row.split_at_checked(PREFIX)?;
    let (step, least) = prefix.split_at(4);
    let step = f32::from_le_bytes(step.try_into().ok()?);
    let least = f32::from_le_bytes(least.try_into().ok()?);
    if codes.len() != 2 * out.len() {
        return None;
    }
    for (code, out) in codes.chunks_exact(2).zip(out) {
        *out = f32::from(u16::from_le_bytes([code[0], code[1]])) * step + least;
    }
    Some(())
}

/// Encoded rows, concatenated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EncodedRows {
    bytes: Vec<u8>,
    /// The end of each row in `bytes`.
    ends: Vec<usize>,
}

impl EncodedRows {
    /// Encodes and appends the rows of a block of logits, [rows, vocabulary].
    ///
    /// # Errors
    /// The index of the first row that [`LogSoftmax::new`] refuses.
    pub(crate) fn push(
        &mut self,
        precision: Precision,
        logits: &[f32],
        vocabulary: usize,
    ) -> Result<(), usize> {
        let rows: Vec<Option<Vec<u8>>> = logits
            .par_chunks_exact(vocabulary)
            .map(|row| LogSoftmax::new(row).map(|softmax| precision.encode(row, &softmax)))
            .collect();
        for (index, row) in rows.into_iter().enumerate() {
            self.bytes.extend(row.ok_or(index)?);
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }

    /// Removes all rows, but keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// The encoded row at `index`.
    pub(crate) fn row(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        self.bytes.get(self.start(index)..end)
    }

    /// The encoded lengths of a range of rows.
    pub(crate) fn lengths(&self, rows: Range<usize>) -> impl Iterator<Item = u32> + '_ {
        rows.map(|row| (self.ends[row] - self.start(row)) as u32)
    }

    /// The bytes of a range of rows.
    pub(crate) fn bytes(&self, rows: Range<usize>) -> &[u8] {
        &self.bytes[self.start(rows.start)..self.start(rows.end)]
    }

    fn start(&self, row: usize) -> usize {
        row.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    /// Appends rows from their [`EncodedRows::lengths`] and [`EncodedRows::bytes`]. `None` if the two do not match.
    pub(crate) fn extend(&mut self, lengths: &[u8], bytes: &[u8]) -> Option<()> {
        let mut end = self.bytes.len();
        let all = end.checked_add(bytes.len())?;
        let (words, rest) = lengths.as_chunks::<4>();
        for length in words {
            end = end.checked_add(u32::from_le_bytes(*length) as usize).filter(|end| *end <= all)?;
            self.ends.push(end);
        }
        self.bytes.extend(bytes);
        (end == all && rest.is_empty()).then_some(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BOTH: [Precision; 2] = [Precision::F32, Precision::Bits16];

    fn logits(rows: usize, vocabulary: usize) -> Vec<f32> {
        (0..rows * vocabulary).map(|i| ((i * 7919) % 1000) as f32 / 40.0 - 3.0).collect()
    }

    fn encoded(precision: Precision, logits: &[f32], vocabulary: usize) -> EncodedRows {
        let mut rows = EncodedRows::default();
        rows.push(precision, logits, vocabulary).unwrap();
        rows
    }

    #[test]
    fn f32_rows_are_exact() {
        for vocabulary in [1, 2, 37, 1000] {
            let mut logits = logits(3, vocabulary);
            logits[0] = f32::NEG_INFINITY;
            if vocabulary == 1 {
                logits[0] = -0.0;
            }
            let rows = encoded(Precision::F32, &logits, vocabulary);
            assert_eq!(rows.ends.len(), 3);
            for (index, row) in logits.chunks(vocabulary).enumerate() {
                let softmax = LogSoftmax::new(row).unwrap();
                let mut found = vec![0.0; vocabulary];
                Precision::F32.decode(rows.row(index).unwrap(), &mut found).unwrap();
                let expected: Vec<f32> = row.iter().map(|x| softmax.log_probability(*x)).collect();
                assert_eq!(found, expected);
            }
            assert_eq!(rows.row(3), None);
        }
    }

    #[test]
    fn sixteen_bits_are_those_of_llama_cpp() {
        // ln p = x − 10. The window ends 16 below the largest value; its step is 16/65535. Half steps round to even.
        let logits = [10.0, 2.0, 10.0 - 16.0 / 65535.0 * 3.4, -20.0, -6.0];
        let softmax = LogSoftmax { max: 10.0, top: 0, log_sum_exp: 10.0 };
        let row = Precision::Bits16.encode(&logits, &softmax);
        assert_eq!(row.len(), PREFIX + 10);
        let codes: Vec<u16> = row[PREFIX..].chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        assert_eq!(codes, [65535, 32768, 65532, 0, 0]);
        let mut found = [0.0; 5];
        Precision::Bits16.decode(&row, &mut found).unwrap();
        for (found, expected) in found.into_iter().zip([0.0, -8.0, -0.00083, -16.0, -16.0]) {
            assert!((found - expected).abs() < 1.3e-4, "{found}, expected {expected}");
        }
    }

    #[test]
    fn equal_logits_have_no_step() {
        let rows = encoded(Precision::Bits16, &[3.0; 8], 8);
        let mut found = [0.0; 8];
        Precision::Bits16.decode(rows.row(0).unwrap(), &mut found).unwrap();
        found.iter().for_each(|x| assert!((x + 8f32.ln()).abs() < 1e-6));
    }

    #[test]
    fn records_restore_their_rows() {
        for precision in BOTH {
            let rows = encoded(precision, &logits(4, 50), 50);
            let lengths: Vec<u8> = rows.lengths(0..4).flat_map(u32::to_le_bytes).collect();
            let mut found = EncodedRows::default();
            found.extend(&lengths, rows.bytes(0..4)).unwrap();
            assert_eq!(found, rows);
            found.extend(&lengths, rows.bytes(0..4)).unwrap();
            assert_eq!((found.ends.len(), found.row(5)), (8, rows.row(1)));
            assert_eq!(found.bytes(5..7), rows.bytes(1..3));
            assert!(found.bytes(8..8).is_empty());
        }
    }

    #[test]
    fn damaged_rows_are_refused() {
        for precision in BOTH {
            let rows = encoded(precision, &logits(1, 50), 50);
            let row = rows.row(0).unwrap();
            let mut out = vec![0.0; 50];
            for len in 0..row.len() {
                assert_eq!(precision.decode(&row[..len], &mut out), None, "{precision:?} cut to {len}");
            }
            assert_eq!(precision.decode(row, &mut [0.0; 49]), None);
            assert_eq!(precision.decode(row, &mut [0.0; 51]), None);
        }
        let mut rows = EncodedRows::default();
        assert_eq!(rows.extend(&9u32.to_le_bytes(), &[0; 8]), None);
        assert_eq!(EncodedRows::default().extend(&[1, 0, 0], &[]), None);
        assert_eq!(EncodedRows::default().extend(&u32::MAX.to_le_bytes().repeat(9), &[0; 8]), None);
    }

    #[test]
    fn a_row_of_nan_is_named() {
        let mut logits = logits(3, 20);
        logits[45] = f32::NAN;
        assert_eq!(EncodedRows::default().push(Precision::F32, &logits, 20), Err(2));
    }
}

//! Rows of codes and their grid out of the stored parts. Shapes were checked when the source was recognised; what is left
//! to go wrong is in the values: zero points and group indices out of range.

use std::collections::BTreeMap;
use std::ops::Range;

use super::bitmask::{self, SparseRows};
use super::bits::{self, Columns};
use super::experts::Experts;
use crate::error::{Error, Result};
use crate::io::map::MappedFile;
use crate::io::source::{Layout, RawTensor};
use crate::numerics::{Codes, Granularity, Grid, Number, QTensor, ScalarCodes, Scheme, convert};
use crate::tensor::DType;

/// Nibble of an AWQ word that holds channel 8c + j, by j: the inverse of the order [0, 2, 4, 6, 1, 3, 5, 7].
const AWQ_NIBBLE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Rows of one quantized tensor.
pub(super) struct CodeReader<'a> {
    pub files: &'a [MappedFile],
    pub layout: Layout,
    pub scheme: Scheme,
    pub parts: &'a BTreeMap<&'static str, RawTensor>,
    pub rows: Range<usize>,
    pub cols: usize,
}

impl CodeReader<'_> {
    /// Codes, grid and, where columns are out of order, their groups.
    pub(crate) fn read(&self) -> Result<QTensor> {
        let codes = ScalarCodes {
            scheme: self.row_scheme(),
            codes: self.codes()?,
            grid: Grid {
                scales: self.scales(),
                zero_points: self.zero_points()?,
                global_scale: self.global_scale(),
            },
            g_idx: self.g_idx()?,
        };
        Ok(QTensor { rows: self.rows.len(), cols: self.cols, codes: Codes::Scalar(codes) })
    }

    /// The divisor of the scales: stored as such, or as the factor that is its reciprocal.
    fn global_scale(&self) -> Option<f32> {
        let value = |role: &str| self.parts.get(role).map(|part| floats(part.dtype, self.bytes(part))[0]);
        value("weight_global_scale").or_else(|| value("weight_scale_2").map(f32::recip))
    }

    /// The scheme of these rows: by groups, where they begin within a block.
    fn row_scheme(&self) -> Scheme {
        match self.scheme.granularity {
            Granularity::Block(height, width) if !self.rows.start.is_multiple_of(height) => {
                Scheme { granularity: Granularity::Group(width), ..self.scheme }
            }
            _ => self.scheme,
        }
    }

    fn part(&self, role: &str) -> &RawTensor {
        &self.parts[role]
    }

    fn bytes(&self, part: &RawTensor) -> &[u8] {
        &self.files[part.file].bytes()[part.range.clone()]
    }

    fn bits(&self) -> u8 {
        match self.scheme.number {
            Number::Int { bits } => bits,
            Number::Fp8(_) => 8,
            _ => 4,
        }
    }

    fn codes(&self) -> Result<Vec<u8>> {
        let mut codes = vec![0; self.rows.len() * self.cols];
        if codes.is_empty() {
            return Ok(codes);
        }
        match self.layout {
            Layout::CompressedPacked | Layout::CompressedNvFp4 | Layout::CompressedMxFp4 => {
                self.packed_rows("weight_packed", &mut codes)
            }
            Layout::ModelOptNvFp4 => self.packed_rows("weight", &mut codes),
            Layout::Mxfp4Experts => {
                let experts = self.experts();
                let rows = codes.chunks_exact_mut(self.cols).zip(self.rows.clone());
                rows.for_each(|(out, row)| experts.codes(row, out));
            }
            Layout::CompressedPlain => self.plain_rows(&mut codes)?,
            Layout::GptqV1 | Layout::GptqV2 => self.gptq_columns(&mut codes),
            Layout::Awq => self.awq_columns(&mut codes),
        }
        Ok(codes)
    }

    /// Each row is a stream of its own.
    fn packed_rows(&self, role: &str, codes: &mut [u8]) {
        let part = self.part(role);
        let stride = part.shape[1] * part.dtype.block_bytes();
        let rows = self.bytes(part).chunks_exact(stride).skip(self.rows.start);
        for (row, stream) in codes.chunks_exact_mut(self.cols).zip(rows) {
            bits::unpack(stream, self.bits(), row);
        }
    }

    /// A byte per code: bit patterns of floats as they are, integers from signed to offset.
    fn plain_rows(&self, codes: &mut [u8]) -> Result<()> {
        let part = match self.parts.get("weight") {
            Some(part) => {
                codes.copy_from_slice(&self.bytes(part)[self.rows.start * self.cols..][..codes.len()]);
                part
            }
            None => {
                SparseRows::new(self.files, self.parts, self.cols).read_bytes(self.rows.clone(), codes)?;
                self.part(bitmask::VALUES)
            }
        };
        match self.scheme.number {
            Number::Int { .. } => self.offset(part, codes),
            _ => Ok(()),
        }
    }

    /// Signed integers of `bits` bits in bytes → codes, by adding 2^(bits−1).
    fn offset(&self, part: &RawTensor, codes: &mut [u8]) -> Result<()> {
        let half = 1u8 << (self.bits() - 1);
        codes.iter_mut().for_each(|code| *code = code.wrapping_add(half));
        match codes.iter().find(|&&code| code > bits::mask(self.bits())) {
            None => Ok(()),
            Some(&code) => Err(self.wrong(
                part,
                format!("signed integers of {} bits", self.bits()),
                code.wrapping_sub(half) as i8,
                "num_bits in config.json does not describe this tensor",
            )),
        }
    }

    fn gptq_columns(&self, codes: &mut [u8]) {
        let part = self.part("qweight");
        let columns = Columns::new(self.bytes(part), part.shape[1], self.bits());
        for (row, n) in codes.chunks_exact_mut(self.cols).zip(self.rows.clone()) {
            for (unit, out) in row.chunks_mut(32).enumerate() {
                columns.unpack(n, unit, out);
            }
        }
    }

    fn awq_columns(&self, codes: &mut [u8]) {
        let part = self.part("qweight");
        let stride = part.shape[1] * 4;
        for (k, words) in self.bytes(part).chunks_exact(stride).enumerate() {
            for (row, n) in self.rows.clone().enumerate() {
                codes[row * self.cols + k] = awq_code(words, n);
            }
        }
    }

    fn scales(&self) -> Vec<f32> {
        if matches!(self.layout, Layout::GptqV1 | Layout::GptqV2 | Layout::Awq) {
            return self.transposed_scales();
        }
        if self.layout == Layout::Mxfp4Experts {
            return self.row_by_row(self.expert_scales());
        }
        let role =
            if self.parts.contains_key("weight_scale_inv") { "weight_scale_inv" } else { "weight_scale" };
        let part = self.part(role);
        let entries = self.entries();
        let size = part.dtype.block_bytes();
        let scales = floats(part.dtype, &self.bytes(part)[entries.start * size..entries.end * size]);
        self.row_by_row(scales)
    }

    fn experts(&self) -> Experts<'_> {
        Experts::new(|role| (self.part(role), self.bytes(self.part(role))))
    }

    fn expert_scales(&self) -> Vec<f32> {
        let entries = self.entries();
        let groups = entries.start / self.cols.max(1)..entries.end / self.cols.max(1);
        let experts = self.experts();
        let exponents: Vec<u8> = groups.flat_map(|group| experts.exponents(group)).collect();
        floats(DType::U8, &exponents)
    }

    /// The contents of [`CodeReader::entries`], repeated for each row of a block where [`CodeReader::row_scheme`] is by groups.
    fn row_by_row<T: Copy>(&self, entries: Vec<T>) -> Vec<T> {
        let Granularity::Block(height, _) = self.scheme.granularity else { return entries };
        if self.row_scheme() == self.scheme {
            return entries;
        }
        let [_, width] = self.scheme.grid_shape(1, self.cols);
        let block = |row: usize| (row / height - self.rows.start / height) * width;
        self.rows.clone().flat_map(|row| &entries[block(row)..][..width]).copied().collect()
    }

    /// The grid entries of these rows.
    fn entries(&self) -> Range<usize> {
        let [_, width] = self.scheme.grid_shape(1, self.cols);
        match self.scheme.granularity {
            Granularity::Tensor => 0..1,
            Granularity::Block(height, _) => {
                self.rows.start / height * width..self.rows.end.div_ceil(height) * width
            }
            _ => self.rows.start * width..self.rows.end * width,
        }
    }

    /// [G, N] → [rows, G].
    fn transposed_scales(&self) -> Vec<f32> {
        let part = self.part("scales");
        let [groups, width] = [part.shape[0], part.shape[1]];
        let size = part.dtype.block_bytes();
        let mut scales = vec![0.0; self.rows.len() * groups];
        for g in 0..groups {
            let start = (g * width + self.rows.start) * size;
            let row = floats(part.dtype, &self.bytes(part)[start..start + self.rows.len() * size]);
            for (n, scale) in row.into_iter().enumerate() {
                scales[n * groups + g] = scale;
            }
        }
        scales
    }

    /// One per grid entry; empty where the scheme is symmetric.
    fn zero_points(&self) -> Result<Vec<u8>> {
        match self.layout {
            Layout::GptqV1 | Layout::GptqV2 => self.gptq_zero_points(),
            _ if self.scheme.symmetric => Ok(Vec::new()),
            Layout::Awq => Ok(self.awq_zero_points()),
            _ => Ok(self.row_by_row(self.compressed_zero_points()?)),
        }
    }

    /// I32 packed along the rows of the grid, or I8 in the shape of the scales.
    fn compressed_zero_points(&self) -> Result<Vec<u8>> {
        let part = self.part("weight_zero_point");
        if part.dtype == DType::I8 {
            let mut zero_points = self.bytes(part)[self.entries()].to_vec();
            self.offset(part, &mut zero_points)?;
            return Ok(zero_points);
        }
        let width = part.shape[1];
        let columns = Columns::new(self.bytes(part), width, self.bits());
        Ok(self.entries().map(|entry| columns.code(entry % width, entry / width)).collect())
    }

    /// `qzeros` [G, N·b/32], minus one in version 1.
    fn gptq_zero_points(&self) -> Result<Vec<u8>> {
        let part = self.part("qzeros");
        let stream: Vec<&[u8]> = self.bytes(part).chunks_exact((part.shape[1] * 4).max(1)).collect();
        let one = u8::from(self.layout == Layout::GptqV1);
        let mut zero_points = Vec::with_capacity(self.rows.len() * stream.len());
        for n in self.rows.clone() {
            for group in &stream {
                zero_points.push(self.zero_point(part, bits::code_at(group, self.bits(), n), one)?);
            }
        }
        Ok(if self.scheme.symmetric { Vec::new() } else { zero_points })
    }

    /// A stored zero point plus `one`, which must be a code, and the middle one where the scheme is symmetric.
    fn zero_point(&self, part: &RawTensor, stored: u8, one: u8) -> Result<u8> {
        let middle = 1u16 << (self.bits() - 1);
        let found = u16::from(stored) + u16::from(one);
        if self.scheme.symmetric && found != middle {
            let hint = "set \"sym\": false in config.json, or correct its checkpoint_format (gptq, gptq_v2)";
            return Err(self.wrong(part, format!("zero points of {middle}, as sym is true"), found, hint));
        }
        if found > u16::from(bits::mask(self.bits())) {
            let hint = "readers disagree about this value; if the file stores zero points as they are, set \
                        \"checkpoint_format\": \"gptq_v2\" in config.json";
            return Err(self.wrong(part, format!("zero points below {}", 2 * middle), found, hint));
        }
        Ok(found as u8)
    }

    fn awq_zero_points(&self) -> Vec<u8> {
        let part = self.part("qzeros");
        let groups: Vec<&[u8]> = self.bytes(part).chunks_exact((part.shape[1] * 4).max(1)).collect();
        let row = |n| groups.iter().map(move |words| awq_code(words, n));
        self.rows.clone().flat_map(row).collect()
    }

    /// `None` where columns are in order (or share one group).
    fn g_idx(&self) -> Result<Option<Vec<u32>>> {
        let part = self.parts.get("g_idx").or_else(|| self.parts.get("weight_g_idx"));
        let (Some(part), Granularity::Group(group)) = (part, self.scheme.granularity) else {
            return Ok(None);
        };
        let index: Vec<i64> = match part.dtype {
            DType::I64 => self.bytes(part).as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
            _ => self.bytes(part).as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect(),
        };
        let groups = self.cols.div_ceil(group);
        if let Some(&found) = index.iter().find(|&&g| !usize::try_from(g).is_ok_and(|g| g < groups)) {
            let hint = "the tensor is damaged, or group_size in config.json is not the one it was made with";
            return Err(self.wrong(part, format!("groups below {groups}"), found, hint));
        }
        let in_order = index.iter().enumerate().all(|(k, &g)| g as usize == k / group);
        Ok((!in_order).then(|| index.iter().map(|&g| g as u32).collect()))
    }

    fn wrong(&self, part: &RawTensor, expected: String, found: impl std::fmt::Display, hint: &str) -> Error {
        Error::malformed_tensor(self.files[part.file].path(), &part.name, expected, found, hint)
    }
}

/// Channel `n` of a row of AWQ words.
fn awq_code(words: &[u8], n: usize) -> u8 {
    let nibble = AWQ_NIBBLE[n % 8];
    words[n / 8 * 4 + nibble / 2] >> (nibble % 2 * 4) & 15
}

/// Stored scales in f32. E8M0 (U8 in compressed-tensors) is a power of two biased by 127; 255 is its NaN.
fn floats(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    if matches!(dtype, DType::U8 | DType::F8E8M0) {
        return bytes
            .iter()
            .map(|&e| if e == 255 { f32::NAN } else { (f64::from(e) - 127.0).exp2() as f32 })
            .collect();
    }
    let mut values = vec![0.0; bytes.len() / dtype.block_bytes()];
    convert::to_f32(dtype, bytes, &mut values);
    values
}

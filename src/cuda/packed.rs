//! [`PackedMatrix`]: a quantized matrix in the one layout of the kernels, converted from a [`QTensor`] and back.
//!
//! Codes and zero points survive unchanged. Scales survive unchanged if the type of the activations can represent them,
//! which is so if they were stored in it. Takes integers of 4 and 8 bits of any shape, with one scale per tensor,
//! channel or group of a multiple of 32 columns. Does not take reordered columns (act-order), GGUF blocks and floats.

use rayon::prelude::*;

use super::layout::{self, DEPTH, STRIP, TILE};
use super::types::{Bits, Half};
use crate::error::{Error, Result};
use crate::numerics::{Granularity, Grid, Number, QTensor, ScalarCodes, Scheme};

/// Codes, scales and zero points in the layout of `kernels/README.md`, padded to 64 rows and 128 columns.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedMatrix {
    scheme: Scheme,
    bits: Bits,
    half: Half,
    rows: usize,
    cols: usize,
    group: usize,
    codes: Vec<u8>,
    scales: Vec<u16>,
    zeros: Option<Vec<u8>>,
}

impl PackedMatrix {
    /// Packs a tensor for activations of type `half`.
    ///
    /// # Errors
    /// If no kernel has the scheme, or if `half` cannot represent a scale.
    ///
    /// # Panics
    /// If the number of codes or grid entries does not match the shape.
    pub fn pack(q: &QTensor, half: Half) -> Result<PackedMatrix> {
        let bits = bits(q)?;
        let group = group(q)?;
        let ScalarCodes { scheme, codes: q_codes, grid, .. } = q.as_scalar();
        let [grid_rows, grid_cols] = scheme.grid_shape(q.rows, q.cols);
        assert_eq!(q_codes.len(), q.rows * q.cols, "pack: wrong number of codes");
        assert_eq!(grid.scales.len(), grid_rows * grid_cols, "pack: wrong number of scales");
        let scales = scales(q, group, half)?;
        let zeros = (!scheme.symmetric).then(|| spread(q, group, |entry| grid.zero_points[entry]));
        let (strips, depth) = (q.rows.div_ceil(STRIP), q.cols.next_multiple_of(DEPTH));
        let strip_bytes = depth / TILE * bits.tile_bytes();
        let mut codes = vec![0; strips * strip_bytes];
        let of_strips = q_codes.par_chunks(STRIP * q.cols);
        codes
            .par_chunks_exact_mut(strip_bytes)
            .zip(of_strips)
            .for_each(|(out, rows)| layout::pack_strip(bits, rows, q.cols, out));
        let scheme = Scheme { scale: half.scale_type(), ..*scheme };
        Ok(PackedMatrix { scheme, bits, half, rows: q.rows, cols: q.cols, group, codes, scales, zeros })
    }

    /// Unpacks the tensor; its scales have the type in which they were packed.
    pub fn unpack(&self) -> QTensor {
        let mut codes = vec![0; self.rows * self.cols];
        codes
            .par_chunks_mut(STRIP * self.cols)
            .zip(self.codes.par_chunks_exact(self.strip_bytes()))
            .for_each(|(rows, packed)| layout::unpack_strip(self.bits, packed, self.cols, rows));
        let scales = self.gather(&self.scales).map(|bits| self.half.decode(bits)).collect();
        let zero_points = self.zeros.iter().flat_map(|zeros| self.gather(zeros)).collect();
        let grid = Grid { scales, zero_points, global_scale: None };
        QTensor::scalar(self.scheme, self.shape(), codes, grid)
    }

    /// Returns the scheme of the codes; its scales have the activations' type.
    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the width of a code.
    pub(crate) fn bits(&self) -> Bits {
        self.bits
    }

    /// Returns the type of the activations.
    pub(crate) fn half(&self) -> Half {
        self.half
    }

    /// Returns [rows, columns], without padding.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Returns the number of columns that share a scale: 32, 64, 128, or all (the padded number).
    pub(crate) fn group(&self) -> usize {
        self.group
    }

    /// Returns the codes, \[strips\]\[tiles\]\[tile\].
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Returns the scales, \[strips\]\[groups\]\[64\], as bits of the activations' type.
    pub(crate) fn scales(&self) -> &[u16] {
        &self.scales
    }

    /// Returns the zero points, \[strips\]\[groups\]\[64\]; `None` if symmetric.
    pub(crate) fn zeros(&self) -> Option<&[u8]> {
        self.zeros.as_deref()
    }

    fn strip_bytes(&self) -> usize {
        self.cols.next_multiple_of(DEPTH) / TILE * self.bits.tile_bytes()
    }

    /// Collects the entries of the scheme's grid from `[strips][groups][64]`.
    fn gather<'a, T: Copy>(&'a self, spread: &'a [T]) -> impl Iterator<Item = T> + 'a {
        let groups = self.cols.next_multiple_of(DEPTH) / self.group;
        let [entry_rows, entries] = self.scheme.grid_shape(self.rows, self.cols);
        let width = self.scheme.width(self.cols);
        (0..entry_rows * entries).map(move |i| {
            let (row, group) = (i / entries, i % entries * width / self.group);
            spread[(row / STRIP * groups + group) * STRIP + layout::scale_place(row % STRIP)]
        })
    }
}

/// Returns the width of the codes, and checks that kernels take the tensor.
fn bits(q: &QTensor) -> Result<Bits> {
    let bits = match q.scheme().number {
        Number::Int { bits: 4 } => Bits::W4,
        Number::Int { bits: 8 } => Bits::W8,
        _ => {
            let what = format!("the CUDA kernels take integers of 4 or 8 bits, not {}", q.scheme());
            return Err(Error::unsupported(what, "quantize with --scheme w4a16 or w8a16, or run on the CPU"));
        }
    };
    if q.g_idx().is_some() {
        let what = "the columns of this tensor are reordered (act-order)";
        return Err(Error::unsupported(what, "quantize without act_order = \"dynamic\", or run on the CPU"));
    }
    if q.rows == 0 || q.cols == 0 || q.rows.max(q.cols) > (i32::MAX as usize - DEPTH) {
        let what =
            format!("a matrix of {}×{}: the CUDA kernels take 1 to 2³¹ rows and columns", q.rows, q.cols);
        return Err(Error::unsupported(what, "exclude this tensor, or split it"));
    }
    Ok(bits)
}

/// Returns the columns that share a scale in the layout: the largest of 32, 64, 128 and all that divides the scheme's
/// groups.
fn group(q: &QTensor) -> Result<usize> {
    let depth = q.cols.next_multiple_of(DEPTH);
    match q.scheme().granularity {
        Granularity::Tensor | Granularity::Channel => Ok(depth),
        Granularity::Group(size) if size >= q.cols => Ok(depth),
        Granularity::Group(size) if size > 0 && size.is_multiple_of(32) => {
            Ok([128, 64, 32].into_iter().find(|group| size.is_multiple_of(*group)).unwrap_or(32))
        }
        granularity => {
            let what = format!("the CUDA kernels take groups of a multiple of 32 columns, not {granularity}");
            Err(Error::unsupported(what, "quantize with --group-size 32, 64 or 128, or per channel"))
        }
    }
}

fn scales(q: &QTensor, group: usize, half: Half) -> Result<Vec<u16>> {
    let given = &q.as_scalar().grid.scales;
    let stored: Vec<u16> = given.iter().map(|scale| half.encode(*scale)).collect();
    if let Some(i) = stored.iter().position(|bits| !half.decode(*bits).is_finite()) {
        let what = format!("a scale of {:e} is too large for {half}", given[i]);
        return Err(Error::unsupported(what, "run with bf16 activations, or scale the weights down"));
    }
    Ok(spread(q, group, |entry| stored[entry]))
}

/// Spreads a value of each grid entry to `[strips][groups][64]`; the padding is zero.
fn spread<T: Copy + Default + Send>(q: &QTensor, group: usize, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let scheme = q.scheme();
    let (strips, groups) = (q.rows.div_ceil(STRIP), q.cols.next_multiple_of(DEPTH) / group);
    let mut out = vec![T::default(); strips * groups * STRIP];
    out.par_chunks_exact_mut(groups * STRIP).enumerate().for_each(|(strip, out)| {
        let first = strip * STRIP;
        for row in first..q.rows.min(first + STRIP) {
            let place = layout::scale_place(row - first);
            for (i, column) in (0..q.cols).step_by(group).enumerate() {
                out[i * STRIP + place] = of(scheme.grid_index(row, column, q.cols));
            }
        }
    });
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::numerics::random::SplitMix64;
    use crate::numerics::{Codes, ScaleType};
    use crate::tensor::BlockType;

    /// Returns a tensor of random codes, with a grid that `half` can represent.
    fn tensor(scheme: Scheme, rows: usize, cols: usize, half: Half, seed: u64) -> QTensor {
        let mut random = SplitMix64(seed);
        let Number::Int { bits } = scheme.number else { panic!("integers only") };
        let levels = 1 << bits;
        let [grid_rows, grid_cols] = scheme.grid_shape(rows, cols);
        let entries = grid_rows * grid_cols;
        let codes = (0..rows * cols).map(|_| random.below(levels) as u8).collect();
        let scales =
            (0..entries).map(|_| half.decode(half.encode((random.unit() * 4.0) as f32 + 1e-3))).collect();
        let zeros = if scheme.symmetric { 0 } else { entries };
        let zero_points = (0..zeros).map(|_| random.below(levels) as u8).collect();
        let grid = Grid { scales, zero_points, global_scale: None };
        QTensor::scalar(scheme, [rows, cols], codes, grid)
    }

    const GRANULARITIES: [Granularity; 9] = {
        use Granularity::*;
        [Tensor, Channel, Group(32), Group(64), Group(96), Group(128), Group(160), Group(256), Group(48_000)]
    };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn packing_and_back_changes_no_bit(
            rows in 1usize..200,
            cols in 1usize..600,
            granularity in prop::sample::select(&GRANULARITIES[..]),
            (eight, symmetric, brain) in any::<(bool, bool, bool)>(),
            seed in any::<u64>(),
        ) {
            let half = if brain { Half::BF16 } else { Half::F16 };
            let scheme = Scheme::int(if eight { 8 } else { 4 }, granularity, symmetric, half.scale_type());
            let q = tensor(scheme, rows, cols, half, seed);
            let packed = PackedMatrix::pack(&q, half).unwrap();
            prop_assert_eq!(packed.codes().len(),
                rows.next_multiple_of(64) * cols.next_multiple_of(128) * usize::from(packed.bits().count()) / 8);
            prop_assert!(packed.unpack() == q);
        }
    }

    /// Reads the scale of each element as a kernel does.
    #[test]
    fn each_element_finds_its_scale_and_zero_point() {
        for granularity in GRANULARITIES {
            let (rows, cols) = (70, 300);
            let scheme = Scheme::int(4, granularity, false, ScaleType::F16);
            let q = tensor(scheme, rows, cols, Half::F16, 3);
            let packed = PackedMatrix::pack(&q, Half::F16).unwrap();
            let groups = 384 / packed.group();
            for (n, k) in (0..rows).flat_map(|n| (0..cols).map(move |k| (n, k))) {
                let place = (n / 64 * groups + k / packed.group()) * 64 + 8 * (n % 8) + n % 64 / 8;
                let entry = scheme.grid_index(n, k, cols);
                assert_eq!(
                    Half::F16.decode(packed.scales()[place]),
                    q.as_scalar().grid.scales[entry],
                    "{granularity} {n} {k}"
                );
                assert_eq!(
                    packed.zeros().unwrap()[place],
                    q.as_scalar().grid.zero_points[entry],
                    "{granularity} {n} {k}"
                );
            }
        }
    }

    fn refused(q: &QTensor) -> String {
        let error = PackedMatrix::pack(q, Half::F16).unwrap_err();
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()));
        error.to_string()
    }

    #[test]
    fn what_no_kernel_takes_is_refused_by_name() {
        let scheme = |bits, granularity| Scheme::int(bits, granularity, true, ScaleType::BF16);
        let good = tensor(scheme(4, Granularity::Group(32)), 4, 64, Half::BF16, 1);
        assert!(refused(&tensor(scheme(3, Granularity::Channel), 4, 64, Half::BF16, 1)).contains("int3"));
        assert!(refused(&tensor(scheme(4, Granularity::Group(48)), 4, 96, Half::BF16, 1)).contains("g48"));
        assert!(
            refused(&tensor(scheme(4, Granularity::Block(2, 32)), 4, 64, Half::BF16, 1)).contains("2x32")
        );
        assert!(refused(&tensor(scheme(4, Granularity::Channel), 0, 64, Half::BF16, 1)).contains("0×64"));
        let changed = |change: &dyn Fn(&mut ScalarCodes)| {
            let mut codes = good.as_scalar().clone();
            change(&mut codes);
            QTensor { codes: Codes::Scalar(codes), ..good }
        };
        let ordered = changed(&|codes| codes.g_idx = Some(vec![0; 64]));
        assert!(refused(&ordered).contains("act-order"));
        let ggml = QTensor::blocks(BlockType::Q4_0, [4, 64], vec![0; 8 * 18]);
        assert!(refused(&ggml).contains("q4_0"));
        let large = changed(&|codes| codes.grid.scales[3] = 1e6);
        assert!(refused(&large).contains("1e6 is too large for f16"));
        assert!(PackedMatrix::pack(&large, Half::BF16).is_ok());
    }
}

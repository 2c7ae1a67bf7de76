//! Which checks there are: every kernel and variant, on shapes that fill no tile.

use std::fmt;

use serde::Serialize;

use super::check::{Checked, check_dequantize, check_product, check_rounded_product};
use super::made::{Case, Weights};
use crate::cuda::{Bits, Choice, Device, Half, Kernel, Properties, TILE_ROWS, W8A8_TILE_ROWS, Workspace};
use crate::error::Result;
use crate::numerics::Granularity;

/// More than a tile of each, with ends that fill none. Odd ones, so that rows of y lie at every address and the last copies of x are
/// of a few bytes: rows of x, rows of W, columns of both, for kernels of few rows and of many.
const SIZES: [[usize; 3]; 2] = [[1, 1001, 4101], [200, 521, 1999]];
/// Rows of W for each processor that fill a GPU with blocks more than once, while their sums are split.
const MANY: usize = 160;

/// Something to check.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    case: Case,
    how: How,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Dequantize,
    Product(Choice),
    Rounded([usize; 2]),
}

/// What was found of a check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// `gemm m64`.
    pub kernel: String,
    /// How the depth was split, how weights are stored, and the sizes.
    pub case: String,
    /// How near it was.
    #[serde(flatten)]
    pub checked: Checked,
}

/// All that a device can run.
pub fn every_check(properties: &Properties) -> Vec<Check> {
    let many = MANY * properties.processors as usize;
    let of_kind = |weights| {
        let dense = Check { case: Case { weights, size: SIZES[0], bias: false }, how: How::Dequantize };
        std::iter::once(dense).chain(products(weights, many))
    };
    let all = every_kind().flat_map(of_kind).chain(rounded());
    all.filter(|check| check.fits(properties)).collect()
}

fn every_kind() -> impl Iterator<Item = Weights> {
    let granularities =
        [Granularity::Group(32), Granularity::Group(64), Granularity::Group(128), Granularity::Channel];
    let layouts =
        granularities.into_iter().flat_map(|granularity| [false, true].map(|zeros| (granularity, zeros)));
    let types =
        || [Bits::W4, Bits::W8].into_iter().flat_map(|bits| [Half::F16, Half::BF16].map(|half| (bits, half)));
    layouts.flat_map(move |(granularity, zeros)| {
        types().map(move |(bits, half)| Weights { bits, half, granularity, zeros, rounded: false })
    })
}

/// Each kernel with a number of rows that fills no tile, the depth whole and in parts.
fn products(weights: Weights, many: usize) -> impl Iterator<Item = Check> {
    let few = [(Kernel::Gemv, 1), (Kernel::GemmSmall, 1), (Kernel::GemmSmall, 5), (Kernel::GemmSmall, 8)];
    let tiles = TILE_ROWS.map(|rows| (Kernel::Gemm(rows), rows + rows / 2 + 1));
    let kernels = few.into_iter().chain(tiles).chain([(Kernel::GemmSm90, 200), (Kernel::Dequantize, 200)]);
    // Whose turn comes last differs from run to run where many blocks share: one kind of each type will show it.
    let also_many = weights.granularity == Granularity::Group(128) && !weights.zeros;
    kernels.flat_map(move |(kernel, rows)| {
        let [_, n, k] = SIZES[usize::from(rows > 8)];
        let bias = rows % 2 == 1 && kernel != Kernel::Dequantize;
        [(n, 1), (n, 3), (many, 3)].into_iter().take(2 + usize::from(also_many)).map(move |(n, splits)| {
            let case = Case { weights, size: [rows, n, k], bias };
            Check { case, how: How::Product(Choice { kernel, splits }) }
        })
    })
}

fn rounded() -> impl Iterator<Item = Check> {
    let tiles = W8A8_TILE_ROWS.into_iter().flat_map(|rows| [Half::F16, Half::BF16].map(|half| (rows, half)));
    tiles.map(|(rows, half)| {
        let weights =
            Weights { bits: Bits::W8, half, granularity: Granularity::Channel, zeros: false, rounded: true };
        let [_, n, k] = SIZES[1];
        Check { case: Case { weights, size: [rows + 1, n, k], bias: true }, how: How::Rounded([rows, 2]) }
    })
}

impl Check {
    /// Devices without the shared memory, the instructions or the library of a kernel are not checked with it.
    fn fits(&self, properties: &Properties) -> bool {
        match self.how {
            How::Product(choice) => choice.fits(properties, &self.case.problem()),
            How::Dequantize | How::Rounded(_) => true,
        }
    }

    /// Carries it out.
    ///
    /// # Errors
    /// What the wrappers and the device refuse; an output that is wrong is none.
    pub fn run(&self, device: &dyn Device, seed: u64, workspace: &mut Workspace) -> Result<Outcome> {
        let checked = match self.how {
            How::Dequantize => check_dequantize(device, &self.case, seed),
            How::Product(choice) => check_product(device, &self.case, choice, seed, workspace),
            How::Rounded(tile) => check_rounded_product(device, &self.case, tile, seed),
        };
        Ok(Outcome { kernel: self.kernel(), case: self.to_string(), checked: checked? })
    }

    fn kernel(&self) -> String {
        match self.how {
            How::Dequantize => "dequantize".to_owned(),
            How::Product(choice) => choice.kernel.to_string(),
            How::Rounded([rows, _]) => Kernel::W8A8(rows).to_string(),
        }
    }

    fn splits(&self) -> usize {
        match self.how {
            How::Dequantize => 1,
            How::Product(choice) => choice.splits,
            How::Rounded([_, splits]) => splits,
        }
    }
}

impl fmt::Display for Check {
    /// `÷3, int4 g128 symmetric f16, 97×521×1999`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Case { weights, size: [m, n, k], .. } = self.case;
        write!(f, "÷{}, {} {}, {m}×{n}×{k}", self.splits(), weights.scheme(), weights.half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::tests::Recorder;

    #[test]
    fn every_variant_of_every_kernel_is_checked() {
        let device = Recorder::h100();
        let checks = every_check(device.properties());
        let with = |kernel: &str| checks.iter().filter(|check| check.kernel() == kernel).count();
        let kinds = 2 * 2 * 4 * 2;
        assert_eq!(every_kind().count(), kinds);
        assert_eq!(with("dequantize"), kinds);
        assert_eq!(with("gemm m64"), 2 * kinds + 4, "whole and in parts; four of many blocks");
        assert_eq!(with("w8a8 m128"), 2);
        let small = Recorder::new(1, 89, 101_376, 128).without_library();
        let there = every_check(small.properties());
        assert!(
            there
                .iter()
                .all(|check| !["gemm_sm90", "gemm m128", "dequantize + cuBLAS"].contains(&&*check.kernel()))
        );
    }
}

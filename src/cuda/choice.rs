//! The choice of kernel, tile and split for a product: measurements of `llmc bench kernels --tune` come first, then
//! rules by shape and device, kept as data.
//!
//! The rules are estimates from the design of the kernels (blocks per processor, the batch from which the matrix units
//! are the limit). They were made before a GPU was at hand: tune if speed matters.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::device::Properties;
use super::layout::{DEPTH, STRIP};
use super::problem::Problem;
use super::types::Bits;
use super::{gemm, gemm_sm90, gemm_small, w8a8};
use crate::error::{Error, Result};

/// A method to compute a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProductKernel {
    /// The kernel [`gemv`](super::gemv()).
    Gemv,
    /// The kernel [`gemm_small`](super::gemm_small()).
    GemmSmall,
    /// The kernel [`gemm`](super::gemm()), with this number of rows per tile.
    Gemm(usize),
    /// The kernel [`gemm_sm90`](super::gemm_sm90()).
    GemmSm90,
    /// The path through the dense weight, [`dequantize_and_multiply`](super::dequantize_and_multiply()).
    Dequantize,
    /// The kernel [`w8a8`](super::w8a8()) after rounding, [`round_and_multiply`](super::w8a8::round_and_multiply()), with
    /// this number of rows per tile.
    #[serde(rename = "w8a8")]
    W8A8(usize),
}

impl ProductKernel {
    /// Returns true if the kernel rounds its inputs to INT8.
    fn rounds(self) -> bool {
        matches!(self, ProductKernel::W8A8(_))
    }
}

impl fmt::Display for ProductKernel {
    /// Writes `gemv`, `gemm m64`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ProductKernel::Gemv => f.write_str("gemv"),
            ProductKernel::GemmSmall => f.write_str("gemm_small"),
            ProductKernel::Gemm(rows) => write!(f, "gemm m{rows}"),
            ProductKernel::GemmSm90 => f.write_str("gemm_sm90"),
            ProductKernel::Dequantize => f.write_str("dequantize + cuBLAS"),
            ProductKernel::W8A8(rows) => write!(f, "w8a8 m{rows}"),
        }
    }
}

/// A kernel, and the number of parts that the depth is split into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Choice {
    /// The kernel.
    pub kernel: ProductKernel,
    /// Number of blocks that share an output; 1 for none.
    pub splits: usize,
}

impl fmt::Display for Choice {
    /// Writes `gemm m64 ÷4`: tiles of 64 rows, the depth in four parts.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.splits {
            1 => write!(f, "{}", self.kernel),
            splits => write!(f, "{} ÷{splits}", self.kernel),
        }
    }
}

impl Choice {
    /// Returns true if a device can compute the problem with this choice.
    pub(crate) fn fits(self, properties: &Properties, problem: &Problem) -> bool {
        is_possible(self.kernel, properties, problem)
    }
}

/// The choice for products of up to `rows` rows on GPUs of some generations.
#[derive(Debug, Clone, Copy)]
struct KernelRule {
    /// First and last compute capability.
    capability: [u32; 2],
    /// Maximum number of rows of x.
    rows: usize,
    /// The kernel.
    kernel: ProductKernel,
    /// Target number of blocks per processor: the depth is split to reach about this number. With 1, the split is the
    /// one that takes the fewest waves.
    blocks: usize,
}

impl KernelRule {
    /// Returns true if the rule is for this device and this number of rows.
    fn applies(&self, properties: &Properties, problem: &Problem) -> bool {
        let [first, last] = self.capability;
        (first..=last).contains(&properties.capability) && problem.size[0] <= self.rows
    }
}

const fn rule(capability: [u32; 2], rows: usize, kernel: ProductKernel, blocks: usize) -> KernelRule {
    KernelRule { capability, rows, kernel, blocks }
}

const ANY: [u32; 2] = [80, u32::MAX];
const AMPERE_AND_ADA: [u32; 2] = [80, 89];
const LITTLE_SHARED: [u32; 2] = [86, 89];
const HOPPER: [u32; 2] = [90, 90];

/// The first rule that fits decides. Kernels that do not fit the device are skipped; so is the vendor's library if
/// there is a bias.
const RULES: &[KernelRule] = &[
    // A block of either kernel takes more than half of the 100 KB of shared memory that a processor of these GPUs has.
    rule(LITTLE_SHARED, 1, ProductKernel::Gemv, 1),
    rule(LITTLE_SHARED, 8, ProductKernel::GemmSmall, 1),
    rule(ANY, 1, ProductKernel::Gemv, 2),
    rule(ANY, 8, ProductKernel::GemmSmall, 2),
    rule(ANY, 16, ProductKernel::Gemm(16), 2),
    rule(ANY, 32, ProductKernel::Gemm(32), 2),
    rule(ANY, 64, ProductKernel::Gemm(64), 1),
    rule(HOPPER, 4096, ProductKernel::GemmSm90, 1),
    rule(AMPERE_AND_ADA, 4096, ProductKernel::Gemm(128), 1),
    rule(AMPERE_AND_ADA, 4096, ProductKernel::Gemm(64), 1),
    rule(ANY, 1024, ProductKernel::Gemm(128), 1),
    rule(ANY, 1024, ProductKernel::Gemm(64), 1),
    rule(ANY, usize::MAX, ProductKernel::Dequantize, 1),
    rule(HOPPER, usize::MAX, ProductKernel::GemmSm90, 1),
    rule(ANY, usize::MAX, ProductKernel::Gemm(128), 1),
    rule(ANY, usize::MAX, ProductKernel::Gemm(64), 1),
    rule(ANY, 32, ProductKernel::W8A8(32), 1),
    rule(ANY, usize::MAX, ProductKernel::W8A8(128), 1),
];

/// The fastest choice measured for one shape on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TunedChoice {
    /// The device's [`Properties::name`].
    pub device: String,
    /// Bits of a code.
    pub bits: Bits,
    /// Rows of W.
    pub n: usize,
    /// Columns of W.
    pub k: usize,
    /// Rows of x. The entry also holds for fewer rows, down to the next measured number.
    pub m: usize,
    /// The fastest choice.
    #[serde(flatten)]
    pub choice: Choice,
}

impl TunedChoice {
    /// Returns true if the entry is for this device and this shape of W.
    fn matches(&self, properties: &Properties, problem: &Problem) -> bool {
        let [_, n, k] = problem.size;
        self.device == properties.name
            && self.bits == problem.bits
            && self.choice.kernel.rounds() == problem.rounded
            && [self.n, self.k] == [n, k]
    }

    /// Returns true if a newer entry is for the same device and shape.
    fn replaced_by(&self, newer: &TunedChoice) -> bool {
        self.device == newer.device
            && self.bits == newer.bits
            && self.choice.kernel.rounds() == newer.choice.kernel.rounds()
            && [self.n, self.k, self.m] == [newer.n, newer.k, newer.m]
    }
}

/// Rules and measurements.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelTable {
    #[serde(default)]
    pub(super) tuned: Vec<TunedChoice>,
}

impl KernelTable {
    /// Creates a table of measurements, which have priority over the rules.
    pub fn new(mut tuned: Vec<TunedChoice>) -> KernelTable {
        tuned.sort_by_key(|entry| entry.m);
        KernelTable { tuned }
    }

    /// Name of the file in llmc's cache folder that holds the measurements of `llmc bench kernels --tune`.
    pub(crate) const FILE: &'static str = "kernels.toml";

    /// Reads the measurements from a cache folder. Without a folder or a file, only the rules apply.
    ///
    /// # Errors
    /// If the file cannot be read or parsed.
    pub fn open(cache: Option<&Path>) -> Result<KernelTable> {
        let Some(path) = cache.map(|folder| folder.join(KernelTable::FILE)) else {
            return Ok(KernelTable::default());
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => KernelTable::parse(&text).map_err(|e| {
                let hint = "remove the file, then run `llmc bench kernels --tune` again";
                Error::malformed(&path, "a table of measured kernels", e.message(), hint)
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(KernelTable::default()),
            Err(e) => Err(Error::io(&path, e)),
        }
    }

    /// Parses the output of [`KernelTable::text`].
    ///
    /// # Errors
    /// The parser's error if the text is not such a table.
    pub(crate) fn parse(text: &str) -> Result<KernelTable, toml::de::Error> {
        toml::from_str::<KernelTable>(text).map(|table| KernelTable::new(table.tuned))
    }

    /// Formats the table as TOML.
    pub(crate) fn text(&self) -> String {
        toml::to_string(self).expect("names and numbers have a form in TOML")
    }

    /// Adds newer measurements; they replace those of the same device and shape.
    pub(crate) fn with(self, newer: Vec<TunedChoice>) -> KernelTable {
        let kept = self.tuned.into_iter().filter(|old| !newer.iter().any(|new| old.replaced_by(new)));
        KernelTable::new(kept.chain(newer.iter().cloned()).collect())
    }

    /// Chooses the kernel and split for a product.
    ///
    /// # Errors
    /// If the GPU is too old for every kernel.
    pub fn choose(&self, properties: &Properties, problem: &Problem) -> Result<Choice> {
        let rules = RULES.iter().filter(|rule| rule.applies(properties, problem));
        let ruled =
            rules.map(|rule| Choice { kernel: rule.kernel, splits: splits(rule, properties, problem) });
        let mut choices = self.measured(properties, problem).into_iter().chain(ruled);
        choices.find(|choice| choice.fits(properties, problem)).ok_or_else(|| {
            let what = format!("{}: compute capability {}", properties.name, properties.capability);
            Error::unsupported(what, "the kernels need 8.0 at least (Ampere); run on the CPU")
        })
    }

    /// Returns the measurement at this shape with the fewest rows that are enough.
    fn measured(&self, properties: &Properties, problem: &Problem) -> Option<Choice> {
        let mut entries = self.tuned.iter().filter(|entry| entry.matches(properties, problem));
        entries.find(|entry| problem.size[0] <= entry.m).map(|entry| entry.choice)
    }
}

/// Returns every choice that can compute a product, for tuning.
pub(super) fn candidates(properties: &Properties, problem: &Problem) -> Vec<Choice> {
    let most_rows = 4 * problem.size[0].max(8);
    let tiles = gemm::TILE_ROWS.into_iter().filter(|rows| *rows < most_rows).map(ProductKernel::Gemm);
    let kernels = [ProductKernel::Gemv, ProductKernel::GemmSmall]
        .into_iter()
        .chain(tiles)
        .chain([ProductKernel::GemmSm90, ProductKernel::Dequantize])
        .chain(w8a8::TILE_ROWS.map(ProductKernel::W8A8));
    let possible = kernels.filter(|kernel| is_possible(*kernel, properties, problem));
    possible.flat_map(|kernel| candidate_splits(kernel, problem)).collect()
}

fn candidate_splits(kernel: ProductKernel, problem: &Problem) -> impl Iterator<Item = Choice> {
    let most = if kernel == ProductKernel::Dequantize { 1 } else { problem.depth() / DEPTH };
    let splits = [1, 2, 3, 4, 6, 8, 12, 16].into_iter().filter(move |splits| *splits <= most);
    splits.map(move |splits| Choice { kernel, splits })
}

fn is_possible(kernel: ProductKernel, properties: &Properties, problem: &Problem) -> bool {
    if kernel.rounds() != problem.rounded {
        return false;
    }
    match kernel {
        ProductKernel::Gemv => problem.size[0] == 1,
        ProductKernel::GemmSmall => problem.size[0] <= gemm_small::MOST_ROWS,
        ProductKernel::Gemm(rows) => {
            gemm::TILE_ROWS.contains(&rows) && gemm::fits(properties, problem.bits, rows)
        }
        ProductKernel::GemmSm90 => gemm_sm90::fits(properties),
        ProductKernel::Dequantize => properties.library && !problem.bias,
        ProductKernel::W8A8(rows) => w8a8::TILE_ROWS.contains(&rows) && problem.bits == Bits::W8,
    }
}

/// Returns the number of parts into which a rule splits the depth. A part has at least 512 columns, because its sums
/// cost a write and a read.
fn splits(rule: &KernelRule, properties: &Properties, problem: &Problem) -> usize {
    let [m, n, _] = problem.size;
    let tiles = match rule.kernel {
        ProductKernel::Gemv | ProductKernel::GemmSmall => n.div_ceil(STRIP),
        ProductKernel::Gemm(rows) => m.div_ceil(rows) * n.div_ceil(gemm::TILE_OUTPUTS),
        ProductKernel::GemmSm90 => m.div_ceil(gemm_sm90::ROWS) * n.div_ceil(gemm::TILE_OUTPUTS),
        ProductKernel::W8A8(rows) => m.div_ceil(rows) * n.div_ceil(w8a8::TILE_OUTPUTS),
        ProductKernel::Dequantize => return 1,
    };
    let processors = properties.processors as usize;
    let most = (problem.depth() / (4 * DEPTH)).max(1);
    if rule.blocks == 1 {
        return fewest_waves(tiles, processors, most);
    }
    (rule.blocks * processors / tiles).clamp(1, most)
}

/// Returns the number of parts that takes the least time if each processor holds one block. A wave of blocks takes as
/// long as its part of the depth; each further part adds about 6 % of a tile for its sums. If there are many waves, the
/// tiles are not split.
fn fewest_waves(tiles: usize, processors: usize, most: usize) -> usize {
    if tiles > 4 * processors {
        return 1;
    }
    let time = |parts: usize| {
        let waves = (tiles * parts).div_ceil(processors) as f64;
        waves / parts as f64 + 0.06 * (parts - 1) as f64
    };
    (1..=most.min(8)).min_by(|a, b| time(*a).total_cmp(&time(*b))).unwrap_or(1)
}

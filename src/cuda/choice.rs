//! Which kernel, tile and split a product takes: rules by shape and device, as data, and what `llmc bench kernels --tune` has
//! measured, which goes before them.
//!
//! The rules are estimates from the shape of the kernels (how many blocks a processor holds, from which batch on the matrix units
//! are the limit), made before a GPU was at hand: tune where speed matters.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::device::Properties;
use super::layout::{DEPTH, STRIP};
use super::{Bits, gemm, gemm_sm90, gemm_small, w8a8};
use crate::error::{Error, Result};

/// A way to compute a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// [`gemv`](super::gemv()).
    Gemv,
    /// [`gemm_small`](super::gemm_small()).
    GemmSmall,
    /// [`gemm`](super::gemm()) in tiles of so many rows.
    Gemm(usize),
    /// [`gemm_sm90`](super::gemm_sm90()).
    GemmSm90,
    /// [`dequantize_and_multiply`](super::dequantize_and_multiply()).
    Dequantize,
    /// [`round_and_multiply`](super::round_and_multiply()) in tiles of so many rows.
    #[serde(rename = "w8a8")]
    W8A8(usize),
}

impl Kernel {
    /// Whether it rounds its inputs to INT8.
    fn rounds(self) -> bool {
        matches!(self, Kernel::W8A8(_))
    }
}

impl fmt::Display for Kernel {
    /// `gemv`, `gemm m64`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Kernel::Gemv => f.write_str("gemv"),
            Kernel::GemmSmall => f.write_str("gemm_small"),
            Kernel::Gemm(rows) => write!(f, "gemm m{rows}"),
            Kernel::GemmSm90 => f.write_str("gemm_sm90"),
            Kernel::Dequantize => f.write_str("dequantize + cuBLAS"),
            Kernel::W8A8(rows) => write!(f, "w8a8 m{rows}"),
        }
    }
}

/// A kernel, and into how many parts the depth is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Choice {
    /// Which kernel.
    pub kernel: Kernel,
    /// Blocks that share an output; 1 for none.
    pub splits: usize,
}

impl fmt::Display for Choice {
    /// `gemm m64 ÷4`: in tiles of 64 rows, the depth in four parts.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.splits {
            1 => write!(f, "{}", self.kernel),
            splits => write!(f, "{} ÷{splits}", self.kernel),
        }
    }
}

impl Choice {
    /// Whether a device can compute a problem so.
    pub fn fits(self, properties: &Properties, problem: &Problem) -> bool {
        is_possible(self.kernel, properties, problem)
    }
}

/// What is to be computed, as far as choosing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// Bits of a code.
    pub bits: Bits,
    /// Rows of x, rows of W, columns of both.
    pub size: [usize; 3],
    /// With a bias.
    pub bias: bool,
    /// Of inputs rounded to INT8.
    pub rounded: bool,
}

impl Problem {
    /// Columns with their padding.
    fn depth(&self) -> usize {
        self.size[2].next_multiple_of(DEPTH)
    }
}

/// What is chosen for products of up to `rows` rows on GPUs of some generations.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// Compute capabilities, first and last.
    capability: [u32; 2],
    /// Most rows of x.
    rows: usize,
    /// Which kernel.
    kernel: Kernel,
    /// The depth is split until each processor has about so many blocks; of one, so that they take the fewest waves.
    blocks: usize,
}

const fn rule(capability: [u32; 2], rows: usize, kernel: Kernel, blocks: usize) -> Rule {
    Rule { capability, rows, kernel, blocks }
}

const ANY: [u32; 2] = [80, u32::MAX];
const AMPERE_AND_ADA: [u32; 2] = [80, 89];
const LITTLE_SHARED: [u32; 2] = [86, 89];
const HOPPER: [u32; 2] = [90, 90];

/// The first that fits counts. Kernels that do not fit the device, and the vendor's library where there is a bias, are passed over.
const RULES: &[Rule] = &[
    // A block of each takes more than half of the 100 KB of shared memory that a processor of these has.
    rule(LITTLE_SHARED, 1, Kernel::Gemv, 1),
    rule(LITTLE_SHARED, 8, Kernel::GemmSmall, 1),
    rule(ANY, 1, Kernel::Gemv, 2),
    rule(ANY, 8, Kernel::GemmSmall, 2),
    rule(ANY, 16, Kernel::Gemm(16), 2),
    rule(ANY, 32, Kernel::Gemm(32), 2),
    rule(ANY, 64, Kernel::Gemm(64), 1),
    rule(HOPPER, 4096, Kernel::GemmSm90, 1),
    rule(AMPERE_AND_ADA, 4096, Kernel::Gemm(128), 1),
    rule(AMPERE_AND_ADA, 4096, Kernel::Gemm(64), 1),
    rule(ANY, 1024, Kernel::Gemm(128), 1),
    rule(ANY, 1024, Kernel::Gemm(64), 1),
    rule(ANY, usize::MAX, Kernel::Dequantize, 1),
    rule(HOPPER, usize::MAX, Kernel::GemmSm90, 1),
    rule(ANY, usize::MAX, Kernel::Gemm(128), 1),
    rule(ANY, usize::MAX, Kernel::Gemm(64), 1),
    rule(ANY, 32, Kernel::W8A8(32), 1),
    rule(ANY, usize::MAX, Kernel::W8A8(128), 1),
];

/// The fastest choice found for one shape on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// [`Properties::name`].
    pub device: String,
    /// Bits of a code.
    pub bits: Bits,
    /// Rows of W.
    pub n: usize,
    /// Columns of W.
    pub k: usize,
    /// Rows of x: it holds for fewer too, down to the next that was measured.
    pub m: usize,
    /// What was fastest.
    #[serde(flatten)]
    pub choice: Choice,
}

/// Rules, and what was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    #[serde(default)]
    tuned: Vec<Tuned>,
}

impl Table {
    /// The rules, with what was measured before them.
    pub fn new(mut tuned: Vec<Tuned>) -> Table {
        tuned.sort_by_key(|entry| entry.m);
        Table { tuned }
    }

    /// Where `llmc bench kernels --tune` keeps what it has measured, in llmc's cache folder.
    pub const FILE: &'static str = "kernels.toml";

    /// What was kept in a cache folder; the rules alone where there is nothing.
    ///
    /// # Errors
    /// A file that cannot be read, or is something else.
    pub fn open(cache: Option<&Path>) -> Result<Table> {
        let Some(path) = cache.map(|folder| folder.join(Table::FILE)) else { return Ok(Table::default()) };
        match std::fs::read_to_string(&path) {
            Ok(text) => Table::parse(&text).map_err(|e| {
                let hint = "remove the file, then run `llmc bench kernels --tune` again";
                Error::malformed(&path, "a table of measured kernels", e.message(), hint)
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Table::default()),
            Err(e) => Err(Error::io(&path, e)),
        }
    }

    /// What [`Table::text`] has written.
    ///
    /// # Errors
    /// The parser's words, where it is something else.
    pub fn parse(text: &str) -> Result<Table, toml::de::Error> {
        toml::from_str::<Table>(text).map(|table| Table::new(table.tuned))
    }

    /// As TOML.
    pub fn text(&self) -> String {
        toml::to_string(self).expect("names and numbers have a form in TOML")
    }

    /// With newer measurements in the place of those of the same device and shape.
    pub fn with(self, newer: Vec<Tuned>) -> Table {
        let same = |a: &Tuned, b: &Tuned| {
            let sizes =
                |entry: &Tuned| (entry.bits, entry.choice.kernel.rounds(), [entry.n, entry.k, entry.m]);
            a.device == b.device && sizes(a) == sizes(b)
        };
        let kept = self.tuned.into_iter().filter(|old| !newer.iter().any(|new| same(old, new)));
        Table::new(kept.chain(newer.iter().cloned()).collect())
    }

    /// What was measured.
    pub fn tuned(&self) -> &[Tuned] {
        &self.tuned
    }

    /// What is chosen for a product.
    ///
    /// # Errors
    /// Where the GPU is too old for every kernel.
    pub fn choose(&self, properties: &Properties, problem: &Problem) -> Result<Choice> {
        let applies = |rule: &&Rule| {
            let [first, last] = rule.capability;
            (first..=last).contains(&properties.capability) && problem.size[0] <= rule.rows
        };
        let of = |rule: &Rule| Choice { kernel: rule.kernel, splits: splits(rule, properties, problem) };
        let choices = self.measured(properties, problem).into_iter();
        let mut choices = choices.chain(RULES.iter().filter(applies).map(of));
        choices.find(|choice| choice.fits(properties, problem)).ok_or_else(|| {
            let what = format!("{}: compute capability {}", properties.name, properties.capability);
            Error::unsupported(what, "the kernels need 8.0 at least (Ampere); run on the CPU")
        })
    }

    /// The measurement at this shape with the fewest rows that are enough.
    fn measured(&self, properties: &Properties, problem: &Problem) -> Option<Choice> {
        let [m, n, k] = problem.size;
        let of = |entry: &Tuned| (entry.bits, entry.choice.kernel.rounds(), [entry.n, entry.k]);
        let same = |entry: &&Tuned| {
            entry.device == properties.name && of(entry) == (problem.bits, problem.rounded, [n, k])
        };
        self.tuned.iter().filter(same).find(|entry| m <= entry.m).map(|entry| entry.choice)
    }
}

/// Every way in which a product could be computed, for tuning.
pub(super) fn candidates(properties: &Properties, problem: &Problem) -> Vec<Choice> {
    let most_rows = 4 * problem.size[0].max(8);
    let tiles = gemm::TILE_ROWS.into_iter().filter(|rows| *rows < most_rows).map(Kernel::Gemm);
    let kernels = [Kernel::Gemv, Kernel::GemmSmall]
        .into_iter()
        .chain(tiles)
        .chain([Kernel::GemmSm90, Kernel::Dequantize])
        .chain(w8a8::TILE_ROWS.map(Kernel::W8A8));
    let possible = kernels.filter(|kernel| is_possible(*kernel, properties, problem));
    let splits = |kernel| {
        let most = if kernel == Kernel::Dequantize { 1 } else { problem.depth() / DEPTH };
        [1, 2, 3, 4, 6, 8, 12, 16].into_iter().filter(move |splits| *splits <= most)
    };
    possible.flat_map(|kernel| splits(kernel).map(move |splits| Choice { kernel, splits })).collect()
}

fn is_possible(kernel: Kernel, properties: &Properties, problem: &Problem) -> bool {
    if kernel.rounds() != problem.rounded {
        return false;
    }
    match kernel {
        Kernel::Gemv => problem.size[0] == 1,
        Kernel::GemmSmall => problem.size[0] <= gemm_small::MOST_ROWS,
        Kernel::Gemm(rows) => gemm::TILE_ROWS.contains(&rows) && gemm::fits(properties, problem.bits, rows),
        Kernel::GemmSm90 => gemm_sm90::fits(properties),
        Kernel::Dequantize => properties.library && !problem.bias,
        Kernel::W8A8(rows) => w8a8::TILE_ROWS.contains(&rows) && problem.bits == Bits::W8,
    }
}

/// Into how many parts a rule splits the depth, of 512 columns at least: the sums of a part cost a write and a read.
fn splits(rule: &Rule, properties: &Properties, problem: &Problem) -> usize {
    let [m, n, _] = problem.size;
    let tiles = match rule.kernel {
        Kernel::Gemv | Kernel::GemmSmall => n.div_ceil(STRIP),
        Kernel::Gemm(rows) => m.div_ceil(rows) * n.div_ceil(gemm::TILE_OUTPUTS),
        Kernel::GemmSm90 => m.div_ceil(gemm_sm90::ROWS) * n.div_ceil(gemm::TILE_OUTPUTS),
        Kernel::W8A8(rows) => m.div_ceil(rows) * n.div_ceil(w8a8::TILE_OUTPUTS),
        Kernel::Dequantize => return 1,
    };
    let (processors, most) = (properties.processors as usize, (problem.depth() / (4 * DEPTH)).max(1));
    match rule.blocks {
        1 => fewest_waves(tiles, processors, most),
        blocks => (blocks * processors / tiles).clamp(1, most),
    }
}

/// The parts with which tiles take the least time on processors that hold a block each: a wave of blocks takes as long as its part of the
/// depth, and each further part some 6 % of a whole tile for its sums. Many waves fill the processors as they are.
fn fewest_waves(tiles: usize, processors: usize, most: usize) -> usize {
    let time =
        |parts: usize| (tiles * parts).div_ceil(processors) as f64 / parts as f64 + 0.06 * (parts - 1) as f64;
    let most = if tiles > 4 * processors { 1 } else { most.min(8) };
    (1..=most).min_by(|a, b| time(*a).total_cmp(&time(*b))).unwrap_or(1)
}

//! `llmc bench kernels`: what is checked and timed is `cuda::measure`'s; here are its arguments, its files and its words.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::super::Context;
use crate::cuda::measure::{self, Case, Checked, Layer, Machine, Report, Timing, Weights};
use crate::cuda::{self, Bits, Choice, Device, Half, Kernel, TILE_ROWS, Table, W8A8_TILE_ROWS, Workspace};
use crate::error::{Error, Result};
use crate::io::{cache_folder, readable_by_all};
use crate::numerics::Granularity;

/// Check and time the CUDA kernels on this machine's GPU
///
/// First every kernel, on fresh random numbers, against sums in float64; then times with cold caches, through CUDA graphs, beside
/// cuBLAS on the same shapes. Prints a Markdown table, or JSON with --json.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc bench kernels --shapes llama-70b --batch 1,16,1024
  llmc bench kernels --tune --out docs/measured")]
pub struct Arguments {
    /// Whose layers: square, llama-7b, llama-8b, llama-70b, qwen2.5-7b, qwen3-8b, qwen3-32b, mistral-24b
    #[arg(long, value_delimiter = ',', value_name = "MODELS", default_value = "square,llama-70b")]
    shapes: Vec<String>,
    /// Rows of the input
    #[arg(long, value_delimiter = ',', value_name = "ROWS", default_values_t = measure::BATCHES)]
    batch: Vec<usize>,
    /// How weights are stored: w4 or w8, then -g32, -g64, -g128 or -channel, then -zero for zero points; or w8a8
    #[arg(long, value_delimiter = ',', value_name = "KINDS", default_value = "w4-g128,w8-channel,w8a8")]
    weights: Vec<Kind>,
    /// The type of inputs and outputs
    #[arg(long, value_enum, default_value = "f16")]
    activations: Activations,
    /// Runs of each, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 20)]
    runs: usize,
    /// Which GPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    device: usize,
    /// Check, do not time
    #[arg(long, conflicts_with = "tune")]
    check: bool,
    /// Time every kernel, tile and split at these shapes, and keep the fastest for later runs
    #[arg(long)]
    tune: bool,
    /// Also write kernels.md and kernels.json to this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Activations {
    F16,
    Bf16,
}

impl Activations {
    fn half(self) -> Half {
        match self {
            Activations::F16 => Half::F16,
            Activations::Bf16 => Half::BF16,
        }
    }
}

/// A way to store weights.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Kind {
    bits: Bits,
    granularity: Granularity,
    zeros: bool,
    /// INT8 inputs too.
    rounded: bool,
}

impl Kind {
    fn weights(self, half: Half) -> Weights {
        let Kind { bits, granularity, zeros, rounded } = self;
        Weights { bits, half, granularity, zeros, rounded }
    }
}

const W8A8: Kind = Kind { bits: Bits::W8, granularity: Granularity::Channel, zeros: false, rounded: true };

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        if text == "w8a8" {
            return Ok(W8A8);
        }
        let (text, zeros) = text.strip_suffix("-zero").map_or((text, false), |rest| (rest, true));
        let (bits, group) = text.split_once('-').ok_or("expected, say, w4-g128")?;
        let bits = match bits {
            "w4" => Bits::W4,
            "w8" => Bits::W8,
            _ => return Err(format!("{bits}: expected w4 or w8")),
        };
        let granularity = match group {
            "channel" => Granularity::Channel,
            "g32" => Granularity::Group(32),
            "g64" => Granularity::Group(64),
            "g128" => Granularity::Group(128),
            _ => return Err(format!("{group}: expected g32, g64, g128 or channel")),
        };
        Ok(Kind { bits, granularity, zeros, rounded: false })
    }
}

/// Checks, times, prints.
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let layers = measure::layers(&arguments.shapes)?;
    if arguments.runs == 0 || arguments.batch.contains(&0) {
        return Err(Error::usage(
            "nothing to measure: a number is 0",
            "give --runs and --batch positive numbers",
        ));
    }
    let device = cuda::open(arguments.device)?;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
    let date = chrono::Local::now().format("%Y-%m-%d").to_string();
    let machine = Machine::new(device.properties(), date, clocks(&device.properties().uuid));
    context.say(&format!("{}: checking, with seed {seed}", machine.device));
    let checks = check_all(&*device, seed)?;
    let mut report = Report { machine, checks, ceilings: None, timed: Vec::new() };
    if !arguments.check {
        let timing = Timing { runs: arguments.runs, batches: arguments.batch.clone(), seed };
        arguments.time(&*device, &layers, &timing, &mut report, context)?;
    }
    if let Some(folder) = &arguments.out {
        write_report(folder, &report)?;
    }
    context.print(|| report.markdown(), || json!(report))
}

impl Arguments {
    /// Tunes where asked, then times.
    fn time(
        &self,
        device: &dyn Device,
        layers: &[Layer],
        timing: &Timing,
        report: &mut Report,
        context: &Context,
    ) -> Result<()> {
        let (ceilings, half) = (measure::ceilings(device, timing.runs)?, self.activations.half());
        report.ceilings = Some(ceilings);
        let kinds = || self.weights.iter().map(|kind| kind.weights(half));
        let all = || kinds().flat_map(|weights| layers.iter().map(move |layer| (layer, weights)));
        let mut table = Table::open(cache_folder().as_deref())?;
        if self.tune {
            for (layer, weights) in all() {
                context.say(&format!("tuning {} {} {}", layer.model, layer.name, weights.name()));
                table = table.with(measure::tune(device, layer, &weights, timing)?);
            }
            write_table(&table)?;
        }
        for (layer, weights) in all() {
            context.say(&format!("timing {} {} {}", layer.model, layer.name, weights.name()));
            report.timed.extend(measure::time_layer(device, (layer, &weights), &table, timing)?);
        }
        Ok(())
    }
}

/// Rows, rows of W and columns: more than a tile of each, with ends that fill none.
/// Odd ones, so that rows of y lie at every address and the last copies of x are of a few bytes.
const CHECKED: [[usize; 3]; 2] = [[1, 1001, 4101], [200, 521, 1999]];
/// Rows of W for each processor that fill a GPU with blocks more than once, while their sums are split.
const MANY: usize = 160;

/// Every kernel and variant, on random numbers.
fn check_all(device: &dyn Device, seed: u64) -> Result<Vec<(String, Checked)>> {
    let mut checks = Vec::new();
    // One for all: what a launch leaves there is the next one's.
    let mut workspace = Workspace::new();
    let all = MANY * device.properties().processors as usize;
    for weights in every_kind() {
        let case = Case { weights, size: CHECKED[0], bias: false };
        let checked = measure::check_dequantize(device, &case, seed)?;
        checks.push((format!("dequantize {}", describe(&case)), checked));
        for (kernel, rows) in kernels_to_check() {
            let [_, n, k] = CHECKED[usize::from(rows > 8)];
            // Whose turn comes last differs from run to run where many blocks share: one kind of each type will show it.
            let many = weights.granularity == Granularity::Group(128) && !weights.zeros;
            for (n, splits) in [(n, 1), (n, 3), (all, 3)].into_iter().take(2 + usize::from(many)) {
                let bias = rows % 2 == 1 && kernel != Kernel::Dequantize;
                let case = Case { weights, size: [rows, n, k], bias };
                let choice = Choice { kernel, splits };
                let checked = check_one(device, &case, choice, seed, &mut workspace);
                checks.extend(
                    checked?.map(|checked| (format!("{kernel} ÷{splits} {}", describe(&case)), checked)),
                );
            }
        }
    }
    for half in [Half::F16, Half::BF16] {
        let weights = W8A8.weights(half);
        for rows in W8A8_TILE_ROWS {
            let case = Case { weights, size: [rows + 1, CHECKED[1][1], CHECKED[1][2]], bias: true };
            let checked = measure::check_rounded_product(device, &case, [rows, 2], seed)?;
            checks.push((format!("w8a8 m{rows} ÷2 {}", describe(&case)), checked));
        }
    }
    checks.into_iter().map(|(what, checked)| Ok((what.clone(), checked.hold(&what)?))).collect()
}

/// One product; `None` where the device is too small for the tile, is no Hopper, or has no library.
fn check_one(
    device: &dyn Device,
    case: &Case,
    choice: Choice,
    seed: u64,
    workspace: &mut Workspace,
) -> Result<Option<Checked>> {
    if !choice.fits(device.properties(), &case.problem()) {
        return Ok(None);
    }
    measure::check_product(device, case, choice, seed, workspace).map(Some)
}

fn every_kind() -> impl Iterator<Item = Weights> {
    let granularities =
        [Granularity::Group(32), Granularity::Group(64), Granularity::Group(128), Granularity::Channel];
    let bits = [Bits::W4, Bits::W8].into_iter();
    let kinds = bits.flat_map(move |bits| granularities.map(|granularity| (bits, granularity)));
    let kinds = kinds.flat_map(|(bits, granularity)| {
        [false, true].map(|zeros| Kind { bits, granularity, zeros, rounded: false })
    });
    kinds.flat_map(|kind| [Half::F16, Half::BF16].map(|half| kind.weights(half)))
}

/// Each kernel with a number of rows that fills no tile.
fn kernels_to_check() -> impl Iterator<Item = (Kernel, usize)> {
    let few = [(Kernel::Gemv, 1), (Kernel::GemmSmall, 1), (Kernel::GemmSmall, 5), (Kernel::GemmSmall, 8)];
    let tiles = TILE_ROWS.map(|rows| (Kernel::Gemm(rows), rows + rows / 2 + 1));
    few.into_iter().chain(tiles).chain([(Kernel::GemmSm90, 200), (Kernel::Dequantize, 200)])
}

fn describe(case: &Case) -> String {
    let [m, n, k] = case.size;
    format!("{} {} {m}×{n}×{k}", case.weights.scheme(), case.weights.half)
}

/// What nvidia-smi says of a GPU's clocks and power, where it is there.
fn clocks(uuid: &str) -> Option<String> {
    let query = "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu";
    let mut command = Command::new("nvidia-smi");
    let output = command.args([query, "--format=csv,noheader", "-i", uuid]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(format!("SM clock, its maximum, memory clock, power limit, °C: {}", text.trim()))
}

fn write_table(table: &Table) -> Result<()> {
    let path = cache_folder().map(|folder| folder.join(Table::FILE)).ok_or_else(|| {
        Error::usage("--tune: there is no home folder to keep the table in", "set XDG_CACHE_HOME")
    })?;
    write(&path, &table.text())
}

fn write_report(folder: &Path, report: &Report) -> Result<()> {
    write(&folder.join("kernels.md"), &report.markdown())?;
    write(&folder.join("kernels.json"), &format!("{:#}\n", json!(report)))
}

/// Through a temporary that is renamed, in a folder that is made where it is not there.
fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let mut file = readable_by_all().tempfile_in(folder).map_err(|e| Error::io(folder, e))?;
    file.write_all(text.as_bytes()).map_err(|e| Error::io(path, e))?;
    file.persist(path).map(|_| ()).map_err(|e| Error::io(path, e.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_weights_by_name() {
        let kind = |bits, granularity, zeros| Ok(Kind { bits, granularity, zeros, rounded: false });
        assert_eq!("w8a8".parse().map(|kind: Kind| kind.rounded), Ok(true));
        assert_eq!("w4-g128".parse(), kind(Bits::W4, Granularity::Group(128), false));
        assert_eq!("w8-channel-zero".parse(), kind(Bits::W8, Granularity::Channel, true));
        for wrong in ["w4", "w5-g128", "w4-g48", "w4-zero", ""] {
            assert!(wrong.parse::<Kind>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_variant_is_checked() {
        assert_eq!(every_kind().count(), 2 * 4 * 2 * 2);
        assert_eq!(kernels_to_check().count(), 4 + TILE_ROWS.len() + 2);
    }
}

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
use crate::cuda::measure::{self, Check, Layer, Machine, Outcome, Report, Timing, Weights};
use crate::cuda::{self, Bits, Device, Half, Table, Workspace};
use crate::error::{Error, Result};
use crate::io::{cache_folder, readable_by_all};
use crate::numerics::Granularity;

/// Check and time the CUDA kernels on this machine's GPU
///
/// First every kernel and variant, on fresh random numbers of shapes that fill no tile, against sums in float64. Then times with cold
/// caches, through CUDA graphs, beside cuBLAS on the same shapes where it is found. Prints a Markdown table, or JSON with --json.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc bench kernels --shapes llama-70b,4096x14336 --batch 1,16,1024
  llmc bench kernels --tune --out report")]
pub struct Arguments {
    /// Whose layers: square, llama-7b, llama-8b, llama-70b, qwen2.5-7b, qwen3-8b, qwen3-32b, mistral-24b; or OUTPUTSxINPUTS
    #[arg(long, value_delimiter = ',', value_name = "MODELS", default_value = "square,llama-70b")]
    shapes: Vec<String>,
    /// Rows of the input
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "ROWS",
        default_value = "1,2,4,8,16,32,64,128,256,512,1024,2048,4096"
    )]
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
    /// Which GPU: its number, or cuda:NUMBER
    #[arg(long, value_name = "N", default_value = "0", value_parser = number)]
    device: usize,
    /// Of the random numbers, to see again what an earlier run saw; the clock's otherwise
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Check, do not time
    #[arg(long, conflicts_with_all = ["tune", "shapes", "batch", "weights", "activations", "runs"])]
    check: bool,
    /// Time every kernel, tile and split at these shapes, and keep the fastest for later runs on this kind of GPU
    #[arg(long)]
    tune: bool,
    /// Also write kernels.md and kernels.json to this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Parses `--device`, which commands that run a model write cuda:NUMBER.
fn number(text: &str) -> Result<usize, String> {
    let number = text.strip_prefix("cuda").map_or(text, |rest| rest.strip_prefix(':').unwrap_or("0"));
    number.parse().map_err(|_| "expected a number, or cuda:NUMBER".to_owned())
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
        let (bits, group) = text.split_once('-').unwrap_or((text, ""));
        let bits = match bits {
            "w4" => Bits::W4,
            "w8" => Bits::W8,
            _ => return Err(format!("{bits}: expected w4 or w8, as in w4-g128, or w8a8")),
        };
        let granularity = match group {
            "channel" => Granularity::Channel,
            "g32" => Granularity::Group(32),
            "g64" => Granularity::Group(64),
            "g128" => Granularity::Group(128),
            _ => return Err(format!("{text}: expected -g32, -g64, -g128 or -channel behind w4 or w8")),
        };
        Ok(Kind { bits, granularity, zeros, rounded: false })
    }
}

/// Checks, times, prints.
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let layers = measure::layers(&arguments.shapes)?;
    arguments.validate()?;
    let device = cuda::open(arguments.device)?;
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
    let seed = arguments.seed.unwrap_or_else(clock);
    let date = chrono::Local::now().format("%Y-%m-%d").to_string();
    let machine = Machine::new(device.properties(), date, clocks(&device.properties().uuid), seed);
    context.say(&format!("{}, seed {seed}", machine.device));
    if !device.properties().library {
        eprintln!(
            "note: cuBLAS was not found (LD_LIBRARY_PATH names its folder): nothing is compared with it"
        );
    }
    let mut report =
        Report { machine, checks: check_all(&*device, seed, context)?, ceilings: None, timed: Vec::new() };
    if !arguments.check && report.hold().is_ok() {
        let timing = Timing { runs: arguments.runs, batches: arguments.batch.clone(), seed };
        arguments.time(&*device, &layers, &timing, &mut report, context)?;
    }
    if let Some(folder) = &arguments.out {
        write(&folder.join("kernels.md"), &report.markdown())?;
        write(&folder.join("kernels.json"), &format!("{:#}\n", json!(report)))?;
    }
    context.print(|| report.markdown(), || json!(report))?;
    report.hold()
}

impl Arguments {
    /// Looks at what would otherwise fail after the work.
    fn validate(&self) -> Result<()> {
        for (name, wrong) in [("--runs", self.runs == 0), ("--batch", self.batch.contains(&0))] {
            if wrong {
                return Err(Error::usage(format!("{name}: nothing to measure: 0"), "give positive numbers"));
            }
        }
        self.out
            .as_ref()
            .map_or(Ok(()), |folder| fs::create_dir_all(folder).map_err(|e| Error::io(folder, e)))?;
        if self.tune { tuned_file().map(|_| ()) } else { Ok(()) }
    }

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
            let path = tuned_file()?;
            for (layer, weights) in all() {
                context.say(&format!("tuning {} {} {}", layer.model, layer.name, weights.name()));
                table = table.with(measure::tune(device, layer, &weights, timing)?);
                write(&path, &table.text())?;
            }
            context.say(&format!("{}: the fastest of each, for later runs", path.display()));
        }
        for (layer, weights) in all() {
            context.say(&format!("timing {} {} {}", layer.model, layer.name, weights.name()));
            report.timed.extend(measure::time_layer(device, (layer, &weights), &table, timing)?);
        }
        Ok(())
    }
}

/// Every kernel and variant. What is wrong is told when all have been looked at.
fn check_all(device: &dyn Device, seed: u64, context: &Context) -> Result<Vec<Outcome>> {
    let checks = measure::every_check(device.properties());
    let bar = context.bar(checks.len() as u64, "{msg} [{wide_bar}] {pos}/{len} eta {eta}", "checking");
    // One for all: what a launch leaves there is the next one's.
    let mut workspace = Workspace::new();
    let run = |check: &Check| {
        bar.inc(1);
        check.run(device, seed, &mut workspace)
    };
    let outcomes = checks.iter().map(run).collect();
    bar.finish_and_clear();
    outcomes
}

/// What nvidia-smi says of a GPU's clocks and power, where it is there.
fn clocks(uuid: &str) -> Option<String> {
    let query = "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu";
    let mut command = Command::new("nvidia-smi");
    let output = command.args([query, "--format=csv,noheader", "-i", uuid]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(format!("SM clock, its maximum, memory clock, power limit, °C: {}", text.trim()))
}

/// Where the fastest choices are kept.
fn tuned_file() -> Result<PathBuf> {
    let folder = cache_folder().ok_or_else(|| {
        Error::usage("--tune: there is no home folder to keep the table in", "set XDG_CACHE_HOME")
    })?;
    Ok(folder.join(Table::FILE))
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
            assert!(wrong.parse::<Kind>().unwrap_err().contains(": expected "), "{wrong}");
        }
    }

    #[test]
    fn a_device_by_its_number_or_as_models_name_it() {
        assert_eq!(["3", "cuda:3", "cuda"].map(number), [Ok(3), Ok(3), Ok(0)]);
        for wrong in ["", "cuda:", "cpu", "-1"] {
            assert_eq!(number(wrong), Err("expected a number, or cuda:NUMBER".to_owned()), "{wrong}");
        }
    }
}

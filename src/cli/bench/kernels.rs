//! `llmc bench kernels`: its arguments, files and messages. The checks and timings are in `cuda::measure`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::terminal;
use crate::cuda::measure::{self, KernelReport, Layer, Machine, Outcome, TimingOptions, WeightFormat};
use crate::cuda::{self, Bits, Device, Half, KernelTable, Workspace};
use crate::error::{Error, Result};
use crate::io::{cache_folder, folder_of, readable_by_all};
use crate::job::{Host, Phase};
use crate::numerics::Granularity;

/// Check and time the CUDA kernels on this machine's GPU
///
/// First checks every kernel and variant against sums in float64, on new random numbers and shapes that fill no tile. Then
/// measures times with cold caches, through CUDA graphs; if cuBLAS is found, also its times on the same shapes. Prints a
/// Markdown table, or JSON with --json.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc bench kernels --shapes llama-70b,4096x14336 --batch 1,16,1024
  llmc bench kernels --tune --out report")]
pub(crate) struct Arguments {
    /// Models of the layers: square, llama-7b, llama-8b, llama-70b, qwen2.5-7b, qwen3-8b, qwen3-32b, mistral-24b; or OUTPUTSxINPUTS
    #[arg(long, value_delimiter = ',', value_name = "MODELS", default_value = "square,llama-70b")]
    shapes: Vec<String>,
    /// Numbers of rows of the input
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "ROWS",
        default_value = "1,2,4,8,16,32,64,128,256,512,1024,2048,4096"
    )]
    batch: Vec<usize>,
    /// Formats of the weights: w4 or w8, then -g32, -g64, -g128 or -channel, then -zero for zero points; or w8a8
    #[arg(long, value_delimiter = ',', value_name = "KINDS", default_value = "w4-g128,w8-channel,w8a8")]
    weights: Vec<WeightKind>,
    /// Type of inputs and outputs
    #[arg(long, value_enum, default_value = "f16")]
    activations: ActivationType,
    /// Number of runs; the median counts
    #[arg(long, value_name = "N", default_value_t = 20)]
    runs: usize,
    /// GPU: its number, or cuda:NUMBER
    #[arg(long, value_name = "N", default_value = "0", value_parser = number)]
    device: usize,
    /// Seed of the random numbers, to repeat an earlier run; by default from the clock
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Check only, without timing
    #[arg(long, conflicts_with_all = ["tune", "shapes", "batch", "weights", "activations", "runs"])]
    check: bool,
    /// Time every kernel, tile and split at these shapes, and save the fastest for later runs on this kind of GPU
    #[arg(long)]
    tune: bool,
    /// Also write kernels.md and kernels.json to this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Parses `--device`: a number, or cuda:NUMBER as in commands that run a model.
fn number(text: &str) -> Result<usize, String> {
    let number = text.strip_prefix("cuda").map_or(text, |rest| rest.strip_prefix(':').unwrap_or("0"));
    number.parse().map_err(|_| "expected a number, or cuda:NUMBER".to_owned())
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ActivationType {
    F16,
    Bf16,
}

impl ActivationType {
    fn half(self) -> Half {
        match self {
            ActivationType::F16 => Half::F16,
            ActivationType::Bf16 => Half::BF16,
        }
    }
}

/// A format of weights.
#[derive(Debug, Clone, Copy, PartialEq)]
struct WeightKind {
    bits: Bits,
    granularity: Granularity,
    zeros: bool,
    /// True for INT8 inputs.
    rounded: bool,
}

impl WeightKind {
    fn weights(self, half: Half) -> WeightFormat {
        let WeightKind { bits, granularity, zeros, rounded } = self;
        WeightFormat { bits, half, granularity, zeros, rounded }
    }
}

const W8A8: WeightKind =
    WeightKind { bits: Bits::W8, granularity: Granularity::Channel, zeros: false, rounded: true };

impl FromStr for WeightKind {
    type Err = String;

    fn from_str(text: &str) -> Result<WeightKind, String> {
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
            _ => return Err(format!("{text}: expected -g32, -g64, -g128 or -channel after w4 or w8")),
        };
        Ok(WeightKind { bits, granularity, zeros, rounded: false })
    }
}

/// Checks, times and prints.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let layers = measure::layers(&arguments.shapes)?;
    arguments.validate()?;
    let device = cuda::open(arguments.device)?;
    let seed = arguments.seed.unwrap_or_else(seed_from_clock);
    let date = chrono::Local::now().format("%Y-%m-%d").to_string();
    let machine = Machine::new(device.properties(), date, clocks(&device.properties().uuid), seed);
    context.say(&format!("{}, seed {seed}", machine.device));
    if !device.properties().library {
        terminal::tell(
            "note: cuBLAS was not found, so its times are missing (add its folder to LD_LIBRARY_PATH)",
        );
    }
    let mut report = KernelReport {
        machine,
        checks: check_all(&*device, seed, context)?,
        ceilings: None,
        timed: Vec::new(),
    };
    if !arguments.check && report.hold().is_ok() {
        let timing = TimingOptions { runs: arguments.runs, batches: arguments.batch.clone(), seed };
        arguments.time(&*device, &layers, &timing, &mut report, context)?;
    }
    if let Some(folder) = &arguments.out {
        write(&folder.join("kernels.md"), &report.markdown())?;
        write(&folder.join("kernels.json"), &format!("{:#}\n", json!(report)))?;
    }
    context.print(|| report.markdown(), || json!(report))?;
    report.hold()
}

/// Returns a seed from the clock.
fn seed_from_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64)
}

impl Arguments {
    /// Checks the arguments for errors that would otherwise appear after the work.
    fn validate(&self) -> Result<()> {
        for (name, wrong) in [("--runs", self.runs == 0), ("--batch", self.batch.contains(&0))] {
            if wrong {
                return Err(Error::usage(
                    format!("{name}: 0 leaves nothing to measure"),
                    "give positive numbers",
                ));
            }
        }
        if let Some(folder) = &self.out {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        if self.tune {
            tuned_file()?;
        }
        Ok(())
    }

    /// Tunes if requested, then times.
    fn time(
        &self,
        device: &dyn Device,
        layers: &[Layer],
        timing: &TimingOptions,
        report: &mut KernelReport,
        context: &Context,
    ) -> Result<()> {
        report.ceilings = Some(measure::ceilings(device, timing.runs)?);
        let half = self.activations.half();
        let formats = self.weights.iter().map(|format| format.weights(half));
        let pairs: Vec<(&Layer, WeightFormat)> =
            formats.flat_map(|weights| layers.iter().map(move |layer| (layer, weights))).collect();
        let mut table = KernelTable::open(cache_folder().as_deref())?;
        if self.tune {
            let path = tuned_file()?;
            for (layer, weights) in &pairs {
                context.say(&format!("tuning {} {} {}", layer.model, layer.name, weights.name()));
                table = table.with(measure::tune(device, layer, weights, timing)?);
                write(&path, &table.text())?;
            }
            context.say(&format!("saved the fastest kernels to {} for later runs", path.display()));
        }
        for (layer, weights) in &pairs {
            context.say(&format!("timing {} {} {}", layer.model, layer.name, weights.name()));
            report.timed.extend(measure::time_layer(device, (layer, weights), &table, timing)?);
        }
        Ok(())
    }
}

/// Runs every check. Wrong results are reported after all checks have run.
fn check_all(device: &dyn Device, seed: u64, context: &Context) -> Result<Vec<Outcome>> {
    let checks = measure::every_check(device.properties());
    let bar = context.bar(Phase::Checking, checks.len() as u64);
    // One workspace for all, because a launch must leave it usable for the next one.
    let mut workspace = Workspace::new();
    let outcomes = checks.iter().map(|check| {
        bar.inc(1);
        check.run(device, seed, &mut workspace)
    });
    let outcomes = outcomes.collect();
    bar.finish_and_clear();
    outcomes
}

/// Returns a GPU's clocks and power limit as nvidia-smi prints them; `None` without nvidia-smi.
fn clocks(uuid: &str) -> Option<String> {
    let query = "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu";
    let mut command = Command::new("nvidia-smi");
    let output = command.args([query, "--format=csv,noheader", "-i", uuid]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(format!("SM clock, its maximum, memory clock, power limit, °C: {}", text.trim()))
}

/// Returns the path of the saved choices.
fn tuned_file() -> Result<PathBuf> {
    let folder = cache_folder()
        .ok_or_else(|| Error::usage("--tune: no home folder to save the table in", "set XDG_CACHE_HOME"))?;
    Ok(folder.join(KernelTable::FILE))
}

/// Writes through a temporary file that is renamed; creates the folder if it does not exist.
fn write(path: &Path, text: &str) -> Result<()> {
    let folder = folder_of(path);
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
        let kind = |bits, granularity, zeros| Ok(WeightKind { bits, granularity, zeros, rounded: false });
        assert_eq!("w8a8".parse().map(|kind: WeightKind| kind.rounded), Ok(true));
        assert_eq!("w4-g128".parse(), kind(Bits::W4, Granularity::Group(128), false));
        assert_eq!("w8-channel-zero".parse(), kind(Bits::W8, Granularity::Channel, true));
        for wrong in ["w4", "w5-g128", "w4-g48", "w4-zero", ""] {
            assert!(wrong.parse::<WeightKind>().unwrap_err().contains(": expected "), "{wrong}");
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

//! `llmc bench MODEL`: how fast a model runs here. `llmc bench kernels` is `kernels`'.

mod kernels;

use std::time::Instant;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Context, engine_args};
use crate::backend::cpu::read_bandwidth;
use crate::engine::{Cache, LanguageModel};
use crate::error::{Error, Result};
use crate::model::Batch;

/// Measure how fast a model runs here: prefill, decode, batches, memory
///
/// Each figure is the median of several runs, with the slowest and the fastest. Decode is limited by how fast the weights can
/// be read, so its bytes per second stand beside what this machine reads at most.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  llmc bench model-w4a16
  llmc bench model-q4_0.gguf --prefill 512 --batch 1,8 --threads 4 --json"
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// What to run: .safetensors, a folder, .gguf, or a hub id
    #[arg(required = true)]
    model: Option<String>,
    /// Prompt lengths to prefill
    #[arg(long, value_delimiter = ',', value_name = "TOKENS", default_value = "128,512")]
    prefill: Vec<usize>,
    /// Tokens to decode, after a prompt of 16
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    decode: usize,
    /// Sequences that are decoded together
    #[arg(long, value_delimiter = ',', value_name = "SEQUENCES", default_value = "1,8")]
    batch: Vec<usize>,
    /// Runs of each test, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    #[command(flatten)]
    engine: engine_args::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    Kernels(kernels::Arguments),
}

/// Tokens that stand before those decoded.
const PROMPT: usize = 16;

/// Longest sequence of a model that does not say what it takes.
const MOST_TOKENS: usize = 1 << 20;
const MOST_SEQUENCES: usize = 1024;

/// What was measured of one test.
struct Measurement {
    test: String,
    /// Tokens per second, ascending.
    speeds: Vec<f64>,
    /// Weight bytes read per token, where reading them is what takes the time.
    bytes_per_token: Option<f64>,
}

/// Runs the tests and prints the table.
pub fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    match (&arguments.command, &arguments.model) {
        (Some(Command::Kernels(arguments)), _) => kernels::run(arguments, context),
        (None, model) => run_model(arguments, model.as_deref().unwrap_or_default(), context),
    }
}

fn run_model(arguments: &Arguments, model: &str, context: &Context) -> Result<()> {
    arguments.validate()?;
    let start = Instant::now();
    let model = arguments.engine.open(model, context)?;
    let load = start.elapsed().as_secs_f64();
    arguments.check_context(&model)?;
    let mut measurements = Vec::new();
    for length in &arguments.prefill {
        measurements.push(arguments.prefill(&model, *length, context)?);
    }
    for sequences in &arguments.batch {
        measurements.push(arguments.decode(&model, *sequences, context)?);
    }
    // Before the bandwidth is measured, which takes memory of its own.
    let (peak, weights) = (peak_memory(), model.weight_bytes());
    let bandwidth = arguments.engine.options().gpu.is_none().then(read_bandwidth);
    let report = Report { load, bandwidth, weights, peak, measurements };
    context.print(|| report.text(), || report.json())
}

impl Arguments {
    fn validate(&self) -> Result<()> {
        let positive = [&self.prefill[..], &self.batch[..], &[self.decode, self.runs]].concat();
        if self.batch.iter().any(|sequences| *sequences > MOST_SEQUENCES) {
            let what = format!("--batch: at most {MOST_SEQUENCES} sequences are decoded together");
            return Err(Error::usage(what, "give smaller batches"));
        }
        match positive.contains(&0) {
            true => Err(Error::usage(
                "nothing to measure: a length or a number of runs is 0",
                "give positive numbers",
            )),
            false => Ok(()),
        }
    }

    /// Refuses sequences that are longer than what the model was made for.
    fn check_context(&self, model: &LanguageModel) -> Result<()> {
        let limit = model.context_limit().unwrap_or(MOST_TOKENS);
        let longest =
            self.prefill.iter().copied().chain([self.decode.saturating_add(PROMPT)]).max().unwrap_or(0);
        if longest <= limit {
            return Ok(());
        }
        let what = format!("{longest} tokens, with a model that takes {limit}");
        Err(Error::usage(what, "lower --prefill or --decode"))
    }

    fn prefill(&self, model: &LanguageModel, length: usize, context: &Context) -> Result<Measurement> {
        let tokens = tokens(model, length);
        let mut cache = model.cache(1)?;
        let speeds = self.measure(context, || {
            let start = Instant::now();
            step(model, &mut cache, |batch| batch.push(0, 0, &tokens))?;
            Ok(length as f64 / start.elapsed().as_secs_f64())
        })?;
        Ok(Measurement { test: format!("prefill {length}"), speeds, bytes_per_token: None })
    }

    fn decode(&self, model: &LanguageModel, sequences: usize, context: &Context) -> Result<Measurement> {
        let tokens = tokens(model, PROMPT + self.decode);
        let mut cache = model.cache(sequences)?;
        let speeds = self.measure(context, || {
            let all = 0..sequences;
            step(model, &mut cache, |batch| {
                all.clone().for_each(|slot| batch.push(slot, 0, &tokens[..PROMPT]))
            })?;
            let start = Instant::now();
            for past in PROMPT..tokens.len() {
                let next = &tokens[past..past + 1];
                step(model, &mut cache, |batch| all.clone().for_each(|slot| batch.push(slot, past, next)))?;
            }
            Ok((self.decode * sequences) as f64 / start.elapsed().as_secs_f64())
        })?;
        // Of experts, how many are read depends on the tokens.
        let dense = !model.model().has_experts();
        let bytes_per_token = dense.then(|| model.weight_bytes() as f64 / sequences as f64);
        let test = if sequences == 1 { "decode".into() } else { format!("decode, batch of {sequences}") };
        Ok(Measurement { test, speeds, bytes_per_token })
    }

    fn measure(&self, context: &Context, mut once: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
        once()?;
        let mut speeds = Vec::new();
        for _ in 0..self.runs {
            context.check_interrupted()?;
            speeds.push(once()?);
        }
        speeds.sort_by(f64::total_cmp);
        Ok(speeds)
    }
}

/// Runs a batch, with logits of the last token of each sequence.
fn step(model: &LanguageModel, cache: &mut Cache, fill: impl Fn(&mut Batch)) -> Result<()> {
    let mut batch = Batch::default();
    fill(&mut batch);
    let ends = batch.spans.iter().scan(0, |end, span| {
        *end += span.len as u32;
        Some(*end - 1)
    });
    let rows: Vec<u32> = ends.collect();
    model.logits(&batch, Some(cache), &rows, |_, _| Ok(()))
}

/// Token ids spread over the vocabulary: the same in every run.
fn tokens(model: &LanguageModel, count: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 7919 + 5) % model.vocabulary()) as u32).collect()
}

struct Report {
    load: f64,
    /// Bytes per second that the CPU reads; not measured where the weights are on a GPU.
    bandwidth: Option<f64>,
    weights: usize,
    peak: Option<u64>,
    measurements: Vec<Measurement>,
}

impl Measurement {
    fn median(&self) -> f64 {
        self.speeds[self.speeds.len() / 2]
    }

    fn spread(&self) -> [f64; 2] {
        [self.speeds[0], self.speeds[self.speeds.len() - 1]]
    }

    /// Bytes of weights read per second.
    fn read_rate(&self) -> Option<f64> {
        self.bytes_per_token.map(|bytes| bytes * self.median())
    }
}

impl Report {
    /// `12.3 GB/s, 80 % of 15.4`.
    fn rate(&self, rate: f64) -> String {
        let of = |most: f64| format!(", {:.0} % of {:.1}", 100.0 * rate / most, most / 1e9);
        format!("{:.1} GB/s{}", rate / 1e9, self.bandwidth.map_or(String::new(), of))
    }

    fn text(&self) -> String {
        let mut text =
            format!("{:<22}{:>10}  {:<19}{}\n", "test", "tokens/s", "  slowest–fastest", "weights read");
        for measurement in &self.measurements {
            let [low, high] = measurement.spread();
            let rate = measurement.read_rate().map_or(String::new(), |rate| self.rate(rate));
            let spread = format!("{low:.1}–{high:.1}");
            let (test, median) = (&measurement.test, measurement.median());
            text += format!("{test:<22}{median:>10.1}    {spread:<17}{rate}").trim_end();
            text.push('\n');
        }
        let peak = self.peak.map_or("unknown".into(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
        text += &format!(
            "\nloaded in {:.2} s; weights {:.1} MB, peak memory {peak}",
            self.load,
            self.weights as f64 / 1e6
        );
        text + &format!("; {} threads\n", rayon::current_num_threads())
    }

    fn json(&self) -> Value {
        let tests = self.measurements.iter().map(|measurement| {
            let [low, high] = measurement.spread();
            json!({
                "test": measurement.test,
                "tokens_per_second": measurement.median(),
                "slowest": low,
                "fastest": high,
                "weight_bytes_per_second": measurement.read_rate(),
            })
        });
        json!({
            "tests": tests.collect::<Vec<_>>(),
            "load_seconds": self.load,
            "weight_bytes": self.weights,
            "peak_memory_bytes": self.peak,
            "read_bytes_per_second": self.bandwidth,
            "threads": rayon::current_num_threads(),
        })
    }
}

/// The most memory that this process has held, in bytes, mapped files included; `None` where the system does not say.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? * 1024)
}

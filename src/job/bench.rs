//! The speed of a model on this machine: prefill, decode, batches, memory.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::host::Host;
use super::record::Origin;
use crate::backend::Device;
use crate::backend::cpu::{largest_cache, read_bandwidth};
use crate::engine::{Cache, LanguageModel};
use crate::error::{Error, Result};
use crate::model::Batch;

/// Tokens before those that are decoded.
const PROMPT: usize = 16;
/// Longest sequence of a model without a limit of its own.
const MOST_TOKENS: usize = 1 << 20;
const MOST_SEQUENCES: usize = 1024;

/// A model to be timed.
#[derive(Debug, Clone)]
pub struct Bench {
    /// A path or a hub id.
    pub model: String,
    /// Prompt lengths to prefill, in tokens.
    pub prefill: Vec<usize>,
    /// Tokens to decode.
    pub decode: usize,
    /// Numbers of sequences that are decoded together.
    pub batch: Vec<usize>,
    /// Runs of each test, after one that is not counted.
    pub runs: usize,
    /// The way that the model is run.
    pub engine: Engine,
}

/// The record of a benchmark of speed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchRecord {
    /// Every test.
    pub tests: Vec<Speed>,
    /// Time to load the model, in seconds.
    pub load_seconds: f64,
    /// Bytes of weights.
    pub weight_bytes: usize,
    /// Largest memory of the process in bytes, mapped files included; `None` if the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// The most bytes per second that the CPU was seen to read, of as many bytes as the weights; `None` on other devices.
    pub read_bytes_per_second: Option<f64>,
    /// Bytes of the CPU's largest cache, if it holds all weights; they are then not read from memory for every token.
    pub cache_bytes: Option<u64>,
    /// Threads.
    pub threads: usize,
    /// Version of this record, and its origin.
    #[serde(flatten)]
    pub origin: Origin<1>,
}

/// The result of one test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Name: `prefill 512`, `decode, batch of 8`.
    pub test: String,
    /// Median of the runs.
    pub tokens_per_second: f64,
    /// Slowest run, tokens per second.
    pub slowest: f64,
    /// Fastest run, tokens per second.
    pub fastest: f64,
    /// Bytes of weights read per second, if reading them takes the time.
    pub weight_bytes_per_second: Option<f64>,
    /// Every run in ascending order, tokens per second.
    pub runs: Vec<f64>,
}

impl Bench {
    /// Times a model with the defaults of `llmc bench`.
    pub fn new(model: impl Into<String>) -> Bench {
        Bench {
            model: model.into(),
            prefill: vec![128, 512],
            decode: 64,
            batch: vec![1, 8],
            runs: 5,
            engine: Engine::default(),
        }
    }

    /// Runs every test.
    ///
    /// # Errors
    /// Lengths of 0, or longer than the model takes; a model that cannot be run.
    pub fn run(&self, host: &dyn Host) -> Result<BenchRecord> {
        self.validate()?;
        let start = Instant::now();
        let model = self.engine.load(&self.model, host)?;
        let load_seconds = start.elapsed().as_secs_f64();
        self.check_context(&model)?;
        let mut tests = Vec::new();
        for length in &self.prefill {
            tests.push(self.prefill(&model, *length, host)?);
        }
        for sequences in &self.batch {
            tests.push(self.decode(&model, *sequences, host)?);
        }
        // Measured first: the measurement of the bandwidth takes memory of its own.
        let peak_memory_bytes = peak_memory();
        let weight_bytes = model.weight_bytes();
        let on_cpu = !matches!(self.engine.options.device, Device::Cuda(_));
        let cache = largest_cache().filter(|cache| on_cpu && *cache >= weight_bytes as u64);
        Ok(BenchRecord {
            read_bytes_per_second: on_cpu.then(|| most_read(weight_bytes, &tests)),
            cache_bytes: cache,
            tests,
            load_seconds,
            weight_bytes,
            peak_memory_bytes,
            threads: rayon::current_num_threads(),
            origin: Origin::here(),
        })
    }

    fn validate(&self) -> Result<()> {
        if self.batch.iter().any(|sequences| *sequences > MOST_SEQUENCES) {
            let what = format!("--batch: at most {MOST_SEQUENCES} sequences are decoded together");
            return Err(Error::usage(what, "give smaller batches"));
        }
        let positive = [&self.prefill[..], &self.batch[..], &[self.decode, self.runs]].concat();
        if positive.contains(&0) {
            let what = "nothing to measure: a length or a number of runs is 0";
            return Err(Error::usage(what, "give positive numbers"));
        }
        Ok(())
    }

    /// Refuses sequences that are longer than the model's limit.
    fn check_context(&self, model: &LanguageModel) -> Result<()> {
        let limit = model.context_limit().unwrap_or(MOST_TOKENS);
        let decoded = self.decode.saturating_add(PROMPT);
        let longest = self.prefill.iter().copied().chain([decoded]).max().unwrap_or(0);
        if longest <= limit {
            return Ok(());
        }
        let what = format!("{longest} tokens, with a model that takes {limit}");
        Err(Error::usage(what, "lower --prefill or --decode"))
    }

    fn prefill(&self, model: &LanguageModel, length: usize, host: &dyn Host) -> Result<Speed> {
        let tokens = tokens(model, length);
        let mut cache = model.cache(1)?;
        let runs = self.measure(host, || {
            let start = Instant::now();
            forward(model, &mut cache, |batch| batch.push(0, 0, &tokens))?;
            Ok(length as f64 / start.elapsed().as_secs_f64())
        })?;
        Ok(Speed::new(format!("prefill {length}"), runs, None))
    }

    fn decode(&self, model: &LanguageModel, sequences: usize, host: &dyn Host) -> Result<Speed> {
        let tokens = tokens(model, PROMPT + self.decode);
        let mut cache = model.cache(sequences)?;
        let runs = self.measure(host, || {
            let all = 0..sequences;
            forward(model, &mut cache, |batch| {
                all.clone().for_each(|slot| batch.push(slot, 0, &tokens[..PROMPT]))
            })?;
            let start = Instant::now();
            for past in PROMPT..tokens.len() {
                let next = &tokens[past..past + 1];
                forward(model, &mut cache, |batch| {
                    all.clone().for_each(|slot| batch.push(slot, past, next))
                })?;
            }
            Ok((self.decode * sequences) as f64 / start.elapsed().as_secs_f64())
        })?;
        // The number of experts that are read depends on the tokens.
        let dense = !model.model().has_experts();
        let bytes_per_token = dense.then(|| model.weight_bytes() as f64 / sequences as f64);
        let test = if sequences == 1 { "decode".into() } else { format!("decode, batch of {sequences}") };
        Ok(Speed::new(test, runs, bytes_per_token))
    }

    fn measure(&self, host: &dyn Host, mut once: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
        once()?;
        let mut runs = Vec::new();
        for _ in 0..self.runs {
            host.check_interrupted()?;
            runs.push(once()?);
        }
        runs.sort_by(f64::total_cmp);
        Ok(runs)
    }
}

impl Speed {
    fn new(test: String, runs: Vec<f64>, bytes_per_token: Option<f64>) -> Speed {
        let median = runs[runs.len() / 2];
        Speed {
            test,
            tokens_per_second: median,
            slowest: runs[0],
            fastest: runs[runs.len() - 1],
            weight_bytes_per_second: bytes_per_token.map(|bytes| bytes * median),
            runs,
        }
    }
}

/// The most bytes per second that were read: by a measurement, or by a test itself.
fn most_read(weight_bytes: usize, tests: &[Speed]) -> f64 {
    let rates = tests.iter().filter_map(|test| test.weight_bytes_per_second);
    rates.fold(read_bandwidth(weight_bytes), f64::max)
}

/// Runs a batch, with logits of the last token of each sequence.
fn forward(model: &LanguageModel, cache: &mut Cache, fill: impl Fn(&mut Batch)) -> Result<()> {
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

/// The largest memory of this process so far, in bytes, mapped files included; `None` if the system does not tell.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? * 1024)
}

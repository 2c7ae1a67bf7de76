//! [`KernelReport`]: the results of checks and timings on one machine, as Markdown and as JSON.

use indexmap::IndexMap;
use serde::Serialize;

use super::checks::Outcome;
use super::timing::{Ceilings, LayerTiming};
use crate::cuda::device::Properties;
use crate::error::{Error, Result};

/// The machine and the date.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Machine {
    /// The GPU, as its driver names it.
    pub device: String,
    /// Compute capability, 10·major + minor.
    pub capability: u32,
    /// Number of streaming multiprocessors.
    pub processors: u32,
    /// Bytes of the L2 cache.
    pub cache_bytes: usize,
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// Version of the driver.
    pub driver: String,
    /// Clocks and power limit as nvidia-smi prints them; `None` without nvidia-smi.
    pub clocks: Option<String>,
    /// Version of llmc.
    pub version: String,
    /// Day of the measurement.
    pub date: String,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Machine {
    /// Describes a device on a date.
    pub(crate) fn new(properties: &Properties, date: String, clocks: Option<String>, seed: u64) -> Machine {
        Machine {
            device: properties.name.clone(),
            capability: properties.capability,
            processors: properties.processors,
            cache_bytes: properties.cache_bytes,
            memory_bytes: properties.memory_bytes,
            driver: properties.driver.clone(),
            clocks,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            date,
            seed,
        }
    }
}

/// All results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct KernelReport {
    /// The machine and the date.
    pub machine: Machine,
    /// Results of the checks; empty if none ran.
    pub checks: Vec<Outcome>,
    /// Measured limits of the device; `None` if nothing was timed.
    pub ceilings: Option<Ceilings>,
    /// The timings.
    pub timed: Vec<LayerTiming>,
}

impl KernelReport {
    /// Formats the report as Markdown: a heading, the device, a table of checks, and a table for each format of
    /// weights.
    pub(crate) fn markdown(&self) -> String {
        let mut text = self.heading();
        text += &self.checks_table();
        let mut schemes: Vec<&str> = self.timed.iter().map(|timed| timed.weights.as_str()).collect();
        schemes.dedup();
        for scheme in schemes {
            text += &self.times_table(scheme);
        }
        text
    }

    fn heading(&self) -> String {
        let m = &self.machine;
        let mut text = format!(
            "# Kernels on {}\n\n{}, llmc {}, seed {}, driver {}; compute capability {}.{}, {} processors, {:.0} MB of L2, {:.1} GB\n",
            m.device,
            m.date,
            m.version,
            m.seed,
            m.driver,
            m.capability / 10,
            m.capability % 10,
            m.processors,
            m.cache_bytes as f64 / 1e6,
            m.memory_bytes as f64 / 1e9,
        );
        text += &m.clocks.as_ref().map_or(String::new(), |clocks| format!("{clocks}\n"));
        if let Some(Ceilings { copy, dense }) = self.ceilings {
            text += &format!("measured ceilings: {:.0} GB/s copied", copy / 1e9);
            text +=
                &dense.map_or(String::new(), |rate| format!(", {:.0} TFLOP/s by cuBLAS in f16", rate / 1e12));
            text += "\n\nCold caches, CUDA graphs; medians, the spread is (slowest − fastest)/median.\n";
        }
        text
    }

    /// Returns a table with a row for each kernel and its worst case; the JSON has all cases.
    fn checks_table(&self) -> String {
        if self.checks.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "\n## Correctness\n\n{}. An error of 1 is what rounding explains, compared with float64; for an INT8 code of an input that is half a step.\n\n",
            self.verdict()
        );
        text += "| kernel | checks | outputs | largest error | where |\n|---|---:|---:|---:|---|\n";
        let mut kernels: IndexMap<&str, Vec<&Outcome>> = IndexMap::new();
        self.checks.iter().for_each(|outcome| kernels.entry(&outcome.kernel).or_default().push(outcome));
        for (kernel, outcomes) in kernels {
            let outputs: usize = outcomes.iter().map(|outcome| outcome.accuracy.outputs).sum();
            let worst = outcomes.iter().max_by(|a, b| a.accuracy.worst.total_cmp(&b.accuracy.worst));
            let (error, case) = worst.map_or((0.0, ""), |worst| (worst.accuracy.worst, &worst.case));
            text += &format!("| {kernel} | {} | {outputs} | {error:.2} | {case} |\n", outcomes.len());
        }
        text
    }

    fn wrong(&self) -> impl Iterator<Item = &Outcome> {
        self.checks.iter().filter(|outcome| !outcome.accuracy.holds())
    }

    fn verdict(&self) -> String {
        match (self.wrong().count(), self.checks.len()) {
            (0, all) => format!("All {all} checks hold"),
            (wrong, all) => format!("**{wrong} of {all} checks do not hold**"),
        }
    }

    /// Checks that every result is right.
    ///
    /// # Errors
    /// If a check fails, with the name of the first.
    pub(crate) fn hold(&self) -> Result<()> {
        let Some(Outcome { kernel, case, accuracy }) = self.wrong().next() else { return Ok(()) };
        let (wrong, all, seed) = (self.wrong().count(), self.checks.len(), self.machine.seed);
        let what = format!(
            "{wrong} of {all} checks do not hold; the error of {kernel} ({case}) is {:.1} times as large as rounding explains",
            accuracy.worst
        );
        let hint = format!(
            "this is a defect of llmc: please report it with the device, its driver, and --seed {seed}; --json has every check"
        );
        Err(Error::CheckFailed { what, hint })
    }

    fn times_table(&self, scheme: &str) -> String {
        let mut text = format!("\n## {scheme}\n\n");
        text += "| layer | n×k | m | kernel | µs | spread | GB/s | of copy | TFLOP/s | of peak | f16 µs | speed-up |\n";
        text += "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|\n";
        for timed in self.timed.iter().filter(|timed| timed.weights == scheme) {
            text += &self.row(timed);
        }
        text
    }

    fn row(&self, timed: &LayerTiming) -> String {
        let [m, n, k] = timed.size;
        let (bandwidth, operations) = (timed.bandwidth(), timed.operations());
        let of = |rate: f64, most: Option<f64>| {
            most.map_or("–".into(), |most| format!("{:.0} %", 100.0 * rate / most))
        };
        let dense = timed.dense.map_or("–".into(), |dense| format!("{:.1}", dense.median * 1e6));
        format!(
            "| {} {} | {n}×{k} | {m} | {} | {:.1} | {:.1} % | {:.0} | {} | {:.1} | {} | {dense} | {} |\n",
            timed.model,
            timed.layer,
            timed.kernel,
            timed.times.median * 1e6,
            100.0 * timed.times.spread(),
            bandwidth / 1e9,
            of(bandwidth, self.ceilings.map(|c| c.copy)),
            operations / 1e12,
            of(operations, self.ceilings.and_then(|c| c.dense)),
            timed.speedup().map_or("–".into(), |times| format!("{times:.2}×")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Accuracy;
    use super::super::statistics::Times;
    use super::*;

    fn outcome(kernel: &str, case: &str, worst: f64) -> Outcome {
        Outcome { kernel: kernel.into(), case: case.into(), accuracy: Accuracy { outputs: 64, worst } }
    }

    fn report() -> KernelReport {
        let machine = Machine {
            device: "NVIDIA Testing".into(),
            capability: 90,
            processors: 132,
            cache_bytes: 50_000_000,
            memory_bytes: 80_000_000_000,
            driver: "CUDA 13.0".into(),
            clocks: None,
            version: "0.1.0".into(),
            date: "2026-11-24".into(),
            seed: 7,
        };
        let times = |median| Times { median, fastest: median, slowest: median * 1.1, runs: 3 };
        let timed = |m, kernel: &str, dense: Option<f64>| LayerTiming {
            model: "llama-7b",
            layer: "o".into(),
            size: [m, 4096, 4096],
            weights: "int4 g128 symmetric".into(),
            kernel: kernel.into(),
            times: times(1e-5),
            dense: dense.map(times),
            bytes: 8_650_752,
        };
        KernelReport {
            machine,
            checks: vec![
                outcome("gemv", "÷1, int4", 0.25),
                outcome("gemm m16", "÷3, int4", 0.5),
                outcome("gemv", "÷2, int8", 0.75),
            ],
            ceilings: Some(Ceilings { copy: 2e12, dense: Some(6e14) }),
            timed: vec![timed(1, "gemv ÷4", Some(3e-5)), timed(64, "gemm m64", None)],
        }
    }

    #[test]
    fn the_markdown_names_the_device_and_fills_every_column() {
        let text = report().markdown();
        assert!(
            text.starts_with(
                "# Kernels on NVIDIA Testing\n\n2026-11-24, llmc 0.1.0, seed 7, driver CUDA 13.0;"
            )
        );
        assert!(text.contains("measured ceilings: 2000 GB/s copied, 600 TFLOP/s by cuBLAS in f16"), "{text}");
        assert!(text.contains("All 3 checks hold."), "{text}");
        assert!(
            text.contains("| gemv | 2 | 128 | 0.75 | ÷2, int8 |\n| gemm m16 | 1 | 64 | 0.50 | ÷3, int4 |"),
            "{text}"
        );
        let row = "| llama-7b o | 4096×4096 | 1 | gemv ÷4 | 10.0 | 10.0 % | 865 | 43 % | 3.4 | 1 % | 30.0 | 3.00× |";
        assert!(text.contains(row), "{text}");
        assert!(
            text.contains("| 64 | gemm m64 | 10.0 | 10.0 % | 865 | 43 % | 214.7 | 36 % | – | – |"),
            "{text}"
        );
        let tables = text.lines().filter(|line| line.starts_with('|'));
        let columns: Vec<usize> = tables.map(|line| line.matches('|').count()).collect();
        assert_eq!(columns, [6, 6, 6, 6, 13, 13, 13, 13]);
    }

    #[test]
    fn what_does_not_hold_is_counted_and_named() {
        let mut report = report();
        assert!(report.hold().is_ok());
        report.checks.push(outcome("gemv", "÷4, int4", 12.5));
        assert!(report.markdown().contains("**1 of 4 checks do not hold**"), "{}", report.markdown());
        let error = report.hold().expect_err("one is wrong");
        assert!(error.to_string().contains("gemv (÷4, int4) is 12.5 times"), "{error}");
        assert!(error.exit_code() == 3 && error.hint().is_some_and(|hint| hint.contains("--seed 7")));
    }

    #[test]
    fn the_json_has_the_same() {
        let value = serde_json::to_value(report()).expect("numbers and names have a form in JSON");
        assert_eq!(value["machine"]["device"], "NVIDIA Testing");
        assert_eq!(value["timed"][1]["kernel"], "gemm m64");
        assert_eq!(value["timed"][0]["dense"]["median"], 3e-5);
    }
}

//! `llmc calibrate` as a user meets it: what the statistics are, worked out from the checkpoint by hand; what is refused;
//! what an interrupted run leaves.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{assert_same, contents, fails, fixture, largest, ok, run};
use llmc::backend::Device;
use llmc::calib::Samples;
use llmc::calib::data::Watch;
use llmc::calib::imatrix::Imatrix;
use llmc::calib::store::{Index, Store, StoredBlock};
use llmc::error::Error;
use llmc::io::Checkpoint;
use llmc::pipeline::{Event, Options, Survey, calibrate};
use llmc::recipe::Calibration;
use llmc::statistics::Needs;
use serde_json::Value;

const Q_PROJ: &str = "model.layers.0.self_attn.q_proj.weight";
const ALL: Needs = Needs { absmax: true, mean_abs: true, second_moment: true, hessian: true };

fn text() -> String {
    fixture("tokenizer_corpus.txt").display().to_string()
}

/// A command line over a few short sequences.
fn line(model: &str, flags: &str) -> String {
    format!("calibrate {} --data {} --samples 6 --seq-len 32 {flags}", fixture(model).display(), text())
}

fn open(model: &str) -> Arc<Checkpoint> {
    Arc::new(Checkpoint::open(fixture(model).to_str().unwrap()).unwrap())
}

/// The sequences that [`line`] runs over.
fn samples(checkpoint: &Arc<Checkpoint>) -> Samples {
    let calibration = Calibration { data: vec![text()], samples: 6, seq_len: 32, ..Calibration::default() };
    let watch = Watch { interrupted: &AtomicBool::new(false), progress: &|_, _| {}, kept: None };
    calibration.sequences(checkpoint, &watch).unwrap()
}

fn blocks(folder: &Path, needs: Needs) -> Vec<StoredBlock> {
    let index = Index::read(folder).unwrap();
    let store = Store::open(&[folder.to_owned()], &index.model, index.blocks, needs).unwrap();
    (0..index.blocks).map(|number| store.block(number).unwrap()).collect()
}

fn rows(checkpoint: &Checkpoint, name: &str) -> (usize, Vec<f32>) {
    let source = checkpoint.source(name).unwrap();
    let [rows, cols] = source.rows_cols();
    let mut values = vec![0.0; rows * cols];
    checkpoint.read_rows(source, 0..rows, &mut values).unwrap();
    (cols, values)
}

/// The input of the first block's attention: RMSNorm of the tokens' embeddings, [tokens, hidden].
fn first_inputs(checkpoint: &Checkpoint, samples: &Samples) -> Vec<Vec<f64>> {
    let (hidden, embedding) = rows(checkpoint, "model.embed_tokens.weight");
    let (_, norm) = rows(checkpoint, "model.layers.0.input_layernorm.weight");
    let config: Value =
        serde_json::from_slice(&std::fs::read(fixture("tiny-llama/config.json")).unwrap()).unwrap();
    let epsilon = config["rms_norm_eps"].as_f64().unwrap();
    let input = |token: &u32| {
        let x = &embedding[*token as usize * hidden..][..hidden];
        let power = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / hidden as f64;
        let scale = (power + epsilon).sqrt().recip();
        x.iter().zip(&norm).map(|(x, weight)| f64::from(*x) * scale * f64::from(*weight)).collect()
    };
    samples.sequences.iter().flatten().map(input).collect()
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-4 * expected.abs() + 1e-6, "expected {expected}, found {found}");
}

#[test]
fn statistics_are_those_of_the_inputs() {
    let here = tempfile::tempdir().unwrap();
    ok(here.path(), &line("tiny-llama", "--hessian -o stats"));
    let folder = here.path().join("stats");
    let names: Vec<String> = contents(&folder).into_keys().collect();
    assert_eq!(names, ["block-00000.safetensors", "block-00001.safetensors", "checksums.b3", "index.json"]);

    let checkpoint = open("tiny-llama");
    let samples = samples(&checkpoint);
    let expected = first_inputs(&checkpoint, &samples);
    let found = blocks(&folder, ALL)[0].statistics(Q_PROJ, expected[0].len()).unwrap();
    assert_eq!(found.tokens, samples.tokens() as u64);
    let gram = found.gram.unwrap();
    for column in 0..expected[0].len() {
        let sum = |f: &dyn Fn(&[f64]) -> f64| expected.iter().map(|x| f(x)).sum::<f64>();
        close(found.sum_abs[column], sum(&|x| x[column].abs()));
        close(found.sum_squares[column], sum(&|x| x[column].powi(2)));
        close(f64::from(found.absmax[column]), largest(expected.iter().map(|x| x[column].abs())));
        let product = sum(&|x| x[column] * x[3]);
        assert!((f64::from(gram[[column, 3]]) - product).abs() < 1e-2, "{column}: {product}");
    }
    let index = Index::read(&folder).unwrap();
    assert_eq!((index.data, index.tokens, index.sources), (samples.digest, 192, samples.sources));
}

/// The largest difference between two lists, as a share of the largest value.
fn distance<'a>(a: impl IntoIterator<Item = &'a f32>, b: impl IntoIterator<Item = &'a f32>) -> f64 {
    let (a, b): (Vec<f32>, Vec<f32>) = (a.into_iter().copied().collect(), b.into_iter().copied().collect());
    assert_eq!(a.len(), b.len());
    let size = largest(a.iter().map(|value| value.abs()));
    assert!(size > 0.0, "{size}");
    largest(a.iter().zip(&b).map(|(a, b)| (a - b).abs())) / size
}

#[test]
fn statistics_on_candle_are_equal_within_rounding() {
    let here = tempfile::tempdir().unwrap();
    for (model, linear, cols) in
        [("tiny-llama", "mlp.down_proj", 512), ("tiny-qwen3-moe", "self_attn.o_proj", 64)]
    {
        let name = |device: &str| format!("{model}-{device}");
        let [cpu, candle] = ["cpu", "candle"].map(|device| {
            ok(here.path(), &line(model, &format!("--hessian --device {device} -o {}", name(device))));
            blocks(&here.path().join(name(device)), ALL)
        });
        for (index, (cpu, candle)) in cpu.iter().zip(&candle).enumerate() {
            let linear = format!("model.layers.{index}.{linear}.weight");
            let [cpu, candle] = [cpu, candle].map(|block| block.statistics(&linear, cols).unwrap());
            assert_eq!((cpu.tokens, candle.tokens), (192, 192));
            let absmax = distance(&cpu.absmax, &candle.absmax);
            let gram = distance(&cpu.gram.unwrap(), &candle.gram.unwrap());
            assert!(absmax < 1e-4 && gram < 1e-4, "{linear}: {absmax} {gram}");
        }
    }
}

#[test]
fn gptq_on_candle_is_as_good() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-llama").display().to_string();
    let data = format!("--data {} --samples 6 --seq-len 32", text());
    let errors = ["cpu", "candle"].map(|device| {
        let line = format!(
            "quantize {model} --scheme w4a16 --group-size 32 --method gptq {data} --device {device} -o {device}"
        );
        ok(here.path(), &line);
        ok(here.path(), &format!("verify {device} --against {model}"));
        let record = std::fs::read(here.path().join(device).join("calibration.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        let blocks = record["blocks"].as_array().unwrap().iter();
        let linears = blocks.flat_map(|block| block["linears"].as_array().unwrap());
        linears.map(|linear| linear["relative_error"].as_f64().unwrap() as f32).collect::<Vec<_>>()
    });
    assert_eq!(errors[0].len(), 14);
    assert!(distance(&errors[0], &errors[1]) < 0.02, "{errors:?}");

    let device = |folder: &str| {
        let header = std::fs::read(here.path().join(folder).join("model.safetensors")).unwrap();
        String::from_utf8_lossy(&header).contains(r#""llmc.device":"candle""#)
    };
    assert!(device("candle") && !device("cpu"));
    let refused = run(here.path(), &format!("quantize {model} --bits 4 {data} --device tpu -o x"));
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(2) && stderr.contains("expected cpu, candle, cuda"), "{stderr}");
}

#[test]
fn the_number_of_threads_does_not_show() {
    let here = tempfile::tempdir().unwrap();
    for threads in [1, 3] {
        ok(here.path(), &line("tiny-qwen3-moe", &format!("--hessian -o {threads} --threads {threads}")));
    }
    assert_same(&here.path().join("1"), &here.path().join("3"));
}

#[test]
fn an_importance_matrix_has_the_sums_of_every_expert() {
    let here = tempfile::tempdir().unwrap();
    ok(here.path(), &line("tiny-qwen3-moe", "-o stats --imatrix both.gguf"));
    ok(here.path(), &line("tiny-qwen3-moe", "-o alone.gguf"));
    assert_same(&here.path().join("both.gguf"), &here.path().join("alone.gguf"));

    let checkpoint = open("tiny-qwen3-moe");
    let imatrix = Imatrix::read(&here.path().join("alone.gguf"), &checkpoint).unwrap();
    assert_eq!((imatrix.chunk_count, imatrix.chunk_size, imatrix.datasets), (6, 32, vec![text()]));
    let blocks = blocks(&here.path().join("stats"), Needs { hessian: false, ..ALL });
    // q, k, v, o and the router, and three of each of eight experts, in two blocks.
    assert_eq!(imatrix.linears.len(), 2 * (5 + 8 * 3));
    for (name, found) in &imatrix.linears {
        let block = &blocks[usize::from(name.contains("layers.1."))];
        let expected = block.statistics(name, found.sum_squares.len()).unwrap();
        assert_eq!(found.tokens, expected.tokens, "{name}");
        let sums = expected.sum_squares.iter().map(|sum| f64::from(*sum as f32));
        assert!(sums.eq(found.sum_squares.iter().copied()), "{name}");
    }
}

#[test]
fn experts_are_counted_and_checked() {
    let here = tempfile::tempdir().unwrap();
    let flags = "--expert-tokens 40 --min-coverage 40 --json -o stats";
    let output = run(here.path(), &line("tiny-qwen3-moe", flags));
    assert_eq!(output.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let blocks = blocks(&here.path().join("stats"), Needs { hessian: false, ..ALL });
    let mut few = 0;
    for (number, block) in report["coverage"].as_array().unwrap().iter().enumerate() {
        let experts = block["experts"].as_array().unwrap();
        // Every token goes to two of the eight.
        assert_eq!(experts.iter().map(|expert| expert["tokens"].as_u64().unwrap()).sum::<u64>(), 2 * 192);
        for (index, expert) in experts.iter().enumerate() {
            let (tokens, shown_all) = (expert["tokens"].as_u64().unwrap(), tokens_few(expert));
            few += usize::from(shown_all);
            let named = format!("block {number} expert {index} ({tokens})");
            assert_eq!(stderr.contains(&named), shown_all, "{named}: {stderr}");
            let name = format!("model.layers.{number}.mlp.experts.{index}.up_proj.weight");
            let seen = blocks[number].statistics(&name, 64).unwrap().tokens;
            assert_eq!(seen, if shown_all { 192 } else { tokens }, "{name}");
        }
    }
    assert!(stderr.contains(&format!("{few} of 16 experts got fewer than 40 tokens")), "{stderr}");

    let text = ok(here.path(), &line("tiny-qwen3-moe", "--min-coverage 0 -o again"));
    assert!(text.contains("shown all tokens") && text.contains("2 blocks over 6 sequences"), "{text}");
    assert!(!ok(here.path(), &line("tiny-llama", "-o dense")).contains("experts"));
}

fn tokens_few(expert: &Value) -> bool {
    let few = expert["tokens"].as_u64().unwrap() < 40;
    assert_eq!(expert["shown_all"], few);
    few
}

#[test]
fn quantize_checks_coverage_too() {
    let here = tempfile::tempdir().unwrap();
    let model = fixture("tiny-qwen3-moe").display().to_string();
    let quantize = |flags: &str| format!("quantize {model} --scheme w4a16 --group-size 32 {flags}");
    let data = format!("--data {} --samples 6 --seq-len 32", text());
    let stderr = fails(here.path(), &quantize(&format!("{data} --min-coverage 100 -o out")), 3);
    assert!(stderr.contains("of 16 experts got fewer than 100 tokens"), "{stderr}");
    assert!(here.path().join("out/model.safetensors").exists());
    let text = ok(here.path(), &quantize(&format!("{data} -o again")));
    assert!(text.contains("tokens of experts"), "{text}");
    let stderr = fails(here.path(), &quantize("--min-coverage 1 -o nothing"), 2);
    assert!(stderr.contains("--data"), "{stderr}");
}

/// Gathers in this process, and stops after so many blocks.
fn gather(path: &Path, samples: &Samples, stop_after: usize) -> Result<(), Error> {
    gather_on(Device::Cpu, path, samples, stop_after)
}

fn gather_on(device: Device, path: &Path, samples: &Samples, stop_after: usize) -> Result<(), Error> {
    let stop = AtomicBool::new(false);
    let options = Options {
        device,
        resume: true,
        interrupted: &stop,
        progress: &indicatif::ProgressBar::hidden(),
        events: &|event| {
            if let Event::Block { index, .. } = event {
                stop.store(index + 1 == stop_after, Ordering::Relaxed);
            }
        },
    };
    let survey = Survey { samples, expert_tokens: 128, needs: ALL, folder: Some(path), imatrix: None };
    calibrate(&survey, &open("tiny-qwen3-moe"), &options).map(|blocks| {
        let experts: Vec<usize> = blocks.iter().map(|block| block.experts.len()).collect();
        assert_eq!(experts, [8, 8]);
    })
}

#[test]
fn a_run_that_was_stopped_goes_on() {
    let here = tempfile::tempdir().unwrap();
    let [whole, stopped] = ["whole", "stopped"].map(|name| here.path().join(name));
    let samples = samples(&open("tiny-qwen3-moe"));
    gather(&whole, &samples, usize::MAX).unwrap();
    let error = gather(&stopped, &samples, 1).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    let partial = here.path().join("stopped.partial");
    let first = std::fs::metadata(partial.join("block-00000.safetensors")).unwrap().modified().unwrap();

    let other = Samples { digest: "another text".to_owned(), ..samples.clone() };
    assert!(matches!(gather(&stopped, &other, usize::MAX), Err(Error::Busy { .. })));
    let elsewhere = gather_on(Device::Candle, &stopped, &samples, usize::MAX);
    assert!(matches!(elsewhere, Err(Error::Busy { .. })), "sums of two devices were mixed");
    gather(&stopped, &samples, usize::MAX).unwrap();
    assert_same(&whole, &stopped);
    let kept = std::fs::metadata(stopped.join("block-00000.safetensors")).unwrap().modified().unwrap();
    assert!(first == kept && !partial.exists(), "the first block was made again");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let here = tempfile::tempdir().unwrap();
    for (flags, expected) in [
        ("--hessian -o x.gguf", "--hessian, and an output that is an importance matrix alone"),
        ("--imatrix y.gguf -o x.gguf", "--imatrix, and an output"),
        ("--seq-len 9999 -o x", "sequences of 9999 tokens"),
    ] {
        let line = format!("calibrate {} --data {} {flags}", fixture("tiny-llama").display(), text());
        let stderr = fails(here.path(), &line, 2);
        assert!(stderr.contains(expected), "{stderr}");
    }
    let stderr = fails(here.path(), &format!("calibrate {} -o x", fixture("tiny-llama").display()), 2);
    assert!(stderr.contains("nothing to calibrate on"), "{stderr}");
    assert!(contents(here.path()).is_empty());

    ok(here.path(), &line("tiny-llama", "-o stats"));
    let stderr = fails(here.path(), &line("tiny-llama", "-o stats"), 2);
    assert!(stderr.contains("--overwrite"), "{stderr}");
    ok(here.path(), &line("tiny-llama", "-o stats --overwrite"));

    std::fs::write(here.path().join("alone.gguf.calibration.json"), "{}").unwrap();
    let stderr = fails(here.path(), &line("tiny-llama", "-o alone.gguf"), 2);
    assert!(stderr.contains("alone.gguf.calibration.json is there"), "{stderr}");
}

//! The schemes that llmc knows: their size, the formats that hold them, the engines that load these, and the loss that was
//! measured.

use serde::{Deserialize, Serialize};

use super::record::Version;
use crate::export::FORMATS;
use crate::names::unknown;
use crate::numerics::presets::{self, PRESETS, Preset};
use crate::plan::{Admission, Format};
use crate::tensor::DType;

/// A weight that is a multiple of every group and block.
const SHAPE: [usize; 2] = [1024, 1024];
/// The format that holds every scheme, dequantized.
const DENSE: &str = "dense";

/// A scheme.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchemeRecord {
    /// The name that `--scheme` takes.
    pub name: String,
    /// One line: the numbers, their size, and the loss.
    pub summary: String,
    /// Bits per weight of a linear, scales included.
    pub bits_per_weight: f64,
    /// The formats that hold it as it is. `dense` only where no other does.
    pub formats: Vec<FormatRecord>,
    /// The loss that was measured, without calibration text first.
    pub measured: Vec<Loss>,
    /// Version of this record.
    pub record: Version<1>,
}

/// A format that holds a scheme.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatRecord {
    /// The name that `--format` takes.
    pub format: String,
    /// The engines that load the scheme from it.
    pub engines: Vec<String>,
}

/// The loss of a scheme with a method: SmolLM2-135M on 24 × 512 tokens of wikitext-2-test, as docs/benchmarks.md has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// The method.
    pub method: String,
    /// True if it was calibrated on text.
    pub calibrated: bool,
    /// Mean KL divergence from the original, in nats.
    pub kld: f64,
    /// Perplexity; the original has 21.330.
    pub perplexity: f64,
}

/// (scheme, method, calibrated, mean KLD, perplexity): integers of 4 bits in groups of 64, as docs/benchmarks.md has them.
/// Its rows of k-quants are left out: most of that model's linears took a larger type.
const MEASURED: &[(&str, &str, bool, f64, f64)] = &[
    ("w4a16", "rtn", false, 0.4258, 31.604),
    ("w4a16", "mse", false, 0.406, 31.022),
    ("w4a16", "gptq", true, 0.0897, 22.691),
    ("w4a16", "autoround", true, 0.0818, 22.523),
    ("w4a16", "rotate, gptq", true, 0.0813, 22.818),
    ("w4a16-asym", "rtn", false, 0.2854, 26.957),
    ("w4a16-asym", "awq", true, 0.1129, 24.188),
    ("w4a16-asym", "gptq", true, 0.0769, 22.397),
    ("w4a16-asym", "awq-scale, gptq", true, 0.0625, 22.370),
    ("w8a16", "rtn", false, 0.0027, 21.360),
    ("w8a8", "smoothquant, rtn", true, 0.0023, 21.298),
    ("w8a8-static", "smoothquant, rtn", true, 0.691, 41.792),
    ("fp8-static", "rtn", true, 0.0366, 21.999),
    ("q8_0", "rtn", false, 0.0010, 21.355),
    ("q4_0", "rtn", false, 0.2580, 25.132),
    ("q4_0", "rtn", true, 0.1529, 22.774),
    ("q4_0", "gptq", true, 0.0737, 22.470),
];

/// Every scheme, in the order of `llmc quantize --help`; with a name that one alone.
///
/// # Errors
/// A name that is unknown, with the nearest known one.
pub fn schemes(name: Option<&str>) -> crate::Result<Vec<SchemeRecord>> {
    let Some(name) = name else { return Ok(PRESETS.iter().map(record).collect()) };
    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
    let found = presets::find(name).ok_or_else(|| unknown("scheme", name, &names))?;
    Ok(vec![record(found)])
}

fn record(preset: &Preset) -> SchemeRecord {
    let (dense, packed): (Vec<_>, Vec<_>) =
        FORMATS.iter().copied().filter(|format| holds(*format, preset)).partition(|it| it.name() == DENSE);
    let formats = if packed.is_empty() { dense } else { packed };
    let measured = MEASURED.iter().filter(|(scheme, ..)| *scheme == preset.name);
    SchemeRecord {
        name: preset.name.to_owned(),
        summary: preset.summary.to_owned(),
        bits_per_weight: preset.bits_per_weight(),
        formats: formats.into_iter().map(|format| format_record(format, preset)).collect(),
        measured: measured.map(loss).collect(),
        record: Version,
    }
}

fn holds(format: &dyn Format, preset: &Preset) -> bool {
    let inputs = preset.activations.is_none() || format.capabilities().activations;
    inputs && matches!(format.admit(&preset.scheme, &SHAPE, DType::BF16), Admission::As(_))
}

fn format_record(format: &dyn Format, preset: &Preset) -> FormatRecord {
    let engines = match format.name() {
        DENSE => vec!["anything".to_owned()],
        _ => format.engines(&preset.scheme).iter().map(|engine| engine.name().to_owned()).collect(),
    };
    FormatRecord { format: format.name().to_owned(), engines }
}

fn loss((_, method, calibrated, kld, perplexity): &(&str, &str, bool, f64, f64)) -> Loss {
    Loss { method: (*method).to_owned(), calibrated: *calibrated, kld: *kld, perplexity: *perplexity }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_has_a_format_with_engines() {
        for scheme in schemes(None).unwrap() {
            assert!(!scheme.formats.is_empty(), "{}", scheme.name);
            assert!(scheme.formats.iter().all(|format| !format.engines.is_empty()), "{}", scheme.name);
        }
    }

    #[test]
    fn formats_and_engines_of_some_schemes() {
        let check = |name: &str, expected: &[(&str, &str)]| {
            let [scheme] = schemes(Some(name)).unwrap().try_into().unwrap();
            let found = scheme.formats.iter().map(|it| (it.format.clone(), it.engines.join(", ")));
            let expected = expected.iter().map(|(format, engines)| ((*format).into(), (*engines).into()));
            assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<(String, String)>>(), "{name}");
        };
        let gptq = "transformers with gptqmodel, vLLM, SGLang";
        check(
            "int4",
            &[
                ("compressed-tensors", "transformers, vLLM, SGLang"),
                ("gptq", gptq),
                ("gptq-v2", gptq),
                ("awq", gptq),
            ],
        );
        check(
            "w4a16-asym",
            &[
                ("compressed-tensors", "transformers with dequantize=True, vLLM"),
                ("gptq-v2", gptq),
                ("awq", gptq),
            ],
        );
        check("w8a8", &[("compressed-tensors", "transformers, vLLM, SGLang")]);
        check("w6a16", &[("compressed-tensors", "transformers")]);
        check("nvfp4", &[("compressed-tensors", "transformers, vLLM")]);
        check("Q4_K_M", &[("gguf", "llama.cpp")]);
        check("nf4", &[("dense", "anything")]);
        assert!(schemes(Some("w4a17")).unwrap_err().hint().unwrap().contains("w4a16"));
    }

    #[test]
    fn what_was_measured_is_of_known_schemes_and_methods() {
        for (scheme, methods, ..) in MEASURED {
            assert!(PRESETS.iter().any(|preset| preset.name == *scheme), "{scheme}");
            for method in methods.split(", ") {
                assert!(crate::registry::METHODS.iter().any(|def| def.name == method), "{method}");
            }
        }
    }
}

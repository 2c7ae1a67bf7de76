//! Presets: the names that `--scheme` takes, and the cost of each.
//!
//! Bits per weight count codes, scales and zero points (BF16 scales; each format adapts the scale type to its own), for
//! a matrix whose columns are whole groups; per-channel and per-tensor scales are too few to show.

use serde::{Deserialize, Serialize};

use super::{EightBits, Fp8, Granularity, Number, ScaleType, Scheme};
use crate::similar::same;
use crate::tensor::BlockType;

/// The quantization of the inputs of a layer, which an engine does as it runs. Changes no stored weight; formats record it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationScheme {
    /// Symmetric INT8, one scale per token, computed at run time.
    Int8Token,
    /// FP8 E4M3, one scale per token, computed at run time.
    Fp8Token,
    /// FP8 E4M3, one scale per 128 consecutive features of a token, computed at run time.
    Fp8Group128,
    /// One scale per tensor, measured by calibration.
    Static(EightBits),
}

impl ActivationScheme {
    /// Returns the numbers under a scale that calibration measures; `None` if scales are computed at run time.
    pub(crate) fn measured(self) -> Option<EightBits> {
        match self {
            ActivationScheme::Static(number) => Some(number),
            ActivationScheme::Int8Token | ActivationScheme::Fp8Token | ActivationScheme::Fp8Group128 => None,
        }
    }
}

/// A named scheme.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Preset {
    /// The name that `--scheme` takes.
    pub name: &'static str,
    /// One line for `--help`: bits per weight and the loss.
    pub summary: &'static str,
    /// The scheme of the weights.
    pub scheme: Scheme,
    /// The scheme of the inputs; `None` leaves them in the model's float type.
    pub activations: Option<ActivationScheme>,
}

impl Preset {
    /// Bits of codes, scales (16 bits; NVFP4 and MXFP4: 8) and packed zero points, per weight of rows as long as most.
    pub(crate) fn bits_per_weight(&self) -> f64 {
        let scheme = &self.scheme;
        let scale_bits = if matches!(scheme.scale, ScaleType::E8M0 | ScaleType::E4M3) { 8.0 } else { 16.0 };
        let zero_bits = if scheme.symmetric { 0.0 } else { scheme.code_bits() };
        let per_group = match (scheme.number, scheme.granularity) {
            (Number::Ggml(_), _) => 0.0,
            (_, Group(group)) => (scale_bits + zero_bits) / group as f64,
            _ => 0.0,
        };
        scheme.code_bits() + per_group
    }

    const fn new(name: &'static str, summary: &'static str, scheme: Scheme) -> Preset {
        Preset { name, summary, scheme, activations: None }
    }

    const fn with(self, activations: ActivationScheme) -> Preset {
        Preset { activations: Some(activations), ..self }
    }

    const fn ggml(block: BlockType, summary: &'static str) -> Preset {
        Preset::new(block.name(), summary, Scheme::ggml(block))
    }
}

/// Finds a preset by its name or by one that people use for it, in either case.
pub fn find(name: &str) -> Option<&'static Preset> {
    let alias = ALIASES.iter().find(|(alias, _)| same(alias, name));
    let name = alias.map_or(name, |(_, name)| name);
    PRESETS.iter().find(|preset| same(preset.name, name))
}

/// Names that other tools have for presets. Of llama.cpp's mixtures, the type of most weights: `q4_k_m` has a few in `q6_k`.
const ALIASES: &[(&str, &str)] = &[
    ("int4", "w4a16"),
    ("int8", "w8a16"),
    ("fp8-dynamic", "fp8"),
    ("q2_k_s", "q2_k"),
    ("q3_k_s", "q3_k"),
    ("q3_k_m", "q3_k"),
    ("q3_k_l", "q3_k"),
    ("q4_k_s", "q4_k"),
    ("q4_k_m", "q4_k"),
    ("q5_k_s", "q5_k"),
    ("q5_k_m", "q5_k"),
];

use Granularity::{Block, Channel, Group, Tensor};
use ScaleType::BF16;

/// Every preset, in the order `--help` lists them: integers, floats, GGUF blocks; fewer bits first.
pub const PRESETS: &[Preset] = &[
    Preset::new(
        "w2a16",
        "INT2 in asymmetric groups of 64: 2.28 bits per weight; for research, breaks most models without training",
        Scheme::int(2, Group(64), false, BF16),
    ),
    Preset::new(
        "w3a16",
        "INT3 in groups of 128: 3.13 bits per weight; a visible loss below 30B parameters",
        Scheme::int(3, Group(128), true, BF16),
    ),
    Preset::new(
        "w4a16",
        "INT4 in groups of 128: 4.13 bits per weight, a small loss; `--bits 4` takes groups of 64",
        Scheme::int(4, Group(128), true, BF16),
    ),
    Preset::new(
        "w4a16-asym",
        "INT4 with zero points in groups of 128: 4.16 bits per weight; less loss than w4a16, slower kernels",
        Scheme::int(4, Group(128), false, BF16),
    ),
    Preset::new(
        "w5a16",
        "INT5 in groups of 128: 5.13 bits per weight, hardly any loss; few engines have a kernel",
        Scheme::int(5, Group(128), true, BF16),
    ),
    Preset::new(
        "w6a16",
        "INT6 in groups of 128: 6.13 bits per weight, hardly any loss; few engines have a kernel",
        Scheme::int(6, Group(128), true, BF16),
    ),
    Preset::new(
        "w8a16",
        "INT8 per channel: 8 bits per weight, practically lossless",
        Scheme::int(8, Channel, true, BF16),
    ),
    Preset::new(
        "w8a8",
        "INT8 per channel, INT8 inputs per token: 8 bits per weight; integer matrix products, outliers in inputs hurt",
        Scheme::int(8, Channel, true, BF16),
    )
    .with(ActivationScheme::Int8Token),
    Preset::new(
        "w8a8-static",
        "w8a8 with one scale for all inputs of a layer, measured on --data: 8 bits per weight; nothing to find at run time, outliers hurt more",
        Scheme::int(8, Channel, true, BF16),
    )
    .with(ActivationScheme::Static(EightBits::Int8)),
    Preset::new(
        "fp8",
        "FP8 E4M3 per channel, FP8 inputs per token: 8 bits per weight, practically lossless; needs an FP8 GPU",
        Scheme::fp8(Fp8::E4M3, Channel, BF16),
    )
    .with(ActivationScheme::Fp8Token),
    Preset::new(
        "fp8-tensor",
        "FP8 E4M3 with one scale per tensor, FP8 inputs per token: 8 bits per weight; for engines without channel scales",
        Scheme::fp8(Fp8::E4M3, Tensor, BF16),
    )
    .with(ActivationScheme::Fp8Token),
    Preset::new(
        "fp8-static",
        "fp8-tensor with one scale for all inputs of a layer, measured on --data: 8 bits per weight; the fastest FP8 of most engines",
        Scheme::fp8(Fp8::E4M3, Tensor, BF16),
    )
    .with(ActivationScheme::Static(EightBits::Fp8)),
    Preset::new(
        "fp8-block",
        "FP8 E4M3 in blocks of 128×128, FP8 inputs in groups of 128 (DeepSeek-V3): 8 bits per weight",
        Scheme::fp8(Fp8::E4M3, Block(128, 128), BF16),
    )
    .with(ActivationScheme::Fp8Group128),
    Preset::new(
        "fp8-e5m2",
        "FP8 E5M2 per channel: 8 bits per weight, two mantissa bits; for study, with --format dense: engines want E4M3",
        Scheme::fp8(Fp8::E5M2, Channel, BF16),
    ),
    Preset::new(
        "nvfp4",
        "NVFP4, E2M1 in groups of 16 under E4M3 scales: 4.5 bits per weight, inputs left alone; native on Blackwell",
        Scheme::NVFP4,
    ),
    Preset::new(
        "mxfp4",
        "MXFP4, E2M1 in groups of 32 under powers of two: 4.25 bits per weight; more loss than nvfp4",
        Scheme::MXFP4,
    ),
    Preset::new(
        "nf4",
        "NF4 (QLoRA) in groups of 64: 4.25 bits per weight; a base for adapters; no engine's format here holds it: --format dense",
        Scheme::nf4(64, BF16),
    ),
    Preset::ggml(BlockType::Q2_K, "2.63 bits per weight; the smallest, a large loss"),
    Preset::ggml(BlockType::Q3_K, "3.44 bits per weight; a visible loss"),
    Preset::ggml(BlockType::IQ4_XS, "4.25 bits per weight; as good as q4_k for its size, slower on CPUs"),
    Preset::ggml(BlockType::Q4_0, "4.5 bits per weight; the fastest on CPUs, more loss than q4_k"),
    Preset::ggml(BlockType::IQ4_NL, "4.5 bits per weight; for rows that are not a multiple of 256"),
    Preset::ggml(BlockType::Q4_K, "4.5 bits per weight, a small loss; the usual choice for llama.cpp"),
    Preset::ggml(BlockType::Q4_1, "5 bits per weight; a minimum per block, less loss than q4_0"),
    Preset::ggml(BlockType::Q5_0, "5.5 bits per weight; for rows that are not a multiple of 256"),
    Preset::ggml(BlockType::Q5_K, "5.5 bits per weight, hardly any loss"),
    Preset::ggml(BlockType::Q5_1, "6 bits per weight; a minimum per block, less loss than q5_0"),
    Preset::ggml(BlockType::Q6_K, "6.56 bits per weight, practically lossless"),
    Preset::ggml(BlockType::Q8_0, "8.5 bits per weight, practically lossless; fast everywhere"),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_either_case_and_are_unique() {
        for preset in PRESETS {
            assert_eq!(find(&preset.name.to_uppercase()), Some(preset));
            assert_eq!(PRESETS.iter().filter(|other| other.name == preset.name).count(), 1);
        }
        assert_eq!(find("w4a17"), None);
    }

    #[test]
    fn summaries_tell_the_true_bits_per_weight() {
        for preset in PRESETS {
            let words: Vec<&str> = preset.summary.split(" bits per weight").collect();
            let stated: f64 = words[0].rsplit(' ').next().unwrap().parse().unwrap();
            let counted = preset.bits_per_weight();
            assert!((stated - counted).abs() <= 0.0051, "{}: {counted}", preset.name);
        }
    }

    #[test]
    fn every_block_type_has_a_preset() {
        for block in BlockType::ALL {
            assert_eq!(find(block.name()).map(|preset| preset.scheme), Some(Scheme::ggml(block)));
        }
    }
}

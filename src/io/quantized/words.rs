//! The quantization of a checkpoint in words, for `inspect` and `plan`.

use std::collections::BTreeMap;

use super::config::Config;
use crate::io::source::{Layout, Source, Stored};
use crate::numerics::{Fp8, Granularity, Number, Scheme};

/// `gptq v1: int4 asymmetric, group 128 (168 tensors)`. `None` where nothing is quantized; a configuration that says
/// otherwise is warned about.
pub(super) fn describe<'a>(config: &Config, sources: impl Iterator<Item = &'a Source>) -> Option<String> {
    let mut counts = BTreeMap::new();
    for source in sources {
        if let Stored::Quantized { layout, scheme, .. } = &source.stored {
            *counts.entry(format!("{}: {}", layout_name(*layout), scheme_words(scheme))).or_insert(0usize) +=
                1;
        }
    }
    if counts.is_empty() {
        if let Some(method) = config.method.as_ref().filter(|_| !config.dense) {
            tracing::warn!(
                "{}: quant_method is \"{method}\", but no tensor is stored quantized: read as a dense model",
                config.file.display()
            );
        }
        return None;
    }
    let words: Vec<_> = counts.iter().map(|(words, count)| format!("{words} ({count} tensors)")).collect();
    Some(words.join("; "))
}

fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::CompressedPacked => "compressed-tensors pack-quantized",
        Layout::CompressedPlain => "one byte per weight",
        Layout::CompressedNvFp4 => "compressed-tensors nvfp4-pack-quantized",
        Layout::CompressedMxFp4 => "compressed-tensors mxfp4-pack-quantized",
        Layout::ModelOptNvFp4 => "modelopt nvfp4",
        Layout::Mxfp4Experts => "mxfp4 experts",
        Layout::GptqV1 => "gptq v1",
        Layout::GptqV2 => "gptq v2",
        Layout::Awq => "awq gemm",
    }
}

fn scheme_words(scheme: &Scheme) -> String {
    let number = match scheme.number {
        Number::Int { bits } => {
            format!("int{bits} {}", if scheme.symmetric { "symmetric" } else { "asymmetric" })
        }
        Number::Fp8(Fp8::E4M3) => "fp8 e4m3".into(),
        Number::Fp8(Fp8::E5M2) => "fp8 e5m2".into(),
        Number::Fp4 => "fp4 e2m1".into(),
        Number::Nf4 => "nf4".into(),
        Number::Ggml(block) => block.name().into(),
    };
    let granularity = match scheme.granularity {
        Granularity::Tensor => "per tensor".into(),
        Granularity::Channel => "per channel".into(),
        Granularity::Group(group) => format!("group {group}"),
        Granularity::Block(rows, cols) => format!("blocks of {rows}x{cols}"),
    };
    format!("{number}, {granularity}")
}

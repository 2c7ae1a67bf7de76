//! The layouts of compressed-tensors, and the choice between them.

use crate::export::layout::words;
use crate::numerics::presets::ActivationScheme;
use crate::numerics::{EightBits, Fp8, Granularity, Number, ScaleType, Scheme};
use crate::plan::Part;
use crate::tensor::DType;

/// FP8 blocks, in both directions: the only ones that engines have kernels for.
pub(crate) const FP8_BLOCK: usize = 128;

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    Packed { bits: u8 },
    Int8,
    Fp8,
    NvFp4,
    MxFp4,
}

impl Layout {
    /// `None` where the readers have no layout for the scheme. Integers that engines multiply with integer inputs are
    /// stored as such, those that they dequantize first as words.
    pub(crate) fn of(scheme: &Scheme, activations: Option<ActivationScheme>) -> Option<Layout> {
        let channel = scheme.granularity == Granularity::Channel;
        let integer_inputs = matches!(
            activations,
            Some(ActivationScheme::Int8Token | ActivationScheme::Static(EightBits::Int8))
        );
        Some(match scheme.number {
            Number::Int { bits: 8 } if scheme.symmetric && channel && integer_inputs => Layout::Int8,
            Number::Int { bits } => Layout::Packed { bits },
            Number::Fp8(Fp8::E4M3) => Layout::Fp8,
            Number::Fp4 if scheme.scale == ScaleType::E4M3 => Layout::NvFp4,
            Number::Fp4 => Layout::MxFp4,
            Number::Fp8(Fp8::E5M2) | Number::Nf4 | Number::Ggml(_) => return None,
        })
    }

    /// The layout that gave these parts.
    pub(crate) fn of_parts(scheme: &Scheme, parts: &[Part]) -> Option<Layout> {
        let plain = parts[0].dtype == DType::I8;
        Layout::of(scheme, plain.then_some(ActivationScheme::Int8Token))
    }

    /// As `format` names it in the config.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Layout::Packed { .. } => "pack-quantized",
            Layout::Int8 => "int-quantized",
            Layout::Fp8 => "float-quantized",
            Layout::NvFp4 => "nvfp4-pack-quantized",
            Layout::MxFp4 => "mxfp4-pack-quantized",
        }
    }

    pub(crate) fn weight_name(self) -> &'static str {
        match self {
            Layout::Int8 | Layout::Fp8 => "weight",
            Layout::Packed { .. } | Layout::NvFp4 | Layout::MxFp4 => "weight_packed",
        }
    }

    /// Element type and row length of the weight, of `cols` columns.
    pub(crate) fn weight(self, cols: usize) -> (DType, usize) {
        match self {
            Layout::Packed { bits } => (DType::I32, words(cols, bits)),
            Layout::Int8 => (DType::I8, cols),
            Layout::Fp8 => (DType::F8E4M3, cols),
            Layout::NvFp4 | Layout::MxFp4 => (DType::U8, cols.div_ceil(2)),
        }
    }
}

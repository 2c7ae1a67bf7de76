//! GGUF: one file that llama.cpp and what is built on it run, tokenizer and settings included.
//!
//! Quantized tensors are GGUF's block types, whose bytes are the codes themselves. Tensors get GGUF's names and order of
//! rows ([`arrange`]); settings and tokenizer become metadata ([`metadata`]). Limits: the architectures of
//! [`crate::model::ARCHITECTURES`], and whatever a GGUF input already names in GGUF's way.

mod arrange;
mod metadata;

use crate::error::Result;
use crate::io::Checkpoint;
use crate::io::gguf::Metadata;
use crate::io::gguf::write::{Constant, TensorInfo, lay_out};
use crate::numerics::ggml::integers;
use crate::numerics::{Codes, Number, QTensor, ScaleType, Scheme};
use crate::plan::{
    Admission, Capabilities, Contents, Engine, Format, LayoutContext, OutputFile, OutputTensor, Part,
    PartPlace, SINGLE_FILE_NAME, Sink,
};
use crate::tensor::{BlockType, DType, rows_cols};

/// GGUF.
#[derive(Debug)]
pub(crate) struct Gguf;

const CAPABILITIES: Capabilities = Capabilities {
    name: "gguf",
    summary: "llama.cpp and what is built on it: one file, tokenizer included",
    engines: &[Engine::LlamaCpp],
    single_file: true,
    quantized_heads: true,
    ..Capabilities::FOLDER
};

impl Format for Gguf {
    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn admit(&self, scheme: &Scheme, shape: &[usize], _dtype: DType) -> Admission {
        let Some(block) = block_of(scheme) else {
            return Admission::Never(
                "GGUF holds its own block types: --scheme q4_k, q8_0 and so on (llmc quantize --help); and symmetric \
                 integers of 4, 5 or 8 bits in groups of 32, as q4_0, q5_0 and q8_0"
                    .into(),
            );
        };
        let [_, cols] = rows_cols(shape);
        let fits = |block: BlockType| cols.is_multiple_of(block.block_elements());
        let reason = format!("{cols} columns are not a multiple of {}", block.block_elements());
        match substitute(block) {
            _ if fits(block) => Admission::As(Scheme { scale: ScaleType::F16, ..*scheme }),
            Some(other) if fits(other) => {
                Admission::Instead(Scheme::ggml(other), format!("{reason}: {}", other.name()))
            }
            _ => Admission::Dense(reason),
        }
    }

    fn arrange(&self, checkpoint: &Checkpoint) -> Result<Vec<OutputTensor>> {
        arrange::arrange(checkpoint)
    }

    /// llama.cpp adds biases, multiplies by norms and routes in F32.
    fn dense_dtype(&self, output: &OutputTensor, dtype: DType) -> DType {
        let small = output.shape.len() < 2 || output.name.ends_with("norm.weight");
        match dtype {
            _ if dtype.is_float() && (small || output.name.contains("ffn_gate_inp")) => DType::F32,
            DType::F8E4M3 | DType::F8E5M2 => DType::BF16,
            other => other,
        }
    }

    fn parts(&self, output: &OutputTensor, scheme: &Scheme, _context: &LayoutContext) -> Vec<Part> {
        vec![Part {
            name: output.name.clone(),
            dtype: DType::Block(block_of(scheme).expect(ADMITTED)),
            shape: output.shape.clone(),
        }]
    }

    fn row_multiple(&self, _scheme: &Scheme) -> usize {
        1
    }

    fn encode(&self, q: &QTensor, first_row: usize, _parts: &[Part], sink: &mut Sink) -> Result<()> {
        let block = block_of(&q.scheme()).expect(ADMITTED);
        let row_bytes = q.cols / block.block_elements() * block.block_bytes();
        let offset = (first_row * row_bytes) as u64;
        match &q.codes {
            Codes::Blocks { bytes, .. } => sink(0, offset, bytes),
            Codes::Scalar(_) => sink(0, offset, &integers::pack(q)),
        }
    }

    fn files(&self, contents: &Contents, checkpoint: &Checkpoint) -> Result<Vec<OutputFile>> {
        let (metadata, constants) = metadata::metadata(contents, checkpoint)?;
        Ok(vec![file(contents, &metadata, &constants)?])
    }

    fn side_files(&self, _contents: &Contents, _checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(Vec::new())
    }
}

/// The block type that llama.cpp takes instead where rows are not whole blocks: `convert_incompatible_tensor` of
/// <https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp>.
fn substitute(block: BlockType) -> Option<BlockType> {
    match block {
        BlockType::Q2_K | BlockType::Q3_K | BlockType::IQ4_XS => Some(BlockType::IQ4_NL),
        BlockType::Q4_K => Some(BlockType::Q5_0),
        BlockType::Q5_K => Some(BlockType::Q5_1),
        BlockType::Q6_K => Some(BlockType::Q8_0),
        _ => None,
    }
}

const ADMITTED: &str = "admit lets in what block types hold";

/// The block type that holds a scheme.
fn block_of(scheme: &Scheme) -> Option<BlockType> {
    match scheme.number {
        Number::Ggml(block) => Some(block),
        _ => integers::holding(scheme),
    }
}

/// Lays out the one file of an output.
fn file(contents: &Contents, metadata: &Metadata, constants: &[Constant]) -> Result<OutputFile> {
    let parts: Vec<(usize, usize, &Part)> = contents
        .tensors
        .iter()
        .enumerate()
        .flat_map(|(tensor, plan)| plan.parts.iter().enumerate().map(move |(at, part)| (tensor, at, part)))
        .collect();
    let infos = parts.iter().map(|(_, _, part)| TensorInfo {
        name: &part.name,
        dtype: part.dtype,
        shape: &part.shape,
    });
    let layout = lay_out(infos, metadata, constants)?;
    let places = parts.iter().zip(layout.offsets);
    let places = places.map(|(&(tensor, part, _), offset)| PartPlace { tensor, part, offset }).collect();
    Ok(OutputFile { name: SINGLE_FILE_NAME.into(), header: layout.header, parts: places, len: layout.len })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::numerics::Granularity;

    fn check(block: BlockType, cols: usize, expected: &str) {
        let found = match Gguf.admit(&Scheme::ggml(block), &[8, cols], DType::BF16) {
            Admission::As(scheme) => format!("as {}", block_of(&scheme).unwrap().name()),
            Admission::Instead(scheme, why) => format!("{} because {why}", block_of(&scheme).unwrap().name()),
            Admission::Dense(why) => format!("dense because {why}"),
            Admission::Never(_) => "never".into(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn rows_that_are_not_whole_blocks_get_llama_cpps_substitute() {
        check(BlockType::Q4_K, 512, "as q4_k");
        check(BlockType::Q4_K, 576, "q5_0 because 576 columns are not a multiple of 256: q5_0");
        check(BlockType::Q6_K, 576, "q8_0 because 576 columns are not a multiple of 256: q8_0");
        check(BlockType::IQ4_XS, 32, "iq4_nl because 32 columns are not a multiple of 256: iq4_nl");
        check(BlockType::Q4_K, 100, "dense because 100 columns are not a multiple of 256");
        check(BlockType::Q8_0, 100, "dense because 100 columns are not a multiple of 32");
    }

    #[test]
    fn integers_in_groups_of_32_are_blocks() {
        let admit = |group| {
            let scheme = Scheme::int(4, Granularity::Group(group), true, ScaleType::BF16);
            Gguf.admit(&scheme, &[8, 256], DType::BF16)
        };
        let Admission::As(scheme) = admit(32) else { panic!("refused") };
        assert_eq!((block_of(&scheme), scheme.scale), (Some(BlockType::Q4_0), ScaleType::F16));
        assert!(matches!(admit(64), Admission::Never(_)));
    }

    #[test]
    fn other_numbers_are_refused_with_a_hint() {
        let admission = Gguf.admit(&Scheme::MXFP4, &[8, 256], DType::BF16);
        assert!(matches!(admission, Admission::Never(hint) if hint.contains("q4_k")));
    }
}

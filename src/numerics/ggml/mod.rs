//! GGUF block types: quantize and dequantize rows of blocks.
//!
//! Each type is a file with two functions, `quantize_row` and `dequantize_row`; [`codec`] is the one match over them.
//! Single-threaded: who calls splits the rows. Layouts, to the byte, are llama.cpp's:
//! <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.

mod affine;
mod best;
mod block;
pub mod integers;
mod iq4;
mod iq4_nl;
mod iq4_xs;
mod k_quants;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod lanes_avx2;
#[cfg(target_arch = "aarch64")]
mod lanes_neon;
mod parts;
mod q4_0;
mod q4_1;
mod q5_0;
mod q5_1;
mod q8_0;
mod symmetric;
mod weighing;

use ndarray::{ArrayView1, ArrayView2};

pub use parts::{Formula, Parts, formula};

use crate::tensor::BlockType;

/// The two directions of a block type.
struct Codec {
    /// (values of one row, importance of its columns, blocks): the row's error is weighted by the importance.
    quantize_row: fn(&[f32], Option<&[f32]>, &mut [u8]),
    /// (blocks, values). Any bytes are blocks.
    dequantize_row: fn(&[u8], &mut [f32]),
}

macro_rules! codec {
    ($($module:ident)::+) => {
        Codec { quantize_row: $($module)::+::quantize_row, dequantize_row: $($module)::+::dequantize_row }
    };
}

/// The same for modules of `inline(always)` functions that search over some lanes.
macro_rules! codec_over {
    ($lanes:ty, $module:ident) => {
        Codec { quantize_row: $module::quantize_row::<$lanes>, dequantize_row: $module::dequantize_row }
    };
}

/// The same compiled for AVX2 where the processor has it. (NEON is the baseline on aarch64.)
macro_rules! fastest_codec {
    ($module:ident) => {{
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            #[target_feature(enable = "avx2")]
            fn quantize_row(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
                $module::quantize_row::<lanes_avx2::Avx2>(x, importance, out);
            }
            #[target_feature(enable = "avx2")]
            fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
                $module::dequantize_row(bytes, out);
            }
            return Codec {
                // SAFETY: AVX2 has just been detected.
                quantize_row: |x, importance, out| unsafe { quantize_row(x, importance, out) },
                // SAFETY: as above.
                dequantize_row: |bytes, out| unsafe { dequantize_row(bytes, out) },
            };
        }
        #[cfg(target_arch = "aarch64")]
        return codec_over!(lanes_neon::Neon, $module);
        #[cfg(not(target_arch = "aarch64"))]
        codec_over!(lanes::Plain, $module)
    }};
}

/// The fast path of a block type.
fn codec(block: BlockType) -> Codec {
    match block {
        BlockType::Q4_0 => fastest_codec!(q4_0),
        BlockType::Q4_1 => fastest_codec!(q4_1),
        BlockType::Q5_0 => fastest_codec!(q5_0),
        BlockType::Q5_1 => fastest_codec!(q5_1),
        BlockType::Q8_0 => fastest_codec!(q8_0),
        BlockType::IQ4_NL => fastest_codec!(iq4_nl),
        BlockType::IQ4_XS => fastest_codec!(iq4_xs),
        BlockType::Q2_K => codec!(k_quants::q2_k),
        BlockType::Q3_K => codec!(k_quants::q3_k),
        BlockType::Q4_K => codec!(k_quants::q4_k),
        BlockType::Q5_K => codec!(k_quants::q5_k),
        BlockType::Q6_K => codec!(k_quants::q6_k),
    }
}

/// Quantizes rows to blocks, row after row; `importance` is per column, \[cols\].
///
/// # Panics
/// Where a row is not a whole number of blocks, or where the importance is not one per column.
pub fn quantize(block: BlockType, w: ArrayView2<f32>, importance: Option<&[f32]>) -> Vec<u8> {
    let cols = w.ncols();
    assert_eq!(cols % block.block_elements(), 0, "quantize: a row is not a whole number of blocks");
    assert!(importance.is_none_or(|x| x.len() == cols), "quantize: importance is not one per column");
    let row_bytes = cols / block.block_elements() * block.block_bytes();
    let mut bytes = vec![0; w.nrows() * row_bytes];
    if row_bytes == 0 {
        return bytes;
    }
    let quantize_row = codec(block).quantize_row;
    let mut copy = Vec::new();
    for (row, out) in w.rows().into_iter().zip(bytes.chunks_exact_mut(row_bytes)) {
        quantize_row(contiguous(&row, &mut copy), importance, out);
    }
    bytes
}

/// The row itself where it lies in one piece, else a copy.
fn contiguous<'a>(row: &'a ArrayView1<f32>, copy: &'a mut Vec<f32>) -> &'a [f32] {
    if let Some(row) = row.as_slice() {
        return row;
    }
    copy.clear();
    copy.extend(row);
    copy
}

/// Blocks → values.
///
/// # Panics
/// Where the lengths disagree.
pub fn dequantize(block: BlockType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len() % block.block_bytes(), 0, "dequantize: not a whole number of blocks");
    let blocks = bytes.len() / block.block_bytes();
    assert_eq!(out.len(), blocks * block.block_elements(), "dequantize: wrong output length");
    (codec(block).dequantize_row)(bytes, out);
}

#[cfg(test)]
mod tests;

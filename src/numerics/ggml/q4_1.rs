//! Q4_1: 32 weights share an f16 scale d and an f16 minimum m; w = d·code + m, codes of 4 bits.
//!
//! d, m, then 16 bytes of nibbles ([`block::pack_nibbles`]). `block_q4_1` of
//! <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.

use half::f16;

use super::affine::Line;
use super::block::{self, BLOCK};
use super::lanes::Lanes;
use super::parts::Parts;
use super::weighing::Weighing;
use crate::tensor::BlockType;

const BYTES: usize = 4 + BLOCK / 2;
const _: () = assert!(BYTES == BlockType::Q4_1.block_bytes());

/// The largest code.
const LAST: u8 = 15;

#[inline(always)]
pub fn quantize_row<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let weighing = Weighing::new(x, importance, 1.0);
    for (i, (x, out)) in block::blocks::<BYTES>(x, out).enumerate() {
        let line = Line::of::<L>(x, weighing.as_ref().map(|w| w.block(i, x)), LAST);
        let codes = line.codes(x, LAST);
        let [d0, d1, m0, m1, nibbles @ ..] = out;
        [*d0, *d1] = line.scale.to_le_bytes();
        [*m0, *m1] = line.minimum.to_le_bytes();
        *nibbles = block::pack_nibbles(&codes);
    }
}

#[inline(always)]
pub fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
    for ([d0, d1, m0, m1, nibbles @ ..], out) in block::blocks_mut::<BYTES>(bytes, out) {
        let d = f16::from_le_bytes([*d0, *d1]).to_f32();
        let m = f16::from_le_bytes([*m0, *m1]).to_f32();
        let codes = block::unpack_nibbles(nibbles);
        *out = block::each(|j| f32::from(codes[j]) * d + m);
    }
}

/// A block's numbers: see [`parts`](super::parts).
pub fn parts(bytes: &[u8]) -> Parts {
    let [d0, d1, m0, m1, nibbles @ ..] = block::first::<BYTES>(bytes);
    let [d, m] = [[*d0, *d1], [*m0, *m1]].map(f16::from_le_bytes);
    Parts::of_one_group(d, -m, block::unpack_nibbles(nibbles))
}

//! Q4_0: 32 weights share an f16 scale d; w = d·(code − 8), codes of 4 bits.
//!
//! d, then 16 bytes of nibbles ([`block::pack_nibbles`]). `block_q4_0` of
//! <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.

use half::f16;

use super::block::{self, BLOCK};
use super::lanes::Lanes;
use super::parts::Parts;
use super::symmetric::Scale;
use super::weighing::Weighing;
use crate::tensor::BlockType;

const BYTES: usize = 2 + BLOCK / 2;
const _: () = assert!(BYTES == BlockType::Q4_0.block_bytes());

/// Codes are l + LEVELS, with l in −LEVELS..LEVELS.
const LEVELS: u8 = 8;

#[inline(always)]
pub fn quantize_row<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let weighing = Weighing::new(x, importance, 1.0);
    for (i, (x, out)) in block::blocks::<BYTES>(x, out).enumerate() {
        let scale = Scale::of::<L>(x, weighing.as_ref().map(|w| w.block(i, x)), LEVELS);
        let codes = scale.codes(x, LEVELS);
        let [d0, d1, nibbles @ ..] = out;
        [*d0, *d1] = scale.stored.to_le_bytes();
        *nibbles = block::pack_nibbles(&codes);
    }
}

#[inline(always)]
pub fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
    for ([d0, d1, nibbles @ ..], out) in block::blocks_mut::<BYTES>(bytes, out) {
        let d = f16::from_le_bytes([*d0, *d1]).to_f32();
        let codes = block::unpack_nibbles(nibbles);
        *out = block::each(|j| (f32::from(codes[j]) - f32::from(LEVELS)) * d);
    }
}

/// A block's numbers: see [`parts`](super::parts).
pub fn parts(bytes: &[u8]) -> Parts {
    let [d0, d1, nibbles @ ..] = block::first::<BYTES>(bytes);
    let d = f16::from_le_bytes([*d0, *d1]);
    Parts::of_one_group(d, f16::ZERO, block::unpack_nibbles(nibbles))
}

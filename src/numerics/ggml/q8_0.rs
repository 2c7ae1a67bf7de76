//! Q8_0: 32 weights share an f16 scale d; w = d·code, codes of 8 bits, −127..=127.
//!
//! d, then one byte per code. `block_q8_0` of
//! <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.

use half::f16;

use super::block::{self, BLOCK, PerWeight};
use super::codec::BlockCodec;
use super::lanes::Lanes;
use super::parts::Parts;
use super::symmetric;
use super::weighing::Weighing;
use crate::tensor::BlockType;

const BYTES: usize = 2 + BLOCK;
const _: () = assert!(BYTES == BlockType::Q8_0.block_bytes());

/// The type.
pub(crate) struct Q8_0;

impl BlockCodec for Q8_0 {
    #[inline(always)]
    fn quantize_row<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let weighing = Weighing::new(x, importance, 1.0);
        for (i, (x, out)) in x.as_chunks().0.iter().zip(out.as_chunks_mut::<BYTES>().0).enumerate() {
            let (d, inverse) = scale::<L>(x, weighing.as_ref().map(|w| w.block(i, x)));
            let [d0, d1, codes @ ..] = out;
            [*d0, *d1] = d.to_le_bytes();
            *codes = block::signed_codes(x, inverse);
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for ([d0, d1, codes @ ..], out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut().0) {
            let d = f16::from_le_bytes([*d0, *d1]).to_f32();
            *out = block::each(|j| f32::from(codes[j] as i8) * d);
        }
    }

    /// Takes a block apart; codes are the signed ones plus 128.
    fn parts(bytes: &[u8]) -> Parts {
        let codes: &PerWeight<u8> = block::first(&bytes[2..]);
        Parts::of_one_group(block::half(bytes), f16::ZERO, codes.map(|code| code ^ 0x80))
    }

    fn put_codes(bytes: &mut [u8], codes: &[u8]) {
        bytes[2..].iter_mut().zip(codes).for_each(|(byte, code)| *byte = code ^ 0x80);
    }
}

/// Returns the scale as stored, and the factor for values: the reciprocal of the stored scale if there are weights, else that
/// of the unrounded scale, as in llama.cpp.
#[inline(always)]
fn scale<L: Lanes>(x: &PerWeight<f32>, weights: Option<PerWeight<f32>>) -> (f16, f32) {
    if let Some(d) = weights.and_then(|weights| symmetric::search::<L>(x, &weights, -127.0, 127.0)) {
        let stored = f16::from_f32(block::clamp_to_f16(d));
        return (stored, block::reciprocal(stored.to_f32()));
    }
    let d = block::clamp_to_f16(block::absmax(x) / 127.0);
    (f16::from_f32(d), block::reciprocal(d))
}

//! IQ4_NL: 32 weights share an f16 scale d; w = d·level(code), codes of 4 bits for 16 uneven levels.
//!
//! d, then 16 bytes of nibbles ([`block::pack_nibbles`]). `block_iq4_nl` of
//! <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.

use half::f16;

use super::block::{self, BLOCK};
use super::codec::BlockCodec;
use super::iq4;
use super::lanes::Lanes;
use super::parts::Parts;
use super::weighing::Weighing;
use crate::tensor::BlockType;

const BYTES: usize = 2 + BLOCK / 2;
const _: () = assert!(BYTES == BlockType::IQ4_NL.block_bytes());

/// The type.
pub(crate) struct Iq4Nl;

impl BlockCodec for Iq4Nl {
    #[inline(always)]
    fn quantize_row<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        for (i, (x, out)) in x.as_chunks().0.iter().zip(out.as_chunks_mut::<BYTES>().0).enumerate() {
            let importance = importance.map(|h| &h[i * BLOCK..(i + 1) * BLOCK]);
            let weights = iq4::weights(x, Weighing::new(x, importance, 2.0).as_ref(), 0);
            let d = f16::from_f32(block::clamp_to_f16(iq4::search::<L>(x, &weights)));
            let codes = iq4::codes(x, block::reciprocal(d.to_f32()));
            let [d0, d1, nibbles @ ..] = out;
            [*d0, *d1] = d.to_le_bytes();
            *nibbles = block::pack_nibbles(&codes);
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        for ([d0, d1, nibbles @ ..], out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut().0) {
            let d = f16::from_le_bytes([*d0, *d1]).to_f32();
            let codes = block::unpack_nibbles(nibbles);
            *out = block::each(|j| iq4::level(codes[j]) * d);
        }
    }

    fn parts(bytes: &[u8]) -> Parts {
        let codes = block::unpack_nibbles(block::first(&bytes[2..]));
        Parts::of_one_group(block::half(bytes), f16::ZERO, block::each(|j| iq4::shifted_level(codes[j])))
    }

    fn put_codes(bytes: &mut [u8], codes: &[u8]) {
        iq4::put_codes(&mut bytes[2..], codes);
    }
}

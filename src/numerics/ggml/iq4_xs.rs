//! IQ4_XS: super-blocks of 256 weights, 8 blocks of 32; w = d·(scale − 32)·level(code), scales of 6 bits, codes of 4.
//!
//! d (f16), the scales' high 2 bits (u16, the first block's lowest), their low 4 bits (two a byte, the first low), then
//! per block 16 bytes of nibbles ([`block::pack_nibbles`]). `block_iq4_xs` of
//! <https://github.com/ggml-org/llama.cpp/blob/01243c587feceaa5d6a6c2305535ef2f549c48b8/ggml/src/ggml-common.h>.

use half::f16;

use super::block::{self, BLOCK, PerWeight};
use super::codec::BlockCodec;
use super::iq4;
use super::lanes::Lanes;
use super::parts::Parts;
use super::weighing::Weighing;
use crate::tensor::BlockType;

/// Blocks per super-block.
const BLOCKS: usize = 8;
/// Bytes before the nibbles.
const HEAD: usize = 2 + 2 + BLOCKS / 2;
const BYTES: usize = HEAD + BLOCKS * BLOCK / 2;
const _: () = assert!(BYTES == BlockType::IQ4_XS.block_bytes());

/// The type.
pub(crate) struct Iq4Xs;

impl BlockCodec for Iq4Xs {
    #[inline(always)]
    fn quantize_row<L: Lanes>(x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let super_blocks = x.as_chunks::<{ BLOCKS * BLOCK }>().0.iter().zip(out.as_chunks_mut().0);
        for (i, (x, out)) in super_blocks.enumerate() {
            let range = i * x.len()..(i + 1) * x.len();
            quantize::<L>(x.as_chunks().0, importance.map(|h| &h[range]), out);
        }
    }

    #[inline(always)]
    fn dequantize_row(bytes: &[u8], out: &mut [f32]) {
        let super_blocks = bytes.as_chunks::<BYTES>().0.iter().zip(out.chunks_exact_mut(BLOCKS * BLOCK));
        for (bytes, out) in super_blocks {
            let (head, nibbles) = split_head(bytes);
            let (d, scales) = unpack_head(head);
            for ((out, nibbles), scale) in
                out.as_chunks_mut().0.iter_mut().zip(nibbles.as_chunks().0).zip(scales)
            {
                let d = d.to_f32() * (f32::from(scale) - 32.0);
                let codes = block::unpack_nibbles(nibbles);
                *out = block::each(|j| d * iq4::level(codes[j]));
            }
        }
    }

    fn parts(bytes: &[u8]) -> Parts {
        let (head, nibbles) = split_head(block::first(bytes));
        let (d, scales) = unpack_head(head);
        let mut parts = Parts { d, dmin: f16::ZERO, scales: [0; 16], minimums: [0; 16], codes: [0; 256] };
        for (scale, stored) in parts.scales.iter_mut().zip(scales) {
            *scale = stored.cast_signed() - 32;
        }
        for (codes, nibbles) in parts.codes.as_chunks_mut().0.iter_mut().zip(nibbles.as_chunks().0) {
            *codes = block::unpack_nibbles(nibbles).map(iq4::shifted_level);
        }
        parts
    }

    fn put_codes(bytes: &mut [u8], codes: &[u8]) {
        iq4::put_codes(&mut bytes[HEAD..], codes);
    }
}

/// Quantizes one super-block, in `BLOCKS` blocks.
#[inline(always)]
fn quantize<L: Lanes>(x: &[PerWeight<f32>], importance: Option<&[f32]>, out: &mut [u8; BYTES]) {
    let weighing = Weighing::new(x.as_flattened(), importance, 2.0);
    let mut scales = [0.0; BLOCKS];
    for (i, scale) in scales.iter_mut().enumerate() {
        *scale = iq4::search::<L>(&x[i], &iq4::weights(&x[i], weighing.as_ref(), i));
    }
    let max = scales.iter().fold(0.0f32, |max, &scale| if scale.abs() > max.abs() { scale } else { max });
    let stored = f16::from_f32(block::clamp_to_f16(max / -32.0));
    let (d, inverse) = (stored.to_f32(), block::reciprocal(stored.to_f32()));
    let [low, high] = [-32.0, 31.0].map(L::splat);
    let scales = L::load(&scales).mul(L::splat(inverse)).max(low).min(high).round().store();

    let (head, nibbles) = out.split_at_mut(HEAD);
    head.copy_from_slice(&pack_head(stored, scales.map(|scale| (scale + 32.0) as u8)));
    for ((x, nibbles), scale) in x.iter().zip(nibbles.as_chunks_mut().0).zip(scales) {
        *nibbles = block::pack_nibbles(&iq4::codes(x, block::reciprocal(d * scale)));
    }
}

/// Splits a super-block into its head and its nibbles.
#[inline(always)]
fn split_head(bytes: &[u8; BYTES]) -> (&[u8; HEAD], &[u8]) {
    bytes.split_first_chunk().expect("a super-block is longer than its head")
}

/// Packs d and the scales.
#[inline(always)]
fn pack_head(d: f16, scales: [u8; BLOCKS]) -> [u8; HEAD] {
    let high = (0..BLOCKS).fold(0u16, |bits, i| bits | u16::from(scales[i] >> 4) << (2 * i));
    let low = |i: usize| scales[2 * i] & 15 | scales[2 * i + 1] << 4;
    let ([d0, d1], [h0, h1]) = (d.to_le_bytes(), high.to_le_bytes());
    [d0, d1, h0, h1, low(0), low(1), low(2), low(3)]
}

/// Unpacks d and the scales: the inverse of [`pack_head`].
#[inline(always)]
fn unpack_head(&[d0, d1, h0, h1, ref low @ ..]: &[u8; HEAD]) -> (f16, [u8; BLOCKS]) {
    let high = u16::from_le_bytes([h0, h1]);
    let scale = |i: usize| low[i / 2] >> (4 * (i % 2)) & 15 | ((high >> (2 * i) & 3) as u8) << 4;
    (f16::from_le_bytes([d0, d1]), std::array::from_fn(scale))
}

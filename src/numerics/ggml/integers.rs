//! Integers in groups of 32 under one scale as blocks: Q4_0, Q5_0 and Q8_0 hold them to the bit.

use half::f16;

use super::block::BLOCK;
use super::rows::functions;
use crate::numerics::{Granularity, Number, QTensor, Scheme};
use crate::tensor::BlockType;

/// Returns the block type that holds a scheme's integers; `None` if there is none.
pub(crate) fn holding(scheme: &Scheme) -> Option<BlockType> {
    match (scheme.number, scheme.granularity) {
        (Number::Int { bits }, Granularity::Group(BLOCK)) if scheme.symmetric => match bits {
            4 => Some(BlockType::Q4_0),
            5 => Some(BlockType::Q5_0),
            8 => Some(BlockType::Q8_0),
            _ => None,
        },
        _ => None,
    }
}

/// Returns the blocks of rows that [`holding`] has a type for. Scales are rounded to half precision, which those of
/// [`ScaleType::F16`](crate::numerics::ScaleType) are already.
///
/// # Panics
/// If a row is not a whole number of blocks, or no type holds the scheme.
pub(crate) fn pack(q: &QTensor) -> Vec<u8> {
    let block = holding(&q.scheme()).expect("the scheme's integers are those of a block type");
    let scalar = q.as_scalar();
    assert_eq!(q.cols % BLOCK, 0, "pack: a row is not a whole number of blocks");
    let put_codes = functions(block).put_codes;
    let codes = scalar.codes.chunks_exact(BLOCK);
    let mut bytes = vec![0; codes.len() * block.block_bytes()];
    let blocks = bytes.chunks_exact_mut(block.block_bytes());
    for ((out, codes), scale) in blocks.zip(codes).zip(&scalar.grid.scales) {
        out[..2].copy_from_slice(&f16::from_f32(*scale).to_le_bytes());
        put_codes(out, codes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::numerics::{Context, ScaleType};

    #[test]
    fn blocks_give_the_values_of_the_integers() {
        let w = Array2::from_shape_fn((3, 96), |(row, col)| ((row * 96 + col) as f32 * 0.37).sin() * 0.1);
        for bits in [4, 5, 8] {
            let scheme = Scheme::int(bits, Granularity::Group(32), true, ScaleType::F16);
            let q = scheme.quantize(w.view(), &Context::default());
            let [mut expected, mut found] = [vec![0.0; w.len()], vec![0.0; w.len()]];
            q.dequantize(&mut expected);
            super::super::dequantize(holding(&scheme).expect("a type"), &pack(&q), &mut found);
            assert_eq!(found, expected, "{bits} bits");
        }
    }

    #[test]
    fn other_schemes_have_no_block_type() {
        let int = |bits, group, symmetric| {
            holding(&Scheme::int(bits, Granularity::Group(group), symmetric, ScaleType::F16))
        };
        assert_eq!(int(4, 32, true), Some(BlockType::Q4_0));
        assert_eq!(int(4, 64, true), None);
        assert_eq!(int(4, 32, false), None);
        assert_eq!(int(3, 32, true), None);
    }
}

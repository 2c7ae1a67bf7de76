//! The one formula of all block types, for kernels that multiply with the codes as they are and for methods that round codes
//! again under the scales of a block.
//!
//! w = (d·scales\[g\])·(code − zero) − dmin·minimums\[g\], where g is the weight's group. In f32 and in this order it gives the
//! bits that [`dequantize`](super::dequantize) gives.

use super::parts::Parts;
use super::rows;
use crate::tensor::BlockType;

/// The constants of a block type in the formula, and the way from its bytes to its numbers and back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Formula {
    /// The code of zero, minimums aside.
    pub zero: u8,
    /// Bits of the largest code.
    pub bits: u8,
    /// Weights per group.
    pub group: usize,
    /// True if groups have scales of their own; else `scales` are ones.
    pub scaled_twice: bool,
    /// True if there are minimums; else `dmin` is 0.
    pub minimums: bool,
    /// Takes a block of [`BlockType::block_bytes`] apart. Any bytes are a block.
    ///
    /// # Panics
    /// If there are fewer bytes.
    pub parts: fn(&[u8]) -> Parts,
}

/// Returns the formula of a block type. The uneven levels of IQ4 are codes of 8 bits: level + 128.
pub(crate) fn formula(block: BlockType) -> Formula {
    use BlockType::*;
    let (zero, bits, group) = match block {
        Q4_0 => (8, 4, 32),
        Q4_1 | Q4_K => (0, 4, 32),
        Q5_0 => (16, 5, 32),
        Q5_1 | Q5_K => (0, 5, 32),
        Q8_0 | IQ4_NL | IQ4_XS => (128, 8, 32),
        Q2_K => (0, 2, 16),
        Q3_K => (4, 3, 16),
        Q6_K => (32, 6, 16),
    };
    Formula {
        zero,
        bits,
        group,
        scaled_twice: block.block_elements() == 256,
        minimums: matches!(block, Q4_1 | Q5_1 | Q2_K | Q4_K | Q5_K),
        parts: rows::functions(block).parts,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::numerics::ggml;
    use crate::numerics::random::SplitMix64;
    use crate::test_support::fixture;

    /// Reads blocks that ggml made: fixtures/ggml and fixtures/ggml_k.
    fn golden_blocks(block: BlockType) -> Vec<u8> {
        let folder = if Q_K.contains(&block) { "ggml_k" } else { "ggml" };
        std::fs::read(fixture(folder).join(format!("{}.blocks", block.name()))).unwrap()
    }

    const Q_K: [BlockType; 5] =
        [BlockType::Q2_K, BlockType::Q3_K, BlockType::Q4_K, BlockType::Q5_K, BlockType::Q6_K];

    /// Returns random bytes whose f16s are finite.
    fn bytes(block: BlockType) -> Vec<u8> {
        let mut random = SplitMix64(7);
        (0..64 * block.block_bytes()).map(|_| random.next() as u8 & 0xbf).collect()
    }

    #[test]
    fn the_formula_gives_what_dequantize_gives_to_the_bit() {
        for block in BlockType::ALL {
            let bytes = bytes(block);
            let mut expected = vec![0.0; 64 * block.block_elements()];
            ggml::dequantize(block, &bytes, &mut expected);
            let formula = formula(block);
            let values = bytes.chunks_exact(block.block_bytes()).flat_map(|bytes| {
                let parts = (formula.parts)(bytes);
                (0..block.block_elements()).map(move |i| value(&formula, &parts, i)).collect::<Vec<_>>()
            });
            assert_eq!(values.collect::<Vec<f32>>(), expected, "{block:?}");
        }
    }

    fn value(formula: &Formula, parts: &Parts, i: usize) -> f32 {
        let g = i / formula.group;
        assert!(formula.scaled_twice || parts.scales[g] == 1);
        assert!(u32::from(parts.codes[i]) < 1 << formula.bits);
        let scale = parts.d.to_f32() * f32::from(parts.scales[g]);
        let value = scale * (f32::from(parts.codes[i]) - f32::from(formula.zero));
        match formula.minimums {
            true => value - parts.dmin.to_f32() * f32::from(parts.minimums[g]),
            false => value,
        }
    }

    #[test]
    fn codes_put_back_give_the_golden_blocks() {
        for block in BlockType::ALL {
            let (formula, bytes) = (formula(block), golden_blocks(block));
            let blocks = bytes.chunks_exact(block.block_bytes());
            assert!(blocks.len() > 1 && blocks.remainder().is_empty(), "{block:?}");
            let mut changed = 0;
            let put_codes = rows::functions(block).put_codes;
            for golden in blocks {
                let parts = (formula.parts)(golden);
                let codes = &parts.codes[..block.block_elements()];
                let mut reversed = codes.to_vec();
                reversed.reverse();
                let mut block_bytes = golden.to_vec();
                put_codes(&mut block_bytes, &reversed);
                changed += usize::from(block_bytes != golden);
                let after = (formula.parts)(&block_bytes);
                assert_eq!(after.codes[..codes.len()], reversed, "{block:?}");
                assert_eq!(Parts { codes: parts.codes, ..after }, parts, "{block:?}: scales stay");
                put_codes(&mut block_bytes, codes);
                assert_eq!(block_bytes, golden, "{block:?}");
            }
            assert!(changed > 1, "{block:?}");
        }
    }

    #[test]
    fn one_code_changes_alone() {
        for block in BlockType::ALL {
            let (formula, bytes) = (formula(block), golden_blocks(block));
            let mut changed = bytes[..block.block_bytes()].to_vec();
            let before = (formula.parts)(&changed);
            let mut expected = before.clone();
            let other = before.codes[..block.block_elements()].iter().find(|code| **code != before.codes[17]);
            expected.codes[17] = *other.unwrap();
            (rows::functions(block).put_codes)(&mut changed, &expected.codes[..block.block_elements()]);
            assert_eq!((formula.parts)(&changed), expected, "{block:?}");
        }
    }
}

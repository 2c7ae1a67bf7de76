//! Blocks taken apart into codes, scales and minimums, for kernels that multiply with the codes as they are.
//!
//! Every block type is one formula: w = (d·scales\[g\])·(code − zero) − dmin·minimums\[g\], where g is the weight's group.
//! In f32 and in this order it gives the bits that [`dequantize`](super::dequantize) gives.

use half::f16;

use super::block::{BLOCK, Block};
use super::{iq4_nl, iq4_xs, k_quants, q4_0, q4_1, q5_0, q5_1, q8_0};
use crate::tensor::BlockType;

/// Weights of the largest block.
const MOST: usize = 256;

/// A block's numbers; those beyond its weights and groups are zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    /// Unit of the scales.
    pub d: f16,
    /// Unit of the minimums.
    pub dmin: f16,
    /// One per group: 1 where the type has none of its own.
    pub scales: [i8; 16],
    /// One per group: 1 where the type has none of its own.
    pub minimums: [u8; 16],
    /// In order.
    pub codes: [u8; MOST],
}

impl Parts {
    /// A block of 32 weights that are one group.
    #[inline(always)]
    pub(super) fn of_one_group(d: f16, dmin: f16, block: Block<u8>) -> Parts {
        let mut codes = [0; MOST];
        codes[..BLOCK].copy_from_slice(&block);
        Parts { d, dmin, scales: [1; 16], minimums: [1; 16], codes }
    }
}

/// How the weights of a block type follow from its parts.
#[derive(Debug, Clone, Copy)]
pub struct Formula {
    /// The code of zero, minimums aside.
    pub zero: u8,
    /// Bits of the largest code.
    pub bits: u8,
    /// Weights per group.
    pub group: usize,
    /// Whether groups have scales of their own; else `scales` are ones.
    pub scaled_twice: bool,
    /// Whether there are minimums; else `dmin` is 0.
    pub minimums: bool,
    /// Takes a block of [`BlockType::block_bytes`] apart. Any bytes are a block.
    ///
    /// # Panics
    /// Where there are fewer bytes.
    pub parts: fn(&[u8]) -> Parts,
}

/// The formula of a block type. The uneven levels of IQ4 are codes of 8 bits: level + 128.
pub fn formula(block: BlockType) -> Formula {
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
    let parts = match block {
        Q4_0 => q4_0::parts,
        Q4_1 => q4_1::parts,
        Q5_0 => q5_0::parts,
        Q5_1 => q5_1::parts,
        Q8_0 => q8_0::parts,
        IQ4_NL => iq4_nl::parts,
        IQ4_XS => iq4_xs::parts,
        Q2_K => k_quants::q2_k::parts,
        Q3_K => k_quants::q3_k::parts,
        Q4_K => k_quants::q4_k::parts,
        Q5_K => k_quants::q5_k::parts,
        Q6_K => k_quants::q6_k::parts,
    };
    let scaled_twice = block.block_elements() == MOST;
    let minimums = matches!(block, Q4_1 | Q5_1 | Q2_K | Q4_K | Q5_K);
    Formula { zero, bits, group, scaled_twice, minimums, parts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::ggml;
    use crate::numerics::random::SplitMix64;

    /// Bytes without order, and with f16s that are finite.
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
}

//! Element types of stored tensors, and shapes.
//!
//! Plain data that every module may name; this file names no other module. Quantized tensors are in `numerics`.

use serde::Serialize;

/// A GGUF block type: `block_elements()` consecutive weights of a row share one block of `block_bytes()` bytes.
///
/// Layouts: <https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[allow(non_camel_case_types, missing_docs)]
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

impl BlockType {
    /// Every block type, in the order `--help` and the docs list them.
    pub const ALL: [BlockType; 12] = {
        use BlockType::*;
        [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS]
    };

    /// Returns the weights per block.
    pub const fn block_elements(self) -> usize {
        use BlockType::*;
        match self {
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | IQ4_NL => 32,
            Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_XS => 256,
        }
    }

    /// Returns the bytes per block.
    pub const fn block_bytes(self) -> usize {
        use BlockType::*;
        match self {
            Q4_0 | IQ4_NL => 18,
            Q4_1 => 20,
            Q5_0 => 22,
            Q5_1 => 24,
            Q8_0 => 34,
            Q2_K => 84,
            Q3_K => 110,
            Q4_K => 144,
            Q5_K => 176,
            Q6_K => 210,
            IQ4_XS => 136,
        }
    }

    /// Returns the name in lower case, as `--scheme` takes it: `q4_k`.
    pub const fn name(self) -> &'static str {
        use BlockType::*;
        match self {
            Q4_0 => "q4_0",
            Q4_1 => "q4_1",
            Q5_0 => "q5_0",
            Q5_1 => "q5_1",
            Q8_0 => "q8_0",
            Q2_K => "q2_k",
            Q3_K => "q3_k",
            Q4_K => "q4_k",
            Q5_K => "q5_k",
            Q6_K => "q6_k",
            IQ4_NL => "iq4_nl",
            IQ4_XS => "iq4_xs",
        }
    }
}

/// The element type of stored bytes: all types of safetensors, and GGUF's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs)]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    Block(BlockType),
}

impl DType {
    /// Returns the name in a safetensors header (`BF16`, `F8_E4M3`); for block types, the GGUF name.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "F64",
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::F8E4M3 => "F8_E4M3",
            DType::F8E5M2 => "F8_E5M2",
            DType::F8E8M0 => "F8_E8M0",
            DType::I64 => "I64",
            DType::I32 => "I32",
            DType::I16 => "I16",
            DType::I8 => "I8",
            DType::U64 => "U64",
            DType::U32 => "U32",
            DType::U16 => "U16",
            DType::U8 => "U8",
            DType::Bool => "BOOL",
            DType::Block(block) => block.name(),
        }
    }

    /// Parses a safetensors header's dtype.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        use DType::*;
        [F64, F32, F16, BF16, F8E4M3, F8E5M2, F8E8M0, I64, I32, I16, I8, U64, U32, U16, U8, Bool]
            .into_iter()
            .find(|dtype| dtype.name() == name)
    }

    /// Returns the elements per block: 1 for scalar types.
    pub const fn block_elements(self) -> usize {
        match self {
            DType::Block(block) => block.block_elements(),
            _ => 1,
        }
    }

    /// Returns the bytes per block: the size of one element for scalar types.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::F8E4M3 | DType::F8E5M2 | DType::F8E8M0 | DType::I8 | DType::U8 | DType::Bool => 1,
            DType::Block(block) => block.block_bytes(),
        }
    }

    /// Returns the bytes of a tensor of this shape; `None` if the size overflows, or if a row is not a whole number of blocks.
    pub fn byte_len(self, shape: &[usize]) -> Option<usize> {
        let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
        let row = shape.last().copied().unwrap_or(1);
        if row % self.block_elements() != 0 {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Returns true if the values are floating-point weights that a scheme may quantize; F8 without scales counts.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            DType::F64
                | DType::F32
                | DType::F16
                | DType::BF16
                | DType::F8E4M3
                | DType::F8E5M2
                | DType::Block(_)
        )
    }
}

/// Returns a shape as [rows, columns]: all dimensions but the last, and the last. A scalar is [1, 1]. The shape must have
/// been checked by [`DType::byte_len`], which refuses those whose product, from the left, overflows.
pub fn rows_cols(shape: &[usize]) -> [usize; 2] {
    match shape {
        [] => [1, 1],
        [outer @ .., last] => [outer.iter().product(), *last],
    }
}

//! What passes between the parts: element types, the quantized tensor, the weight of a linear layer, what makes up for its error.
//!
//! Plain data. Reading is `io`'s, rounding and dequantizing are `numerics`', laying out bytes is `export`'s.

use ndarray::Array2;
use serde::Serialize;

use crate::numerics::{Scheme, convert, linalg};

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

    /// Weights per block.
    pub const fn block_elements(self) -> usize {
        use BlockType::*;
        match self {
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | IQ4_NL => 32,
            Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_XS => 256,
        }
    }

    /// Bytes per block.
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

    /// The name in lower case, as `--scheme` takes it: `q4_k`.
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

/// The element type of stored bytes: everything safetensors knows, and GGUF's blocks.
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
    /// The name in a safetensors header (`BF16`, `F8_E4M3`); block types give their GGUF name.
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

    /// Elements per block: 1 for scalar types.
    pub const fn block_elements(self) -> usize {
        match self {
            DType::Block(block) => block.block_elements(),
            _ => 1,
        }
    }

    /// Bytes per block: the size of one element for scalar types.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::F8E4M3 | DType::F8E5M2 | DType::F8E8M0 | DType::I8 | DType::U8 | DType::Bool => 1,
            DType::Block(block) => block.block_bytes(),
        }
    }

    /// Bytes of a tensor of this shape; `None` where the size overflows, or where a row is not a whole number of blocks.
    pub fn byte_len(self, shape: &[usize]) -> Option<usize> {
        let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
        let row = shape.last().copied().unwrap_or(1);
        if row % self.block_elements() != 0 {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Whether the values are floating-point weights that a scheme may quantize (F8 alone, without scales, counts).
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

/// A shape as [rows, columns]: all dimensions but the last, and the last. A scalar is [1, 1]. The shape must have been
/// checked by [`DType::byte_len`], which refuses those whose product, from the left, overflows.
pub fn rows_cols(shape: &[usize]) -> [usize; 2] {
    match shape {
        [] => [1, 1],
        [outer @ .., last] => [outer.iter().product(), *last],
    }
}

/// The parameters that a scheme rounds with: one scale (and zero point) per tensor, channel, group or block.
///
/// Index of the entry for element (row, col): [`Scheme::grid_index`]. Values are exactly representable in the scheme's
/// scale type, so that what is stored is what was rounded with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grid {
    /// One per grid entry, row-major.
    pub scales: Vec<f32>,
    /// One per grid entry, in the domain of the codes (unsigned); empty where the scheme is symmetric.
    pub zero_points: Vec<u8>,
    /// NVFP4's per-tensor divisor; `None` elsewhere.
    pub global_scale: Option<f32>,
}

/// Quantized rows: logical codes, their grid and the scheme that says what they mean. May hold a range of a tensor's rows.
///
/// One byte per code, row-major [rows, cols], whatever the number of bits. Integers are unsigned with an offset of
/// 2^(bits−1): w = (code − zero_point)·scale, the zero point being 2^(bits−1) where the scheme is symmetric. Floats and
/// table formats hold their bit pattern. GGUF block types hold the blocks' bytes themselves and an empty grid.
#[derive(Debug, Clone, PartialEq)]
pub struct QTensor {
    /// What the codes mean.
    pub scheme: Scheme,
    /// Rows held.
    pub rows: usize,
    /// Columns of the tensor.
    pub cols: usize,
    /// See above.
    pub codes: Vec<u8>,
    /// Scales and zero points.
    pub grid: Grid,
    /// Column → group, where columns are not grouped in order (GPTQ's act-order).
    pub g_idx: Option<Vec<u32>>,
}

/// A matrix of low rank, as the product of two factors.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// [rows, rank].
    pub b: Array2<f32>,
    /// [rank, cols].
    pub a: Array2<f32>,
}

impl LowRank {
    /// The matrix, [rows, cols].
    pub fn values(&self) -> Array2<f32> {
        linalg::product(self.b.view(), self.a.view())
    }

    /// The same with factors that a type can hold.
    pub fn rounded(mut self, dtype: DType) -> LowRank {
        for factor in [&mut self.b, &mut self.a] {
            let mut bytes = Vec::new();
            let values = factor.as_slice_mut().expect("an owned array is contiguous");
            convert::from_f32(dtype, values, &mut bytes);
            convert::to_f32(dtype, &bytes, values);
        }
        self
    }
}

/// The weight of a linear layer, or a range of its rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Weight {
    /// Values, [rows, cols].
    Dense(Array2<f32>),
    /// Codes and their grid.
    Quantized(QTensor),
}

impl Weight {
    /// The values, [rows, cols], dequantized where they are codes.
    pub fn into_values(self) -> Array2<f32> {
        match self {
            Weight::Dense(values) => values,
            Weight::Quantized(q) => q.values(),
        }
    }
}

//! ggml's numbering of tensor types ↔ [`DType`].
//!
//! Source: `enum ggml_type`, <https://github.com/ggml-org/llama.cpp/blob/master/ggml/include/ggml.h>.

use crate::tensor::{BlockType, DType};

/// Type number, ggml's name, and what llmc reads it as (`None`: a type that llmc does not read).
const TYPES: &[(u32, &str, Option<DType>)] = &[
    (0, "F32", Some(DType::F32)),
    (1, "F16", Some(DType::F16)),
    (2, "Q4_0", Some(DType::Block(BlockType::Q4_0))),
    (3, "Q4_1", Some(DType::Block(BlockType::Q4_1))),
    (6, "Q5_0", Some(DType::Block(BlockType::Q5_0))),
    (7, "Q5_1", Some(DType::Block(BlockType::Q5_1))),
    (8, "Q8_0", Some(DType::Block(BlockType::Q8_0))),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(DType::Block(BlockType::Q2_K))),
    (11, "Q3_K", Some(DType::Block(BlockType::Q3_K))),
    (12, "Q4_K", Some(DType::Block(BlockType::Q4_K))),
    (13, "Q5_K", Some(DType::Block(BlockType::Q5_K))),
    (14, "Q6_K", Some(DType::Block(BlockType::Q6_K))),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", Some(DType::Block(BlockType::IQ4_NL))),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", Some(DType::Block(BlockType::IQ4_XS))),
    (24, "I8", Some(DType::I8)),
    (25, "I16", Some(DType::I16)),
    (26, "I32", Some(DType::I32)),
    (27, "I64", Some(DType::I64)),
    (28, "F64", Some(DType::F64)),
    (29, "IQ1_M", None),
    (30, "BF16", Some(DType::BF16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", None),
    (40, "NVFP4", None),
];

/// The element type of a type number; the error is its name, or that it has none.
pub(crate) fn dtype(number: u32) -> Result<DType, String> {
    match TYPES.iter().find(|(n, ..)| *n == number) {
        Some((_, _, Some(dtype))) => Ok(*dtype),
        Some((_, name, None)) => Err(format!("{name} (type {number})")),
        None => Err(format!("type number {number}")),
    }
}

/// The type number of an element type; `None` where ggml has no such type.
pub(crate) fn number(dtype: DType) -> Option<u32> {
    TYPES.iter().find(|(_, _, d)| *d == Some(dtype)).map(|(n, ..)| *n)
}

/// ggml's name of an element type.
pub(crate) fn name(dtype: DType) -> &'static str {
    TYPES.iter().find(|(_, _, d)| *d == Some(dtype)).map_or(dtype.name(), |(_, name, _)| name)
}

/// The names of all types that llmc reads, for hints.
pub(crate) fn readable() -> String {
    let names: Vec<&str> = TYPES.iter().filter(|(_, _, d)| d.is_some()).map(|(_, name, _)| *name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_types_agree_both_ways() {
        for (n, _, dtype_of) in TYPES {
            match dtype_of {
                Some(d) => assert_eq!((dtype(*n), number(*d)), (Ok(*d), Some(*n))),
                None => assert!(dtype(*n).is_err_and(|name| name.ends_with(&format!("(type {n})")))),
            }
        }
        assert!(BlockType::ALL.iter().all(|&block| number(DType::Block(block)).is_some()));
        assert_eq!(dtype(4), Err("type number 4".into()));
        assert_eq!(number(DType::U8), None);
    }
}

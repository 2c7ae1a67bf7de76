//! [`ElementType`]: the stored types of unquantized weights.

/// The element type of a panel's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ElementType {
    F32,
    F16,
    Bf16,
}

impl ElementType {
    /// Columns per line.
    pub(crate) fn columns(self) -> usize {
        match self {
            ElementType::F32 => 1,
            ElementType::F16 | ElementType::Bf16 => 2,
        }
    }
}

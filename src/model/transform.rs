//! The changes that GGUF makes to Hugging Face tensors, and their inverses. Limited to those of the listed architectures.

/// A change that GGUF makes to a Hugging Face tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// No change.
    None,
    /// Rows of q and k are reordered within each head for the interleaved rope: Hugging Face row (head, half, i) is GGUF
    /// row (head, i, half), for i < head_dim/2.
    PermuteRope {
        /// Heads of this tensor.
        heads: usize,
    },
    /// The elements of a bias of q or k, reordered as the rows of its weight are.
    PermuteRopeBias {
        /// Heads of this tensor.
        heads: usize,
    },
    /// Norm weights are stored plus one (Gemma).
    AddOne,
}

impl Transform {
    /// Returns the row that GGUF stores a Hugging Face row in, of a tensor of `rows` rows.
    pub(crate) fn stored_row(self, row: usize, rows: usize) -> usize {
        match self {
            Transform::PermuteRope { heads } => interleaved(row, rows, heads),
            _ => row,
        }
    }

    /// Returns the Hugging Face row that a GGUF row holds: the inverse of [`Transform::stored_row`].
    pub(crate) fn source_row(self, row: usize, rows: usize) -> usize {
        match self {
            Transform::PermuteRope { heads } => halved(row, rows, heads),
            _ => row,
        }
    }

    /// Returns true if a tensor of this shape can be changed in this way: rows that move must be whole heads of even size.
    pub(crate) fn fits(self, shape: &[usize]) -> bool {
        match self {
            Transform::PermuteRope { heads } | Transform::PermuteRopeBias { heads } => {
                shape.first().is_some_and(|rows| half_head(*rows, heads).is_some())
            }
            Transform::None | Transform::AddOne => true,
        }
    }

    /// Returns true if rows move.
    pub(crate) fn permutes_rows(self) -> bool {
        matches!(self, Transform::PermuteRope { .. })
    }

    /// Turns Hugging Face values into stored values, in place: all values of a vector, or any rows of a matrix.
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Transform::AddOne => values.iter_mut().for_each(|value| *value += 1.0),
            Transform::PermuteRopeBias { heads } => gather(values, |at, len| halved(at, len, heads)),
            Transform::None | Transform::PermuteRope { .. } => {}
        }
    }

    /// Turns stored values into Hugging Face values, in place: the inverse of [`Transform::apply`].
    pub(crate) fn undo(self, values: &mut [f32]) {
        match self {
            Transform::AddOne => values.iter_mut().for_each(|value| *value -= 1.0),
            Transform::PermuteRopeBias { heads } => gather(values, |at, len| interleaved(at, len, heads)),
            Transform::None | Transform::PermuteRope { .. } => {}
        }
    }
}

/// Returns the place of an element in the interleaved order: (head, half, i) → (head, i, half).
fn interleaved(at: usize, len: usize, heads: usize) -> usize {
    let Some(half) = half_head(len, heads) else { return at };
    let (head, within) = (at / (2 * half), at % (2 * half));
    head * 2 * half + within % half * 2 + within / half
}

/// Returns the place of an element in the order of halves: (head, i, half) → (head, half, i).
fn halved(at: usize, len: usize, heads: usize) -> usize {
    let Some(half) = half_head(len, heads) else { return at };
    let (head, within) = (at / (2 * half), at % (2 * half));
    head * 2 * half + within % 2 * half + within / 2
}

/// Returns half the length of a head; `None` for lengths that are not a whole number of even heads. They stay in order:
/// readers and writers refuse such tensors before.
fn half_head(len: usize, heads: usize) -> Option<usize> {
    let dim = len.checked_div(heads)?;
    (dim > 0 && dim % 2 == 0 && dim * heads == len).then_some(dim / 2)
}

/// Replaces each value by the one at `from(at, len)`.
fn gather(values: &mut [f32], from: impl Fn(usize, usize) -> usize) {
    let gathered: Vec<f32> = (0..values.len()).map(|at| values[from(at, values.len())]).collect();
    values.copy_from_slice(&gathered);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two heads of four rows, by hand: (half 0: a b, half 1: c d) is stored interleaved, a c b d.
    #[test]
    fn rope_permutation_interleaves_the_halves_of_each_head() {
        let rope = Transform::PermuteRope { heads: 2 };
        let stored: Vec<usize> = (0..8).map(|row| rope.source_row(row, 8)).collect();
        assert_eq!(stored, [0, 2, 1, 3, 4, 6, 5, 7]);
        for heads in [1, 2, 3, 9] {
            let (rope, rows) = (Transform::PermuteRope { heads }, heads * 10);
            assert!((0..rows).all(|row| rope.source_row(rope.stored_row(row, rows), rows) == row));
        }
    }

    #[test]
    fn rows_that_are_not_whole_heads_stay() {
        assert_eq!(Transform::PermuteRope { heads: 3 }.stored_row(1, 8), 1);
        assert_eq!(Transform::PermuteRope { heads: 0 }.stored_row(1, 8), 1);
        assert_eq!(Transform::PermuteRope { heads: 2 }.stored_row(1, 6), 1);
        assert_eq!(Transform::None.source_row(5, 8), 5);
    }

    #[test]
    fn a_bias_moves_as_the_rows_of_its_weight() {
        let mut bias: Vec<f32> = (0..8u8).map(f32::from).collect();
        let transform = Transform::PermuteRopeBias { heads: 2 };
        transform.apply(&mut bias);
        assert_eq!(bias, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        transform.undo(&mut bias);
        assert_eq!(bias, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn add_one_is_undone() {
        let mut values = [0.5, -1.0, 0.0];
        Transform::AddOne.apply(&mut values);
        assert_eq!(values, [1.5, 0.0, 1.0]);
        Transform::AddOne.undo(&mut values);
        assert_eq!(values, [0.5, -1.0, 0.0]);
    }
}

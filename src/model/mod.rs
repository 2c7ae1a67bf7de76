//! What an architecture calls its tensors, and how GGUF stores them. One file per family, one line in
//! [`ARCHITECTURES`]. Knows no scheme, reads no file.

/// What GGUF does to a Hugging Face tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// Nothing.
    None,
    /// Rows of q and k are reordered within each head for the interleaved rope: Hugging Face row (head, half, i) is GGUF
    /// row (head, i, half), for i < head_dim/2.
    PermuteRope {
        /// Heads of this tensor.
        heads: usize,
    },
    /// Norm weights are stored plus one (Gemma).
    AddOne,
}

impl Transform {
    /// Hugging Face row → the row that GGUF stores it in, of a tensor of `rows` rows.
    pub fn stored_row(self, row: usize, rows: usize) -> usize {
        let Some(half) = self.half_head(rows) else { return row };
        let (head, within) = (row / (2 * half), row % (2 * half));
        head * 2 * half + within % half * 2 + within / half
    }

    /// GGUF row → the Hugging Face row it holds: the inverse of [`Transform::stored_row`].
    pub fn source_row(self, row: usize, rows: usize) -> usize {
        let Some(half) = self.half_head(rows) else { return row };
        let (head, within) = (row / (2 * half), row % (2 * half));
        head * 2 * half + within % 2 * half + within / 2
    }

    /// Whether rows move.
    pub fn permutes_rows(self) -> bool {
        matches!(self, Transform::PermuteRope { .. })
    }

    /// Hugging Face values → stored values, in place.
    pub fn apply(self, values: &mut [f32]) {
        if self == Transform::AddOne {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
    }

    /// Stored values → Hugging Face values, in place: the inverse of [`Transform::apply`].
    pub fn undo(self, values: &mut [f32]) {
        if self == Transform::AddOne {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
    }

    /// Half of a head's rows where rows move. Rows that are not a whole number of even heads do not move:
    /// reading and writing refuse such tensors before.
    fn half_head(self, rows: usize) -> Option<usize> {
        let Transform::PermuteRope { heads } = self else { return None };
        let dim = rows.checked_div(heads)?;
        (dim > 0 && dim % 2 == 0 && dim * heads == rows).then_some(dim / 2)
    }
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
    fn add_one_is_undone() {
        let mut values = [0.5, -1.0, 0.0];
        Transform::AddOne.apply(&mut values);
        assert_eq!(values, [1.5, 0.0, 1.0]);
        Transform::AddOne.undo(&mut values);
        assert_eq!(values, [0.5, -1.0, 0.0]);
    }
}

//! Shares and patterns of zeros, and the weights that they fall on: those of the lowest scores.

use std::fmt;
use std::str::FromStr;

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Scheme;

/// The places where zeros may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pattern {
    /// Anywhere.
    #[default]
    Unstructured,
    /// `zeros` in each `of` consecutive columns of a row: `2:4`.
    Of {
        /// Zeros of a group.
        zeros: usize,
        /// Columns of a group.
        of: usize,
    },
}

/// The largest group of a pattern, beyond any hardware's.
const LARGEST_GROUP: usize = 1024;

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Pattern, String> {
        if text.eq_ignore_ascii_case("unstructured") {
            return Ok(Pattern::Unstructured);
        }
        let numbers =
            text.split_once(':').and_then(|(zeros, of)| Some((zeros.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((zeros, of)) if 0 < zeros && zeros < of && of <= LARGEST_GROUP => {
                Ok(Pattern::Of { zeros, of })
            }
            Some((zeros, of)) if of <= LARGEST_GROUP => Err(format!(
                "pattern {zeros}:{of} asks for {zeros} zeros in each {of} weights: at least 1, and fewer than {of}, can be"
            )),
            _ => Err(format!("pattern {text:?} is neither unstructured nor N:M, N zeros in each M columns")),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Pattern::Unstructured => f.write_str("unstructured"),
            Pattern::Of { zeros, of } => write!(f, "{zeros}:{of}"),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Pattern, String> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.to_string()
    }
}

/// The zeros of a matrix: their share of its weights, and their pattern.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sparsity {
    /// Zeros per weight, between 0 and 1.
    pub share: f64,
    /// Their places.
    pub pattern: Pattern,
}

/// Zeros per weight where neither a share nor a pattern is given.
const HALF: f64 = 0.5;

impl Sparsity {
    /// Of a share, a pattern, or a pattern and the share that it has.
    ///
    /// # Errors
    /// A share that is not between 0 and 1, or is not the pattern's.
    pub fn new(share: Option<f64>, pattern: Pattern) -> Result<Sparsity, String> {
        let own = match pattern {
            Pattern::Unstructured => share.unwrap_or(HALF),
            Pattern::Of { zeros, of } => zeros as f64 / of as f64,
        };
        match share {
            Some(share) if !(share > 0.0 && share < 1.0) => {
                Err(format!("sparsity is {share}: it is a share of the weights, more than 0 and less than 1"))
            }
            Some(share) if (share - own).abs() > 1e-9 => {
                Err(format!("sparsity is {share}, and pattern {pattern} has {own}: leave one of them out"))
            }
            _ => Ok(Sparsity { share: own, pattern }),
        }
    }
}

impl fmt::Display for Sparsity {
    /// Writes `50 % zeros`, `2:4 zeros`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.pattern {
            Pattern::Unstructured => write!(f, "{} % zeros", (self.share * 1e5).round() / 1e3),
            pattern => write!(f, "{pattern} zeros"),
        }
    }
}

/// Describes zeros and a scheme: `2:4 zeros, int4 g64 symmetric`; `None` without either.
pub(crate) fn described(zeros: Option<Sparsity>, scheme: Option<Scheme>) -> Option<String> {
    match (zeros, scheme) {
        (Some(zeros), Some(scheme)) => Some(format!("{zeros}, {scheme}")),
        (Some(zeros), None) => Some(zeros.to_string()),
        (None, scheme) => scheme.map(|scheme| scheme.to_string()),
    }
}

/// The weights among which the lowest scores are looked for, where the pattern leaves it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Among {
    /// Those of a row.
    Row,
    /// Those of the whole matrix.
    Matrix,
}

impl Sparsity {
    /// The zeros among some weights: the share of them, rounded down.
    pub(crate) fn zeros(&self, weights: usize) -> usize {
        // 0.29 · 100 is a little less than 29.
        ((self.share * weights as f64) * (1.0 + 1e-12)).floor() as usize
    }

    /// Returns true if rows of so many columns are whole groups of the pattern.
    pub(crate) fn divides(&self, cols: usize) -> bool {
        match self.pattern {
            Pattern::Unstructured => true,
            Pattern::Of { of, .. } => cols.is_multiple_of(of),
        }
    }

    /// Returns the places of the zeros, [rows, cols], for scores [rows, cols]: the lowest go, of equal ones the first.
    pub(crate) fn mask(&self, scores: ArrayView2<f32>, among: Among) -> Array2<bool> {
        let scores = scores.as_standard_layout();
        let (shape, cols) = (scores.dim(), scores.ncols().max(1));
        let scores = scores.as_slice().expect("standard layout is contiguous");
        let mut mask = vec![false; scores.len()];
        match (self.pattern, among) {
            (Pattern::Unstructured, Among::Matrix) => {
                mark_lowest(scores, self.zeros(scores.len()), &mut mask);
            }
            _ => {
                let rows = mask.par_chunks_mut(cols).zip(scores.par_chunks(cols));
                rows.for_each(|(mask, scores)| self.mark_row(scores, mask));
            }
        }
        Array2::from_shape_vec(shape, mask).expect("as many places as scores")
    }

    /// Marks the zeros of a row.
    fn mark_row(&self, scores: &[f32], mask: &mut [bool]) {
        match self.pattern {
            Pattern::Unstructured => mark_lowest(scores, self.zeros(scores.len()), mask),
            Pattern::Of { zeros, of } => {
                let groups = scores.chunks(of).zip(mask.chunks_mut(of));
                groups.for_each(|(scores, mask)| mark_lowest(scores, zeros, mask));
            }
        }
    }

    /// Looks at whole rows of values, from row `first` on, that should have these zeros.
    pub(crate) fn tally(&self, values: &[f32], cols: usize, first: usize) -> Tally {
        let place = |at: usize| [first + at / cols, at % cols];
        let zeros = |values: &[f32]| values.iter().filter(|value| **value == 0.0).count();
        let negative = values.iter().position(|value| *value == 0.0 && value.is_sign_negative());
        let negative = negative.map(|at| format!("holds −0 at {:?}", place(at)));
        let sparse = || match self.pattern {
            Pattern::Unstructured => None,
            Pattern::Of { zeros: asked, of } => {
                let group = values.chunks(of).position(|group| zeros(group) < asked)?;
                let from = place(group * of);
                Some(format!("holds fewer than {asked} zeros in the {of} weights from {from:?} on"))
            }
        };
        Tally { zeros: zeros(values), broken: negative.or_else(sparse) }
    }

    /// Returns what is wrong with a matrix of this tally; `None` if nothing is.
    pub(crate) fn fault(&self, tally: &Tally, [rows, cols]: [usize; 2]) -> Option<String> {
        let (found, asked) = (tally.zeros, self.zeros(cols) * rows);
        let few = || (found < asked).then(|| format!("holds {found} zeros, and {asked} were asked for"));
        tally.broken.clone().or_else(few)
    }
}

/// The zeros that were found in some rows of a matrix.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    zeros: usize,
    /// The first place that breaks the pattern.
    broken: Option<String>,
}

impl Tally {
    /// Adds that of the next rows.
    pub(crate) fn add(&mut self, next: Tally) {
        self.zeros += next.zeros;
        self.broken = self.broken.take().or(next.broken);
    }
}

#[cfg(test)]
impl Sparsity {
    /// Returns what is wrong with a whole matrix.
    pub(crate) fn fault_of(&self, values: &[f32], cols: usize) -> Option<String> {
        self.fault(&self.tally(values, cols, 0), [values.len() / cols, cols])
    }
}

/// Marks the places of the `count` lowest scores, of equal ones the first.
pub(crate) fn mark_lowest(scores: &[f32], count: usize, mask: &mut [bool]) {
    if count == 0 {
        return;
    }
    let mut places: Vec<u32> = (0..scores.len() as u32).collect();
    if count < places.len() {
        let by_score = |a: &u32, b: &u32| scores[*a as usize].total_cmp(&scores[*b as usize]).then(a.cmp(b));
        places.select_nth_unstable_by(count - 1, by_score);
    }
    places.iter().take(count).for_each(|place| mask[*place as usize] = true);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ndarray::array;

    use super::*;

    fn unstructured(share: f64) -> Sparsity {
        Sparsity { share, pattern: Pattern::Unstructured }
    }

    #[test]
    fn patterns_are_read_and_written() {
        for text in ["unstructured", "2:4", "4:8", "1:3"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        for wrong in ["3:2", "0:4", "4:4", "2:", "2:4:8", "-1:4", "2:5000", "dense", ""] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_and_a_pattern_must_agree() {
        let of = |share, pattern: &str| Sparsity::new(share, pattern.parse().unwrap());
        assert_eq!(of(None, "unstructured").unwrap().to_string(), "50 % zeros");
        assert_eq!(of(Some(0.333), "unstructured").unwrap().to_string(), "33.3 % zeros");
        assert_eq!(of(None, "1:4").unwrap().share, 0.25);
        assert_eq!(of(Some(0.5), "4:8").unwrap().to_string(), "4:8 zeros");
        for (share, pattern) in [
            (0.0, "unstructured"),
            (1.0, "unstructured"),
            (-0.1, "unstructured"),
            (1.2, "2:4"),
            (f64::NAN, "unstructured"),
            (0.3, "2:4"),
        ] {
            assert!(of(Some(share), pattern).is_err(), "{share} {pattern}");
        }
    }

    #[test]
    fn shares_are_exact_whatever_floats_make_of_them() {
        for (share, of, zeros) in [(0.29, 100, 29), (0.7, 10, 7), (0.5, 7, 3), (1.0 / 3.0, 3, 1), (0.5, 0, 0)]
        {
            assert_eq!(unstructured(share).zeros(of), zeros, "{share} of {of}");
        }
    }

    #[test]
    fn the_lowest_scores_go_and_of_equal_ones_the_first() {
        let scores = array![[3.0, 1.0, 2.0, 1.0], [9.0, 8.0, 9.0, 9.0]];
        let rows = unstructured(0.5).mask(scores.view(), Among::Row);
        assert_eq!(rows, array![[false, true, false, true], [true, true, false, false]]);
        let matrix = unstructured(0.5).mask(scores.view(), Among::Matrix);
        assert_eq!(matrix, array![[true, true, true, true], [false, false, false, false]]);
        let pairs =
            Sparsity { share: 0.5, pattern: "1:2".parse().unwrap() }.mask(scores.view(), Among::Matrix);
        assert_eq!(pairs, array![[false, true, false, true], [false, true, true, false]]);
        let transposed = unstructured(0.5).mask(scores.t(), Among::Row);
        assert_eq!(transposed, array![[true, false], [true, false], [true, false], [true, false]]);
    }

    #[test]
    fn all_equal_scores_give_exact_counts() {
        let scores = Array2::from_elem((5, 12), 0.0);
        for (pattern, zeros) in [("unstructured", 30), ("2:4", 30), ("1:4", 15), ("4:6", 40)] {
            let share = if pattern == "unstructured" { 0.5 } else { 0.0 };
            let sparsity = Sparsity { share, pattern: pattern.parse().unwrap() };
            for among in [Among::Row, Among::Matrix] {
                let mask = sparsity.mask(scores.view(), among);
                assert_eq!(mask.iter().filter(|zero| **zero).count(), zeros, "{pattern} {among:?}");
            }
        }
        let none = unstructured(0.5).mask(Array2::zeros((0, 4)).view(), Among::Matrix);
        assert_eq!(none.dim(), (0, 4));
    }

    #[test]
    fn faults_are_found() {
        let pattern = Sparsity { share: 0.5, pattern: "2:4".parse().unwrap() };
        assert_eq!(pattern.fault_of(&[0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0], 4), None);
        let fault = pattern.fault_of(&[0.0, 1.0, 0.0, 2.0, 0.0, 1.0, 3.0, 1.0], 4).unwrap();
        assert!(fault.contains("[1, 0]"), "{fault}");
        let fault = pattern.fault_of(&[0.0, 1.0, -0.0, 2.0], 4).unwrap();
        assert!(fault.contains("−0 at [0, 2]"), "{fault}");
        assert_eq!(unstructured(0.5).fault_of(&[0.0, 1.0, 0.0, 2.0], 2), None);
        assert!(unstructured(0.75).fault_of(&[0.0, 1.0, 0.0, 2.0], 4).is_some());
    }
}

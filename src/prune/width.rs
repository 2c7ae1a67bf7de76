//! `width`: heads, channels of feed-forward networks and columns of the residual stream go, as many in each block.
//!
//! **What.** The inputs X of the linear behind heads (o) or channels (down) have the Gram matrix H = XᵀX + λ·mean(diag)·I on the
//! calibration set. Without the columns C, and with those that stay making up for them, the least error of its outputs is
//! tr(W_C·(H⁻¹_CC)⁻¹·W_Cᵀ): the columns of least error go, a few at a time, after each of which the weights that stay and H⁻¹ are
//! updated. This is the method of optimal brain surgeons, with whole columns in the place of weights. `by = "activation"` takes those
//! with the smallest activations instead (Minitron); the others make up for them in the same way, unless `correct = false`.
//! Each expert of a mixture loses channels of its own, chosen on the tokens that the router sends to it (on all tokens where these are
//! fewer than `expert_tokens`); a shared expert stays whole. Key/value heads go with the query heads that read them. Columns of the
//! residual stream go by the mean of |activations| behind the norms, and nothing makes up for them.
//!
//! **When.** The output is smaller, and faster in every engine. Channels are the cheapest to lose; heads cost more, columns of the
//! residual stream most.
//!
//! **Cost.** Three passes over the calibration set, and for each linear the inverse of its Gram matrix.
//!
//! ```text
//! llmc prune --method width --set width.ffn=0.75 --data corpus.jsonl model/
//! ```
//!
//! References: Hassibi and Stork 1993, "Optimal Brain Surgeon"; Kurtic et al. 2023, "ZipLM", <https://arxiv.org/abs/2302.04089>,
//! equation 3; Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation",
//! <https://arxiv.org/abs/2407.14679>, section 2.2.

use ndarray::{Array2, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, within};
use crate::numerics::linalg::{cholesky_inverse, product};
use crate::quant::gptq::refuse_damaged;
use crate::recipe::Kept;
use crate::stage::{self, Amount, ChannelScore, Def, Shape, Stage, Width};

/// Registry entry.
pub(crate) const DEF: Def = Def {
    name: "width",
    summary: "take out channels and heads, and let the others make up for them: needs calibration text",
    supports: |_| Ok(()),
    build: |table| Ok(Stage::Shape(stage::parse::<Parameters>("width", table)?.validate()?)),
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// Channels of the feed-forward networks that stay, as a number or a share; of each expert of a mixture.
    ffn: Option<Amount>,
    /// Query heads that stay, or their share.
    heads: Option<Amount>,
    /// Columns of the residual stream that stay, or their share.
    hidden: Option<Amount>,
    /// Channels and columns that stay are a multiple of this.
    multiple: usize,
    /// `error` or `activation`.
    by: ChannelScore,
    /// Lets the weights that stay make up for those that go.
    correct: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            ffn: None,
            heads: None,
            hidden: None,
            multiple: 32,
            by: ChannelScore::Error,
            correct: true,
        }
    }
}

impl Parameters {
    fn validate(self) -> Result<Shape> {
        let Parameters { mut ffn, heads, hidden, multiple, by, correct } = self;
        if ffn.or(heads).or(hidden).is_none() {
            ffn = Some(Amount::Share(0.75));
        }
        for (key, amount) in [("width.ffn", ffn), ("width.heads", heads), ("width.hidden", hidden)] {
            amount.map_or(Ok(()), |amount| amount.check(key))?;
        }
        within("width.multiple", multiple, 1..=1 << 16)?;
        Ok(Shape::Width(Width { ffn, heads, hidden, multiple, by, correct }))
    }
}

/// λ: this part of the mean of H's diagonal is added to it.
const DAMPING: f64 = 1e-3;
/// Steps in which columns go: as many at a time as it takes.
const STEPS: usize = 128;

/// The columns of a linear that stay, and its weight.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NarrowedLinear {
    /// The groups of columns that stay.
    pub kept: Kept,
    /// The weight, [rows, cols]: zero in the columns that go.
    pub weight: Array2<f32>,
}

/// Takes groups of columns out of a linear's weight, [rows, cols]. A group is `size` columns next to each other, `keep` groups stay;
/// `hessian` is XᵀX of its inputs, [cols, cols], `name` for errors.
///
/// # Errors
/// Inputs that are not finite.
pub(crate) fn narrow(
    weight: ArrayView2<f32>,
    hessian: &Array2<f32>,
    size: usize,
    keep: usize,
    width: &Width,
    name: &str,
) -> Result<NarrowedLinear> {
    let mut surgeon = Surgeon::new(weight, hessian, size, name)?;
    let goes = surgeon.groups() - keep;
    let kept = match width.by {
        ChannelScore::Error => surgeon.remove_least(goes),
        ChannelScore::Activation => {
            let order = smallest_first(hessian, size);
            order[..goes].chunks(goes.div_ceil(STEPS).max(1)).for_each(|groups| surgeon.remove(groups));
            Kept::new(order[goes..].iter().map(|group| *group as u32))
        }
    };
    let weight = if width.correct { surgeon.w.mapv(|value| value as f32) } else { weight.to_owned() };
    Ok(NarrowedLinear { weight: masked(weight, &kept, size), kept })
}

/// Groups by the sum of their squared activations, the smallest first.
fn smallest_first(hessian: &Array2<f32>, size: usize) -> Vec<usize> {
    let diagonal = hessian.diag();
    let power = |group: usize| {
        diagonal.slice(s![group * size..(group + 1) * size]).iter().map(|x| f64::from(*x)).sum::<f64>()
    };
    let powers: Vec<f64> = (0..diagonal.len() / size).map(power).collect();
    let mut order: Vec<usize> = (0..powers.len()).collect();
    order.sort_by(|a, b| powers[*a].total_cmp(&powers[*b]));
    order
}

/// Zero in the columns that go.
fn masked(mut weight: Array2<f32>, kept: &Kept, size: usize) -> Array2<f32> {
    for (column, mut values) in weight.axis_iter_mut(Axis(1)).enumerate() {
        if kept.place((column / size) as u32).is_none() {
            values.fill(0.0);
        }
    }
    weight
}

/// Takes columns out, and updates the others.
struct Surgeon {
    /// The weight, [rows, cols].
    w: Array2<f64>,
    /// H⁻¹ of the columns that are left, [cols, cols].
    inverse: Array2<f64>,
    /// Columns of a group.
    size: usize,
    /// True for the groups that are left.
    left: Vec<bool>,
}

impl Surgeon {
    fn new(weight: ArrayView2<f32>, hessian: &Array2<f32>, size: usize, name: &str) -> Result<Surgeon> {
        refuse_damaged(hessian, name)?;
        let mut h = hessian.mapv(f64::from);
        let mean = h.diag().mean().unwrap_or(0.0);
        let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
        h.diag_mut().mapv_inplace(|x| x + damping);
        let inverse = cholesky_inverse(&h).ok_or_else(|| {
            Error::unsupported(
                format!("{name}: the Gram matrix of its inputs cannot be inverted"),
                "more text, or another: --data takes several sources",
            )
        })?;
        let left = vec![true; weight.ncols() / size];
        Ok(Surgeon { w: weight.mapv(f64::from), inverse, size, left })
    }

    fn groups(&self) -> usize {
        self.left.len()
    }

    /// Takes out the groups of least error, a few at a time. Returns those that stay.
    fn remove_least(&mut self, mut goes: usize) -> Kept {
        let at_once = goes.div_ceil(STEPS).max(1);
        while goes > 0 {
            let mut errors: Vec<(f64, usize)> =
                self.groups_left().map(|group| (self.error(group), group)).collect();
            errors.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let count = at_once.min(goes);
            let least: Vec<usize> = errors[..count].iter().map(|(_, group)| *group).collect();
            self.remove(&least);
            goes -= count;
        }
        Kept::new(self.groups_left().map(|group| group as u32))
    }

    fn groups_left(&self) -> impl Iterator<Item = usize> {
        (0..self.groups()).filter(|group| self.left[*group])
    }

    fn columns(&self, groups: &[usize]) -> Vec<usize> {
        groups.iter().flat_map(|group| group * self.size..(group + 1) * self.size).collect()
    }

    /// tr(W_g·(H⁻¹_gg)⁻¹·W_gᵀ): the error of the outputs without a group, if the others make up for it.
    fn error(&self, group: usize) -> f64 {
        let columns = self.columns(&[group]);
        let w = self.w.select(Axis(1), &columns);
        if let [column] = columns[..] {
            return w.iter().map(|x| x * x).sum::<f64>() / self.inverse[[column, column]];
        }
        match self.pivot(&columns) {
            Some(pivot) => (product(w.view(), pivot.view()) * &w).sum(),
            None => 0.0,
        }
    }

    /// (H⁻¹_cc)⁻¹. `None` for columns that others determine: nothing is lost with them.
    fn pivot(&self, columns: &[usize]) -> Option<Array2<f64>> {
        cholesky_inverse(&self.inverse.select(Axis(0), columns).select(Axis(1), columns))
    }

    /// Takes groups out: W ← W − W_c·(H⁻¹_cc)⁻¹·H⁻¹_c:, and H⁻¹ likewise.
    fn remove(&mut self, groups: &[usize]) {
        let columns = self.columns(groups);
        groups.iter().for_each(|group| self.left[*group] = false);
        let Some(pivot) = self.pivot(&columns) else { return };
        let rows = self.inverse.select(Axis(0), &columns);
        let feedback = product(pivot.view(), rows.view());
        self.w -= &product(self.w.select(Axis(1), &columns).view(), feedback.view());
        self.inverse -= &product(rows.t(), feedback.view());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::test_support::normal;

    fn width(by: ChannelScore, correct: bool) -> Width {
        Width { ffn: None, heads: None, hidden: None, multiple: 1, by, correct }
    }

    /// Inputs of which the last columns are nearly sums of the first.
    fn inputs(tokens: usize, cols: usize) -> Array2<f32> {
        let mut x = normal(tokens, cols, 3);
        for col in cols / 2..cols {
            let sum = &x.column(col - cols / 2).to_owned() + &x.column((col + 1) % (cols / 2));
            x.column_mut(col).zip_mut_with(&sum, |value, sum| *value = 0.1 * *value + sum);
        }
        x
    }

    fn loss(x: &Array2<f32>, w: &Array2<f32>, narrow: &Array2<f32>) -> f64 {
        let error = x.dot(&(w - narrow).t());
        error.iter().map(|e| f64::from(*e).powi(2)).sum()
    }

    /// The weights that stay are the least-squares solution on the inputs that stay: its residual is orthogonal to them.
    #[test]
    fn the_columns_that_stay_make_up_for_the_others() {
        let (x, w) = (inputs(200, 12), normal(5, 12, 4));
        let h = x.t().dot(&x);
        for by in [ChannelScore::Error, ChannelScore::Activation] {
            for size in [1, 3] {
                let keep = 8 / size.min(2);
                let found = narrow(w.view(), &h, size, keep, &width(by, true), "w").unwrap();
                assert_eq!(found.kept.numbers().len(), keep, "{by:?} {size}");
                let residual = x.dot(&(&w - &found.weight).t());
                let gradient = x.t().dot(&residual);
                for column in 0..12 {
                    let stays = found.kept.place((column / size) as u32).is_some();
                    let largest = gradient.row(column).iter().fold(0f32, |max, g| max.max(g.abs()));
                    assert!(!stays || largest < 0.5, "{by:?} {size} {column}: {largest}");
                    assert_eq!(found.weight.column(column).iter().all(|value| *value == 0.0), !stays);
                }
            }
        }
    }

    #[test]
    fn the_error_is_that_of_the_outputs_and_least_by_error() {
        let (x, w) = (inputs(300, 16), normal(4, 16, 5));
        let h = x.t().dot(&x);
        let of = |by, correct| {
            let found = narrow(w.view(), &h, 1, 12, &width(by, correct), "w").unwrap();
            loss(&x, &w, &found.weight)
        };
        let (least, activation) = (of(ChannelScore::Error, true), of(ChannelScore::Activation, true));
        let uncorrected = of(ChannelScore::Activation, false);
        assert!(least <= activation && activation < 0.5 * uncorrected, "{least} {activation} {uncorrected}");
        // The error of a single column is that of the outputs; λ adds little where no inputs are nearly alike.
        let x = normal(300, 16, 6);
        let h = x.t().dot(&x);
        let surgeon = Surgeon::new(w.view(), &h, 1, "w").unwrap();
        for group in 0..16 {
            let mut other = Surgeon::new(w.view(), &h, 1, "w").unwrap();
            other.remove(&[group]);
            let weight = other.w.mapv(|value| value as f32);
            let (error, found) = (surgeon.error(group), loss(&x, &w, &weight));
            assert!((error - found).abs() < 0.05 * error, "{group}: {error} {found}");
        }
    }

    #[test]
    fn inputs_that_are_not_finite_are_refused() {
        let h = Array2::from_elem((4, 4), f32::NAN);
        let w = normal(2, 4, 1);
        let error = narrow(w.view(), &h, 1, 2, &width(ChannelScore::Error, true), "w").unwrap_err();
        assert!(error.to_string().contains("holds NaN"), "{error}");
    }
}

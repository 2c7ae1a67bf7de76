//! Mixed precision: which scheme each group of linears gets, so that the whole fits a budget and loses least.
//!
//! A multiple-choice knapsack: of each group one choice, with its bytes and its error; errors add up. Solved by dynamic
//! programming over bytes, exactly up to the unit that sizes are rounded up to (a 65536th of the budget).

use std::collections::BTreeMap;

use super::resolved::Plan;
use super::roles::Roles;
use super::tensors::{Action, TensorPlan};
use crate::error::{Error, Result};
use crate::recipe::{Budget, Override, Recipe};

/// The loss of each group of linears under each of the choices.
pub(crate) type Sensitivity = BTreeMap<String, Vec<f64>>;

/// A group of linears.
#[derive(Debug, Default, PartialEq)]
struct Item {
    sources: Vec<String>,
    /// Its size under each choice, in bytes.
    bytes: Vec<u64>,
    errors: Vec<f64>,
}

/// The choices, and what remains of the budget for them.
pub(crate) struct Allotment<'a> {
    base: &'a Plan,
    choices: &'a [Plan],
    items: Vec<Item>,
    /// Bytes for the items; below zero where what is fixed takes more.
    bytes: i128,
    elements: u64,
}

impl<'a> Allotment<'a> {
    /// Works out sizes. `base` is the plan of what has no choice, `choices` the plans of the whole model as each choice, which
    /// have the same tensors in the same order.
    pub(crate) fn new(
        budget: &Budget,
        base: &'a Plan,
        choices: &'a [Plan],
        sensitivity: &Sensitivity,
    ) -> Self {
        let mut items: BTreeMap<String, Item> = BTreeMap::new();
        let (mut quantized, mut fixed, mut rest) = (0, 0, 0);
        for (index, tensor) in base.tensors.iter().enumerate() {
            let tensors: Vec<&TensorPlan> = choices.iter().map(|plan| &plan.tensors[index]).collect();
            let is_quantized = tensors.iter().any(|tensor| matches!(tensor.action, Action::Quantize(_)));
            let group =
                tensor.output.pieces.first().map(|piece| base.roles.group(&piece.source)).unwrap_or_default();
            match sensitivity.get(&group) {
                Some(errors) if is_quantized => items.entry(group).or_default().add(&tensors, errors),
                _ if is_quantized => fixed += tensor.bytes(),
                _ => rest += tensor.bytes(),
            }
            quantized += if is_quantized { tensor.elements() } else { 0 };
        }
        let bytes = match budget.size {
            Some(size) => i128::from(size) - i128::from(rest),
            None => (budget.bpw.unwrap_or_default() * quantized as f64 / 8.0) as i128,
        };
        Allotment {
            base,
            choices,
            items: items.into_values().collect(),
            bytes: bytes - i128::from(fixed),
            elements: quantized,
        }
    }

    fn least(&self) -> u64 {
        self.items.iter().filter_map(|item| item.bytes.first()).sum()
    }

    /// The base's recipe with an override for each group.
    ///
    /// # Errors
    /// A budget that is too small for the first choice.
    pub(crate) fn spend(&self) -> Result<Recipe> {
        let assigned = u64::try_from(self.bytes).ok().and_then(|budget| assign(&self.items, budget));
        let Some(assigned) = assigned else {
            let bits = |bytes: f64| 8.0 * bytes / self.elements.max(1) as f64;
            let what = format!(
                "the budget leaves {:.2} bits per weight for what can be chosen, which takes {:.2} as {}",
                bits((self.bytes as f64).max(0.0)),
                bits(self.least() as f64),
                self.choices
                    .first()
                    .and_then(|choice| choice.request.recipe.scheme.as_deref())
                    .unwrap_or_default(),
            );
            return Err(Error::usage(what, "allow more, or name schemes of fewer bits with --choices"));
        };
        let mut spent = Recipe { budget: None, ..self.base.request.recipe.clone() };
        for (item, choice) in self.items.iter().zip(assigned) {
            let Recipe { scheme, group_size, symmetric, .. } = &self.choices[choice].request.recipe;
            spent.overrides.extend(item.patterns(&self.base.roles).into_iter().map(|pattern| Override {
                pattern,
                scheme: scheme.clone().unwrap_or_default(),
                group_size: *group_size,
                symmetric: *symmetric,
                ..Override::default()
            }));
        }
        Ok(spent)
    }
}

impl Item {
    fn add(&mut self, tensors: &[&TensorPlan], errors: &[f64]) {
        self.sources.extend(tensors[0].output.pieces.iter().map(|piece| piece.source.clone()));
        self.bytes.resize(tensors.len(), 0);
        self.bytes.iter_mut().zip(tensors).for_each(|(bytes, tensor)| *bytes += tensor.bytes());
        self.errors = errors.to_vec();
    }

    /// Globs that match its sources and nothing else: their names, or of experts what the names have in common.
    fn patterns(&self, roles: &Roles) -> Vec<String> {
        match self.sources.as_slice() {
            sources @ [first, ..] if sources.len() > 3 => {
                let module =
                    roles.engine_group(first).expect("only experts are so many that are stored alike");
                vec![format!("{}.*", globset::escape(&module))]
            }
            sources => sources.iter().map(|name| globset::escape(name)).collect(),
        }
    }
}

/// The choice of each item, so that their bytes are within the budget and their errors add up to the least; `None` where
/// nothing fits.
fn assign(items: &[Item], budget: u64) -> Option<Vec<usize>> {
    const UNITS: u64 = 1 << 16;
    let unit = budget.div_ceil(UNITS).max(1);
    let width = (budget / unit) as usize;
    let units = |bytes: u64| bytes.div_ceil(unit) as usize;
    // The least error of the items so far within so many units, and for each item the choice that gives it.
    let mut least = vec![0.0; width + 1];
    let mut chosen: Vec<Vec<u8>> = Vec::with_capacity(items.len());
    for item in items {
        let mut next = vec![f64::INFINITY; width + 1];
        let mut choices = vec![0; width + 1];
        for (choice, (bytes, error)) in item.bytes.iter().zip(&item.errors).enumerate() {
            for used in units(*bytes)..=width {
                let total = least[used - units(*bytes)] + error;
                if total < next[used] {
                    (next[used], choices[used]) = (total, choice as u8);
                }
            }
        }
        least = next;
        chosen.push(choices);
    }
    let mut left = width;
    let walk = items.iter().zip(&chosen).rev().map(|(item, choices)| {
        let choice = usize::from(choices[left]);
        left -= units(item.bytes[choice]);
        choice
    });
    least[width].is_finite().then(|| walk.collect::<Vec<_>>().into_iter().rev().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(choices: &[(u64, f64)]) -> Item {
        let (bytes, errors) = choices.iter().copied().unzip();
        Item { sources: Vec::new(), bytes, errors }
    }

    fn total(items: &[Item], chosen: &[usize]) -> (u64, f64) {
        let of = |(item, choice): (&Item, &usize)| (item.bytes[*choice], item.errors[*choice]);
        items.iter().zip(chosen).map(of).fold((0, 0.0), |sum, each| (sum.0 + each.0, sum.1 + each.1))
    }

    /// Every combination.
    fn best(items: &[Item], budget: u64) -> f64 {
        let count: usize = items.iter().map(|item| item.bytes.len()).product();
        let nth = |mut n: usize| {
            let digit = |item: &Item| {
                let choice = n % item.bytes.len();
                n /= item.bytes.len();
                choice
            };
            items.iter().map(digit).collect::<Vec<_>>()
        };
        let totals = (0..count).map(|n| total(items, &nth(n)));
        totals.filter(|(bytes, _)| *bytes <= budget).map(|(_, error)| error).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn the_assignment_is_the_best_of_all() {
        let mut random = crate::numerics::random::SplitMix64(5);
        let mut draw = |below: u64| random.next() % below;
        for _ in 0..50 {
            let mut items: Vec<Item> = Vec::new();
            for _ in 0..5 {
                let choices: Vec<(u64, f64)> =
                    (0..3).map(|_| (1 + draw(40), draw(1000) as f64 / 7.0)).collect();
                items.push(item(&choices));
            }
            let budget = 20 + draw(120);
            match assign(&items, budget) {
                Some(chosen) => {
                    let (bytes, error) = total(&items, &chosen);
                    assert!(bytes <= budget);
                    assert!((error - best(&items, budget)).abs() < 1e-9);
                }
                None => assert!(best(&items, budget).is_infinite()),
            }
        }
    }

    #[test]
    fn budgets_of_real_sizes_are_used_up_and_never_exceeded() {
        let items: Vec<Item> =
            (0..300).map(|i| item(&[(10_000_019, 9.0 + f64::from(i)), (20_000_003, 1.0)])).collect();
        let budget = 300 * 15_000_000;
        let chosen = assign(&items, budget).expect("it fits");
        let (bytes, _) = total(&items, &chosen);
        assert!(bytes <= budget && bytes * 100 > budget * 99);
        assert!(chosen[..100].iter().all(|choice| *choice == 0), "those that mind least");
        assert_eq!(assign(&items, 10), None);
        assert_eq!(assign(&[], 0), Some(vec![]));
    }
}

//! Tensors that are alike in all but the numbers in their names, as one line: `model.layers.{0..29}.mlp.up_proj.weight`.

use std::collections::BTreeSet;
use std::hash::Hash;

use indexmap::IndexMap;

/// Entries of a list that are shown as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// The name of the one, or the names of all.
    pub name: String,
    /// Indices into the list, in its order.
    pub members: Vec<usize>,
}

/// A name without its numbers.
type Pattern<'a> = Vec<Option<&'a str>>;
/// An index into the list, and the numbers of its name.
type Member = (usize, Vec<u64>);

/// Joins the entries of a list, a name and what must be equal, in the order of their first members. The numbers of a line are
/// all combinations of those that its name shows.
pub(crate) fn collapse<K: Hash + Eq>(entries: impl IntoIterator<Item = (String, K)>) -> Vec<Line> {
    let entries: Vec<(String, K)> = entries.into_iter().collect();
    let mut alike: IndexMap<(Pattern, &K), Vec<Member>> = IndexMap::new();
    for (index, (name, key)) in entries.iter().enumerate() {
        let numbers: Vec<u64> = name.split('.').filter_map(number).collect();
        let pattern = name.split('.').map(|part| Some(part).filter(|part| number(part).is_none())).collect();
        alike.entry((pattern, key)).or_default().push((index, numbers));
    }
    let mut lines: Vec<Line> =
        alike.into_iter().flat_map(|((pattern, _), members)| lines(&pattern, members)).collect();
    lines.sort_by_key(|line| line.members[0]);
    lines
}

/// Every entry as a line of its own.
pub(crate) fn each(names: impl IntoIterator<Item = String>) -> Vec<Line> {
    names.into_iter().enumerate().map(|(index, name)| Line { name, members: vec![index] }).collect()
}

/// A text with the numbers of the names in it left out, so that it is the same for tensors that are alike.
pub(crate) fn without_numbers(text: &str) -> String {
    let parts: Vec<&str> = text.split('.').collect();
    let inner = 1..parts.len().saturating_sub(1);
    let part = |(at, part): (usize, &&str)| match number(part).filter(|_| inner.contains(&at)) {
        Some(_) => "*".to_owned(),
        None => (*part).to_owned(),
    };
    parts.iter().enumerate().map(part).collect::<Vec<_>>().join(".")
}

/// The number that a part of a name is, if printing it gives the part again.
fn number(part: &str) -> Option<u64> {
    part.parse().ok().filter(|number: &u64| number.to_string() == part)
}

/// The lines of entries of one pattern: one if their numbers are all combinations of those in each place, else one for each
/// number in the first place where they differ.
fn lines(pattern: &Pattern, members: Vec<Member>) -> Vec<Line> {
    let places = members[0].1.len();
    let numbers: Vec<BTreeSet<u64>> =
        (0..places).map(|place| members.iter().map(|(_, numbers)| numbers[place]).collect()).collect();
    let combinations: usize = numbers.iter().map(BTreeSet::len).product();
    let first = numbers.iter().position(|numbers| numbers.len() > 1);
    match first.filter(|_| combinations != members.len()) {
        None => {
            let name = name(pattern, &numbers);
            vec![Line { name, members: members.into_iter().map(|(index, _)| index).collect() }]
        }
        Some(place) => {
            let mut parts: IndexMap<u64, Vec<Member>> = IndexMap::new();
            members.into_iter().for_each(|member| parts.entry(member.1[place]).or_default().push(member));
            parts.into_values().flat_map(|members| lines(pattern, members)).collect()
        }
    }
}

fn name(pattern: &Pattern, numbers: &[BTreeSet<u64>]) -> String {
    let mut numbers = numbers.iter();
    let mut part = |part: &Option<&str>| match part {
        Some(text) => (*text).to_owned(),
        None => numbers.next().map_or(String::new(), shown),
    };
    pattern.iter().map(&mut part).collect::<Vec<_>>().join(".")
}

/// `7`, `{0..29}`, `{0,2,5..9}`.
fn shown(numbers: &BTreeSet<u64>) -> String {
    let mut runs: Vec<[u64; 2]> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some([_, last]) if *last + 1 == *number => *last = *number,
            _ => runs.push([*number; 2]),
        }
    }
    let run = |[first, last]: &[u64; 2]| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}..{last}"),
    };
    let list = runs.iter().map(run).collect::<Vec<_>>().join(",");
    if numbers.len() == 1 { list } else { format!("{{{list}}}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(entries: &[(&str, u8)]) -> Vec<(String, usize)> {
        let lines = collapse(entries.iter().map(|(name, key)| ((*name).to_owned(), *key)));
        lines.into_iter().map(|line| (line.name, line.members.len())).collect()
    }

    fn check(entries: &[(&str, u8)], expected: &[(&str, usize)]) {
        let expected: Vec<(String, usize)> =
            expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(names(entries), expected);
    }

    #[test]
    fn layers_that_are_alike_are_one_line() {
        check(
            &[("e", 0), ("l.0.up", 0), ("l.1.up", 0), ("l.10.up", 0), ("l.2.up", 1), ("n", 0)],
            &[("e", 1), ("l.{0,1,10}.up", 3), ("l.2.up", 1), ("n", 1)],
        );
        check(&[("l.0", 0), ("l.1", 0), ("l.2", 0)], &[("l.{0..2}", 3)]);
        check(&[("blk.00.w", 0), ("blk.01.w", 0)], &[("blk.00.w", 1), ("blk.01.w", 1)]);
    }

    #[test]
    fn experts_are_one_line_where_every_layer_has_the_same() {
        check(&[("l.0.e.0", 0), ("l.0.e.1", 0), ("l.1.e.0", 0), ("l.1.e.1", 0)], &[("l.{0,1}.e.{0,1}", 4)]);
        check(
            &[("l.0.e.0", 0), ("l.0.e.1", 0), ("l.1.e.0", 0), ("l.2.e.1", 0)],
            &[("l.0.e.{0,1}", 2), ("l.1.e.0", 1), ("l.2.e.1", 1)],
        );
    }

    #[test]
    fn notes_about_other_tensors_are_alike_too() {
        let note = "as model.layers.3.attn.k_proj.weight, with which engines fuse it";
        let expected = "as model.layers.*.attn.k_proj.weight, with which engines fuse it";
        assert_eq!(without_numbers(note), expected);
        assert_eq!(without_numbers("96 columns: 4.5 bits"), "96 columns: 4.5 bits");
    }
}

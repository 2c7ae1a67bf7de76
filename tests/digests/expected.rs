//! `expected.txt`: a section for each level, a line `name digest` for each result.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::machine::Level;

/// Names and digests.
pub type Digests = BTreeMap<String, String>;

/// The digests of a level.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Section {
    /// The machines that they are valid on: [`Level::machine`].
    pub machine: String,
    pub digests: Digests,
}

/// The sections of the file.
#[derive(Debug, Default, PartialEq)]
pub struct Expected(pub BTreeMap<Level, Section>);

impl Expected {
    pub fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/digests/expected.txt")
    }

    pub fn parse(text: &str) -> Expected {
        let mut expected = Expected::default();
        let mut section = &mut Section::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(heading) = line.strip_prefix('[') {
                let (name, machine) = heading.trim_end_matches(']').split_once(' ').unwrap();
                let level = Level::ALL.into_iter().find(|level| level.name() == name).unwrap();
                section = expected.0.entry(level).or_default();
                section.machine = machine.to_owned();
            } else {
                let (name, digest) = line.split_once(' ').unwrap();
                section.digests.insert(name.to_owned(), digest.to_owned());
            }
        }
        expected
    }

    pub fn to_text(&self) -> String {
        let mut text = "# Made by `LLMC_DIGESTS=write cargo test --test digests`; see main.rs.\n".to_owned();
        for (level, section) in &self.0 {
            writeln!(text, "\n[{} {}]", level.name(), section.machine).unwrap();
            section.digests.iter().for_each(|(name, digest)| writeln!(text, "{name} {digest}").unwrap());
        }
        text
    }
}

/// A line for each name whose digests differ, or that has only one.
pub fn differences(expected: &Digests, found: &Digests) -> Vec<String> {
    let changed = found.iter().filter_map(|(name, found)| match expected.get(name) {
        Some(expected) if expected == found => None,
        Some(expected) => Some(format!("{name}: expected {expected}, found {found}")),
        None => Some(format!("{name}: no digest is recorded, found {found}")),
    });
    let gone = expected.keys().filter(|name| !found.contains_key(*name));
    changed.chain(gone.map(|name| format!("{name}: a digest is recorded, but nothing makes it"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# A comment.\n\n[any any]\na 1\nb 2\n\n[avx2 x86_64,math=0]\na refused\n";

    #[test]
    fn a_file_is_written_as_it_was_read() {
        let expected = Expected::parse(TEXT);
        assert_eq!(expected.0[&Level::Any].digests.len(), 2);
        assert_eq!(expected.0[&Level::Avx2].machine, "x86_64,math=0");
        assert_eq!(Expected::parse(&expected.to_text()), expected);
    }

    #[test]
    fn every_difference_is_named() {
        let digests = |text: &str| Expected::parse(text).0.remove(&Level::Any).unwrap().digests;
        let (recorded, found) = (digests("[any any]\na 1\nb 2\nc 3"), digests("[any any]\na 1\nb 4\nd 5"));
        let lines = differences(&recorded, &found);
        let starts = ["b: expected 2, found 4", "d: no digest is recorded", "c: a digest is recorded"];
        assert_eq!(lines.len(), starts.len());
        assert!(lines.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{lines:?}");
        assert!(differences(&recorded, &recorded).is_empty());
    }
}

//! Compares the output that a page shows with what a command prints. Times and rates are masked, and what depends on the machine;
//! a line `…` stands for any lines.

use std::sync::LazyLock;

use regex::Regex;

/// Texts that differ from run to run, or from machine to machine.
static MASKED: LazyLock<Regex> = LazyLock::new(|| {
    let time = r"\d+(\.\d+)? (s|ms|tokens/s|[KMG]i?B/s)\b";
    let machine =
        r"memory +(about )?\d+(\.\d+)? [KMG]i?B|threads: \d+|\d+ threads?\b|\d+(\.\d+)? [KMG]i?B free";
    Regex::new(&format!("{time}|{machine}")).unwrap()
});

fn masked(line: &str) -> String {
    MASKED.replace_all(line.trim_end(), "#").into_owned()
}

/// Returns true if the shown lines are the printed ones.
pub fn matches(shown: &[String], printed: &str) -> bool {
    let printed: Vec<String> = printed.lines().map(masked).filter(|line| !line.is_empty()).collect();
    let shown: Vec<String> = shown.iter().map(|line| masked(line)).filter(|line| !line.is_empty()).collect();
    let mut parts = shown.split(|line| line == "…");
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let mut open = false;
    for part in parts {
        let Some(at) = (0..=rest.len()).find(|at| rest[*at..].starts_with(part)) else { return false };
        rest = &rest[at + part.len()..];
        open = part.is_empty();
    }
    rest.is_empty() || open
}

#[test]
fn shown_output_is_held_to_what_is_printed() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let printed = "first 3\nsecond\nthird\nin 0.12 s: 3 bits";
    for good in [printed, "first 3\n…\nin 9 s: 3 bits", "…\nthird\n…", "first 3\nsecond\n…"] {
        assert!(matches(&lines(good), printed), "{good}");
    }
    for bad in
        ["", "first 4\n…", "second\n…", "first 3\nsecond\nthird", "…\nin 1 s: 4 bits", "…\nthird\nsecond\n…"]
    {
        assert!(!matches(&lines(bad), printed), "{bad}");
    }
}

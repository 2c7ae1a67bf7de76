//! The bytes that llmc makes, held against `expected.txt`: outputs of methods, schemes and formats for the fixtures, plans,
//! evaluations, generated text, statistics. A change of code that means to change no result changes no line there.
//!
//! - After a change on purpose, and for a new method, scheme, format or fixture: `LLMC_DIGESTS=write cargo test --test digests`,
//!   and say in the commit why the lines changed.
//! - `LLMC_DIGESTS_ONLY=WORD` compares the cases whose names contain the word.
//! - `LLMC_DIGESTS_BINARY=PATH` runs another build: of another commit, or under an emulator of another CPU.
//! - `NAME#card` is the digest of the README.md beside the weights, so that a change of its words shows by itself. Messages,
//!   notes and tables for people are not in a digest; a refused command is recorded as `refused`.
//!
//! Sums depend on the instruction set. Cases that compute any run at a level that `LLMC_SIMD` sets, and have a section of
//! the file each (machine.rs). A level that this machine lacks, or whose mathematical functions are those of another C library,
//! is skipped, and said so on stderr.
#![allow(clippy::unwrap_used)]

mod case;
#[path = "../common/mod.rs"]
mod common;
mod expected;
mod letters;
mod machine;
mod place;
mod table;

use std::io::Write;

use case::Case;
use expected::{Digests, Expected, Section, differences};
use machine::Level;
use place::Place;
use rayon::prelude::*;

/// The way to accept the digests that were found.
const HINT: &str =
    "hint: if these changes are intended, or the names are new: LLMC_DIGESTS=write cargo test --test digests";

#[test]
fn results_are_what_they_were() {
    let writes = std::env::var("LLMC_DIGESTS").is_ok_and(|value| value == "write");
    let only = std::env::var("LLMC_DIGESTS_ONLY").unwrap_or_default();
    assert!(!writes || only.is_empty(), "LLMC_DIGESTS=write makes the whole file: unset LLMC_DIGESTS_ONLY");
    let place = Place::new(&table::folders("models"));
    let mut recorded = Expected::parse(&std::fs::read_to_string(Expected::path()).unwrap_or_default());
    let (mut problems, mut compared) = (Vec::new(), 0);
    let cases: Vec<Case> = table::all().into_iter().filter(|case| case.name.contains(&only)).collect();
    for level in Level::ALL {
        let Some(machine) = level.machine() else {
            say(&format!("SKIPPED: this machine cannot run level {}", level.name()));
            continue;
        };
        let mut section = recorded.0.get(&level).cloned().unwrap_or_default();
        section.digests.retain(|name, _| name.contains(&only));
        if !writes && machine != section.machine {
            say(&format!(
                "SKIPPED: the digests of level {} are of {:?}, this machine is {machine:?}",
                level.name(),
                section.machine
            ));
            continue;
        }
        let found = made(&place, &cases, level, &mut problems);
        if writes {
            recorded.0.insert(level, Section { machine, digests: found });
        } else {
            compared += found.len();
            let named = |line| format!("[{}] {line}", level.name());
            problems.extend(differences(&section.digests, &found).into_iter().map(named));
        }
    }
    assert!(problems.is_empty(), "{} problems\n{}\n{HINT}", problems.len(), problems.join("\n"));
    if writes {
        std::fs::write(Expected::path(), recorded.to_text()).unwrap();
    } else {
        assert!(compared > 0, "nothing was compared");
    }
}

/// The digests of a level's cases. Starting a process and waiting for it takes a share of the time, so there are more threads than cores.
fn made(place: &Place, cases: &[Case], level: Level, problems: &mut Vec<String>) -> Digests {
    let threads = 2 * std::thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let cases = cases.par_iter().filter(|case| case.level == level);
    let results: Vec<_> = pool.install(|| cases.map(|case| case.digests(place)).collect());
    let mut digests = Digests::new();
    for result in results {
        match result {
            Ok(named) => digests.extend(named),
            Err(problem) => problems.push(problem),
        }
    }
    digests
}

/// Writes to stderr past the test harness, which keeps what passing tests print.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

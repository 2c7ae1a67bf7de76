//! Reads the sources and holds what the compiler does not: the invariants of ARCHITECTURE.md that show in what a module
//! names, and a few habits. Each check is a function from a source file to its problems, and is itself shown to fail on a
//! bad snippet.
//!
//! Limits: all but the graph reads text, not Rust, and takes an inline `#[cfg(test)] mod` to run to the end of its file.
#![allow(clippy::unwrap_used)]

#[path = "tidy/graph.rs"]
mod graph;
#[path = "tidy/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use source::{Source, has_word};

/// Invariants of ARCHITECTURE.md about who never sees whom: a method no path, device, plan or format; a format no method;
/// the readers of files no method; a model no method and no file.
const NEVER: &[(&str, &[&str])] = &[
    ("quant", &["io", "export", "plan", "backend", "cuda", "pipeline"]),
    ("stage", &["io", "export", "plan", "backend", "cuda", "pipeline"]),
    ("export", &["quant", "stage"]),
    ("io", &["quant", "stage"]),
    ("model", &["quant", "stage", "io"]),
];

/// Modules that are pure: what of the outside world they must not name.
const PURE: &[&str] = &["numerics", "quant", "stage", "model", "tensor", "export"];
const OUTSIDE: &[&str] =
    &["std::fs", "std::io::", "std::net", "std::process", "std::env", "memmap2", "tempfile"];

/// Calls that change the disk, and the folders whose business that is.
const WRITES: &[&str] = &[
    "File::create",
    "fs::write",
    "fs::rename",
    "OpenOptions",
    "create_dir",
    "create_dir_all",
    "remove_file",
    "remove_dir_all",
];
const MAY_WRITE: &[&str] =
    &["src/pipeline/", "src/io/hub/", "src/eval/base/", "src/job/cache.rs", "src/cli/bench/kernels.rs"];

/// Files that may hold `unsafe`: SIMD, the memory map, the heap, the calls of a GPU's driver and memory given to it by address (`Buffer::new`);
/// and the counting allocator of a test.
const MAY_BE_UNSAFE: &[&str] = &[
    "src/heap.rs",
    "src/io/map.rs",
    "src/numerics/f16c.rs",
    "src/numerics/simd.rs",
    "src/numerics/ggml/",
    "src/backend/cpu/int/",
    "src/backend/cpu/dense/formats.rs",
    "src/backend/cpu/dense/kernel.rs",
    "src/backend/cpu/dense/lanes.rs",
    "src/backend/cpu/dense/tile.rs",
    "src/backend/cpu/dense/unpacked.rs",
    "src/backend/cpu/dense/x86.rs",
    "src/backend/cpu/simd/x86.rs",
    "src/backend/candle/packed.rs",
    "src/cuda/buffer.rs",
    "src/cuda/driver/",
    "benches/int_linear.rs",
    "benches/linear/peaks.rs",
    "tests/hostile/alloc.rs",
    "tests/driver.rs",
    "tests/kernels/emulator.rs",
];

/// Calls that mark unfinished or debugging code.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];
const PRINTS: &[&str] = &["println!", "eprintln!", "print!", "eprint!"];

const MAX_LINES: usize = 500;

fn purity(source: &Source) -> Vec<String> {
    if !PURE.contains(&source.module()) || source.is_test() {
        return vec![];
    }
    source.problems(|line| {
        let found = OUTSIDE.iter().find(|name| has_word(line, name))?;
        Some(format!("`{}` does no I/O, but names {found}: let `pipeline` or `io` do it", source.module()))
    })
}

fn writes(source: &Source) -> Vec<String> {
    if source.is_test() || MAY_WRITE.iter().any(|place| source.path.starts_with(place)) {
        return vec![];
    }
    source.problems(|line| {
        let found = WRITES.iter().find(|call| has_word(line, call))?;
        Some(format!(
            "{found}: only {} may write, through a temporary that is renamed",
            MAY_WRITE.join(" and ")
        ))
    })
}

/// Calls that carry a method out or let a format encode, and the places that may make them.
const CARRIES_OUT: &[&str] = &[
    "method.quantize(",
    "method.rewrite(",
    "method.prune(",
    "method.compensate(",
    "quantize_linear(method",
    "format.encode(",
];
const MAY_CARRY_OUT: &[&str] = &["src/pipeline/", "src/stage/quantize.rs"];

/// Only `pipeline` carries methods out and lets a format encode.
fn loops(source: &Source) -> Vec<String> {
    if source.is_test() || MAY_CARRY_OUT.iter().any(|place| source.path.starts_with(place)) {
        return vec![];
    }
    source.problems(|line| {
        let found = CARRIES_OUT.iter().find(|call| line.contains(**call))?;
        Some(format!("{found}…): the loop over tensors is in src/pipeline/, and only there"))
    })
}

fn opens_with_docs(source: &Source) -> Vec<String> {
    let first = source.text.lines().next().unwrap_or_default();
    let good = first.strip_prefix("//!").is_some_and(|text| text.trim().len() > 10);
    let problem = || format!("{}:1: begin with `//!`: what this file is for, and its limits", source.path);
    if good { vec![] } else { vec![problem()] }
}

fn length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let problem = || format!("{}: {lines} lines; split it by topic at {MAX_LINES}", source.path);
    if lines <= MAX_LINES { vec![] } else { vec![problem()] }
}

fn safety(source: &Source) -> Vec<String> {
    if MAY_BE_UNSAFE.iter().any(|place| source.path.starts_with(place)) {
        return vec![];
    }
    source.problems(|line| {
        let found = has_word(line, "unsafe");
        found.then(|| format!("`unsafe` belongs in {}: use what they offer", MAY_BE_UNSAFE.join(", ")))
    })
}

fn unfinished(source: &Source) -> Vec<String> {
    source.problems(|line| {
        let found = UNFINISHED.iter().find(|name| has_word(line, name))?;
        Some(format!("{found} is not finished code: finish it, or return Error::unsupported with a hint"))
    })
}

fn prints(source: &Source) -> Vec<String> {
    if source.is_test() || source.path.starts_with("src/cli/") {
        return vec![];
    }
    source.problems(|line| {
        let found = PRINTS.iter().find(|name| has_word(line, name))?;
        Some(format!("{found}: only src/cli prints; return the value, or use tracing"))
    })
}

/// Paths in backticks in a document that are not in the repository.
fn dead_paths(source: &Source, exists: impl Fn(&str) -> bool) -> Vec<String> {
    const ROOTS: &[&str] = &[
        "src/",
        "tests/",
        "fixtures/",
        "benches/",
        "fuzz/",
        "kernels/",
        "docs/",
        "recipes/",
        "tasks/",
        ".ci/",
    ];
    let quoted = source.text.split('`').skip(1).step_by(2);
    quoted
        .filter(|text| {
            ROOTS.iter().any(|root| text.starts_with(root)) && !text.contains(['*', ' ', '<', '…', '\n'])
        })
        .filter(|text| !exists(text.trim_end_matches('/')))
        .map(|text| format!("{}: `{text}` is not there", source.path))
        .collect()
}

type Check = fn(&Source) -> Vec<String>;

/// Every check of a source file, with a snippet that it must refuse and one that looks alike and is fine.
const CHECKS: &[(Check, [&str; 2], [&str; 2])] = &[
    (purity, ["src/numerics/x.rs", "use std::fs::File;"], ["src/numerics/x.rs", "use std::fmt; // std::fs"]),
    (purity, ["src/export/x.rs", "std::env::var(n)"], ["src/export/x.rs", "let s = \"std::env\";"]),
    (writes, ["src/io/x.rs", "fs::write(p, b)?;"], ["src/pipeline/x.rs", "fs::write(p, b)?;"]),
    (
        loops,
        ["src/cli/x.rs", "method.quantize(&block)?;"],
        ["src/pipeline/x.rs", "method.quantize(&block)?;"],
    ),
    (opens_with_docs, ["src/x.rs", "use std::fmt;\n"], ["src/x.rs", "//! Reads this and that.\n"]),
    (safety, ["src/plan.rs", "let x = unsafe { y() };"], ["src/plan.rs", "let unsafely = 1; // unsafe"]),
    (unfinished, ["src/x.rs", "fn f() { todo!() }"], ["src/x.rs", "let s = r#\"todo!()\"#;"]),
    (unfinished, ["tests/x.rs", "dbg!(x);"], ["tests/x.rs", "let c = '\"'; // dbg!(x) \""]),
    (
        prints,
        ["src/io/x.rs", "eprintln!(\"{x}\");"],
        ["src/io/x.rs", "#[cfg(test)]\nmod tests {\n println!(); }"],
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `folder` whose name ends so.
fn walk(folder: &Path, end: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !path.ends_with("target") {
            walk(&path, end, found);
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
}

fn read(path: &Path) -> Source {
    let shown = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
    Source {
        path: shown,
        text: fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
    }
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    ["src", "tests", "benches", "fuzz"]
        .iter()
        .for_each(|folder| walk(&root().join(folder), ".rs", &mut paths));
    paths.sort();
    let sources: Vec<Source> = paths.iter().map(|path| read(path)).collect();
    assert!(
        sources.iter().filter(|source| source.path.starts_with("src/")).count() > 20,
        "the sources were not found"
    );
    sources
}

fn hold(check: Check) {
    let problems: Vec<String> = sources().iter().flat_map(check).collect();
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n"));
}

/// The graph of the crate's modules.
static GRAPH: LazyLock<graph::Graph> = LazyLock::new(|| graph::Modules::parse(&sources()).graph());

/// `io::gguf`, or `the crate's root`.
fn shown(module: &[String]) -> String {
    if module.is_empty() { "the crate's root".to_owned() } else { module.join("::") }
}

fn print_floors(graph: &graph::Graph) {
    let floors = graph::floors(graph);
    let highest = floors.values().max().map_or(0, |floor| *floor);
    for floor in 0..=highest {
        let rooms = floors.iter().filter(|(_, at)| **at == floor).map(|(room, _)| shown(room));
        println!("{floor:>3}  {}", rooms.collect::<Vec<_>>().join(", "));
    }
}

fn refuse_cycles(graph: &graph::Graph) {
    let cycles = graph::cycles(graph);
    let lines: Vec<String> =
        cycles.iter().map(|cycle| cycle.iter().map(|m| shown(m)).collect::<Vec<_>>().join(" → ")).collect();
    assert!(cycles.is_empty(), "{} cycles\n{}", cycles.len(), lines.join("\n"));
}

/// `cargo test --test tidy floors -- --nocapture` shows the floors.
#[test]
fn modules_form_floors_without_cycles() {
    assert!(GRAPH.len() > 100, "the modules were not found");
    let rooms = graph::rooms(&GRAPH);
    print_floors(&rooms);
    refuse_cycles(&rooms);
    refuse_cycles(&GRAPH);
}

#[test]
fn some_rooms_never_see_others() {
    let rooms = graph::rooms(&GRAPH);
    for (room, never) in NEVER {
        let named = &rooms[&vec![(*room).to_owned()]];
        let wrong: Vec<_> =
            never.iter().filter(|other| named.contains(&vec![(**other).to_owned()])).collect();
        assert!(wrong.is_empty(), "`{room}` must not name {wrong:?}; see ARCHITECTURE.md, Invariants");
        let known = |other: &&str| rooms.contains_key(&vec![(*other).to_owned()]);
        assert!(never.iter().all(known), "{room}: NEVER names a module that is gone");
    }
}

#[test]
fn a_cycle_is_found() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let acyclic = [
        source("src/lib.rs", "mod a; mod b; mod c; mod d;"),
        source(
            "src/a/mod.rs",
            "mod x; pub use x::X; pub struct A(X); #[cfg(test)] mod t { use crate::b::B; }",
        ),
        source("src/a/x.rs", "pub struct X;"),
        source("src/b.rs", "use crate::a::{A, X}; pub struct B(A); fn f() { println!(\"{}\", X::N); }"),
        source("src/c.rs", "pub(crate) use crate::b::B;"),
        source("src/d.rs", "use crate::c::*;"),
    ];
    let graph = graph::Modules::parse(&acyclic).graph();
    assert_eq!(graph::cycles(&graph), Vec::<Vec<graph::Path>>::new());
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<graph::Path>();
    assert_eq!(graph[&path("b")], [path("a"), path("a::x")].into());
    assert_eq!(graph[&path("c")], [path("b")].into());
    assert_eq!(graph[&path("d")], [path("c")].into());
    assert_eq!(graph::floors(&graph)[&path("b")], 2);
    let mut cyclic = Vec::from(acyclic);
    cyclic[2] = source("src/a/x.rs", "pub struct X; macro_rules! m { () => { super::super::b::B::new() } }");
    let graph = graph::Modules::parse(&cyclic).graph();
    let cycles = graph::cycles(&graph);
    assert!(
        cycles.iter().any(|cycle| cycle.contains(&path("b")) && cycle.contains(&path("a::x"))),
        "{graph:?}"
    );
}

#[test]
fn exceptions_are_still_needed() {
    let sources = sources();
    let used = |place: &str, words: &[&str]| {
        let mut inside = sources.iter().filter(|source| source.path.starts_with(place));
        inside
            .any(|source| source.code().iter().any(|(_, line)| words.iter().any(|word| has_word(line, word))))
    };
    let idle = MAY_BE_UNSAFE.iter().filter(|place| !used(place, &["unsafe"]));
    let idle = idle.chain(MAY_WRITE.iter().filter(|place| !used(place, WRITES)));
    let idle: Vec<_> = idle.chain(MAY_CARRY_OUT.iter().filter(|place| !used(place, CARRIES_OUT))).collect();
    assert!(idle.is_empty(), "tests/tidy.rs: these need no exception any more: {idle:?}");
}

#[test]
fn only_some_modules_touch_the_disk() {
    hold(purity);
    hold(writes);
}

#[test]
fn only_the_pipeline_loops() {
    hold(loops);
}

#[test]
fn files_open_with_docs_and_end_before_they_are_long() {
    hold(opens_with_docs);
    hold(length);
}

#[test]
fn unsafe_stays_where_it_belongs() {
    hold(safety);
}

#[test]
fn nothing_is_unfinished_and_only_the_cli_prints() {
    hold(unfinished);
    hold(prints);
}

#[test]
fn documents_name_files_that_exist() {
    let mut pages =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| root().join(name)).to_vec();
    walk(&root().join("docs"), ".md", &mut pages);
    assert!(pages.len() > 8, "the pages of docs/ were not found");
    for page in pages {
        let problems = dead_paths(&read(&page), |path| root().join(path).exists());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}

#[test]
fn documents_know_every_method_format_and_this_version() {
    let page = |name: &str| read(&root().join("docs").join(name)).text;
    let tables = page("methods.md") + &page("formats.md");
    let methods = llmc::registry::METHODS.iter().map(|def| def.name);
    let formats = llmc::export::FORMATS.iter().map(|format| format.name());
    for name in methods.chain(formats) {
        assert!(has_word(&tables, name), "docs/: the tables of formats and methods lack `{name}`");
    }
    let changelog = read(&root().join("CHANGELOG.md")).text;
    let headings = [format!("## {}", env!("CARGO_PKG_VERSION")), "## Unreleased".to_owned()];
    let found = headings.iter().any(|heading| changelog.contains(heading));
    assert!(found, "CHANGELOG.md: expected one of the sections {headings:?}, found neither");
}

#[test]
fn each_check_can_fail() {
    for (i, (check, [bad_path, bad], [good_path, good])) in CHECKS.iter().enumerate() {
        let source = |path: &&str, text: &&str| Source { path: (*path).to_owned(), text: (*text).to_owned() };
        assert_eq!(check(&source(bad_path, bad)).len(), 1, "check {i} let {bad:?} pass in {bad_path}");
        assert_eq!(
            check(&source(good_path, good)),
            Vec::<String>::new(),
            "check {i} refused {good:?} in {good_path}"
        );
    }
    let long = |lines| Source { path: "src/x.rs".into(), text: "//! x\n".repeat(lines) };
    assert_eq!([length(&long(MAX_LINES)).len(), length(&long(MAX_LINES + 1)).len()], [0, 1]);
    let document = Source { path: "X.md".into(), text: "`src/here.rs`, `src/gone.rs`, `src/*.rs`".into() };
    assert_eq!(dead_paths(&document, |path| path == "src/here.rs"), ["X.md: `src/gone.rs` is not there"]);
}

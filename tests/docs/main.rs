//! Runs the commands of README.md and of the pages that it links, on the shipped fixtures, and compares what they print with what
//! the pages show. A page is run from top to bottom in a folder of its own, so that a command may use an earlier one's output.
//! Limits: a command that needs the network, a GPU, Python or another engine is not run (`rules::NOT_RUN` says why); if it is
//! llmc's, its arguments are parsed. Figures in text and tables are not checked.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod markdown;
mod rules;
mod shown;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use markdown::{Page, Shell};

/// The commands of all pages by what was done with them.
#[derive(Debug, Default)]
struct Counts {
    run: usize,
    compared: usize,
    parsed: usize,
    problems: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md, docs/, and the pages of folders that README.md links.
fn pages() -> Vec<Page> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    paths.sort();
    paths.extend(["README.md", "recipes/README.md", "tasks/README.md"].map(|name| root().join(name)));
    paths.iter().map(|path| Page::read(root(), path)).collect()
}

/// Runs a line in a shell whose `llmc` is this build, without network. Returns success, and stdout and stderr as they came.
fn shell(folder: &Path, line: &str) -> (bool, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_llmc")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let log = folder.join(".log");
    let file = File::create(&log).unwrap();
    let status = Command::new("sh")
        .args(["-c", line])
        .current_dir(folder)
        .env("PATH", path)
        .envs([("HF_HUB_OFFLINE", "1".as_ref()), ("HF_HOME", folder.join("hub").as_os_str())])
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .status();
    (status.unwrap().success(), String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned())
}

/// Runs a command of a page, or parses it, as the rules say.
fn check(page: &Page, command: &Shell, folder: &Path, counts: &mut Counts) {
    let line = rules::without_comment(&command.line)
        .replace("cargo run --release -- ", "llmc ")
        .replace("target/release/llmc ", "llmc ");
    let at = format!("{}:{}: {line}", page.name, command.number);
    let reason = rules::not_run(&line);
    if !line.starts_with("llmc ") {
        let unknown = || format!("{at}\nnot llmc's: tests/docs/rules.rs does not say why it is not run");
        return counts.problems.extend(reason.is_none().then(unknown));
    }
    if reason.is_some() {
        let (parses, said) = shell(folder, &format!("{line} --help"));
        counts.parsed += 1;
        return counts.problems.extend((!parses).then(|| format!("{at}\n{said}")));
    }
    let (done, said) = shell(folder, &rules::smaller(&line));
    counts.run += 1;
    counts.problems.extend((!done).then(|| format!("{at}\n{said}")));
    if let Some(lines) = &command.shown {
        counts.compared += 1;
        let same = shown::matches(lines, &said);
        counts.problems.extend(
            (!same).then(|| format!("{at}\nprints\n{said}\nand is shown with\n{}", lines.join("\n"))),
        );
    }
}

fn check_page(page: &Page) -> Counts {
    let folder = tempfile::tempdir().unwrap();
    rules::prepare(folder.path());
    let mut counts = Counts::default();
    for command in &page.commands {
        check(page, command, folder.path(), &mut counts);
    }
    for span in page.spans.iter().filter(|span| span.starts_with("llmc ") && !span.contains('…')) {
        let (parses, said) = shell(folder.path(), &format!("{span} --help"));
        counts.parsed += 1;
        counts.problems.extend((!parses).then(|| format!("{}: `{span}`\n{said}", page.name)));
    }
    counts
}

#[test]
fn commands_run_and_print_what_is_shown() {
    let pages = pages();
    let all: Vec<Counts> = std::thread::scope(|scope| {
        let threads: Vec<_> = pages.iter().map(|page| scope.spawn(|| check_page(page))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sum = |of: fn(&Counts) -> usize| all.iter().map(of).sum::<usize>();
    let (run, compared, parsed) = (sum(|c| c.run), sum(|c| c.compared), sum(|c| c.parsed));
    println!("{run} commands run, {compared} outputs compared, {parsed} commands parsed only");
    let problems: Vec<&str> = all.iter().flat_map(|c| &c.problems).map(String::as_str).collect();
    assert!(problems.is_empty(), "{} problems\n\n{}", problems.len(), problems.join("\n\n"));
    assert!(run >= 25 && compared >= 3 && parsed >= 5, "the commands were not found");
}

#[test]
fn every_rule_is_used() {
    let pages = pages();
    let lines: Vec<&str> = pages.iter().flat_map(|page| &page.commands).map(|c| c.line.as_str()).collect();
    let idle: Vec<_> =
        rules::NOT_RUN.iter().filter(|(part, _)| !lines.iter().any(|line| line.contains(part))).collect();
    assert!(idle.is_empty(), "no page has these commands any more: {idle:?}");
}

#[test]
fn commands_stand_in_blocks_that_are_run() {
    let strays: Vec<String> = pages().into_iter().flat_map(|page| page.strays).collect();
    assert!(strays.is_empty(), "put these into ```sh or ```console:\n{}", strays.join("\n"));
}

#[test]
fn links_lead_to_files_and_headings() {
    let (mut found, mut dead) = (0, Vec::new());
    for page in pages() {
        let folder = page.path.parent().unwrap();
        for link in page.links.iter().filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.path.clone() } else { folder.join(file) };
            let there = target.exists() && (heading.is_empty() || headings(&target).contains(heading));
            found += 1;
            dead.extend((!there).then(|| format!("{}: {link}", page.name)));
        }
    }
    assert!(dead.is_empty() && found > 5, "{found} links, of these lead nowhere: {dead:?}");
}

fn headings(path: &Path) -> BTreeSet<String> {
    Page::read(root(), path).headings
}

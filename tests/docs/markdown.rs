//! Reads from a Markdown page the commands of its code blocks, its links and its headings. Not a Markdown parser: it knows what
//! these pages use.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A command of a page.
#[derive(Debug)]
pub struct Shell {
    /// The number of its line.
    pub number: usize,
    /// The command, without the prompt.
    pub line: String,
    /// The output that a block with prompts shows below it.
    pub shown: Option<Vec<String>>,
}

/// A page, by what the tests look at.
#[derive(Debug, Default)]
pub struct Page {
    pub path: PathBuf,
    /// The path from the root of the repository.
    pub name: String,
    pub commands: Vec<Shell>,
    /// Code in backticks, outside of blocks.
    pub spans: Vec<String>,
    pub links: Vec<String>,
    /// Headings as fragments of an address.
    pub headings: BTreeSet<String>,
    /// Commands outside of `sh` and `console` blocks.
    pub strays: Vec<String>,
}

impl Page {
    pub fn read(root: &Path, path: &Path) -> Page {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{name}: {e}"));
        Page { path: path.to_owned(), name, ..Page::parse(&text) }
    }

    /// Parses a page's text: blocks between fences, and the prose around them.
    pub fn parse(text: &str) -> Page {
        let (mut page, mut block, mut prose) = (Page::default(), None, String::new());
        for (i, line) in text.lines().enumerate() {
            match (line.strip_prefix("```"), &block) {
                (Some(language), None) => block = Some(language.trim().to_owned()),
                (Some(_), Some(_)) => block = None,
                (None, Some(language)) => page.block_line(i + 1, language, line),
                (None, None) => page.prose_line(i + 1, line, &mut prose),
            }
        }
        assert!(block.is_none(), "a block is not closed");
        page.spans = prose.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect();
        page.links = links(&prose);
        page
    }

    fn block_line(&mut self, number: usize, language: &str, line: &str) {
        let command = |line: &str, shown| Shell { number, line: line.to_owned(), shown };
        match language {
            "sh" if !line.trim().is_empty() && !line.starts_with('#') => {
                self.commands.push(command(line, None))
            }
            "console" => match line.strip_prefix("$ ") {
                Some(line) => self.commands.push(command(line, Some(Vec::new()))),
                None => self.commands.last_mut().unwrap().shown.as_mut().unwrap().push(line.to_owned()),
            },
            "sh" => (),
            _ => self.stray(number, line),
        }
    }

    fn prose_line(&mut self, number: usize, line: &str, prose: &mut String) {
        if let Some(heading) =
            line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))
        {
            self.headings.insert(fragment(heading));
        }
        if line.starts_with("    ") {
            self.stray(number, line);
        }
        prose.push_str(line);
        prose.push('\n');
    }

    fn stray(&mut self, number: usize, line: &str) {
        let line = line.trim_start().trim_start_matches("$ ");
        if line.starts_with("llmc ") || line.starts_with("cargo ") {
            self.strays.push(format!("line {number}: {line}"));
        }
    }
}

/// The addresses of `[text](address)`.
fn links(prose: &str) -> Vec<String> {
    let ends = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    ends.map(|(address, _)| address.to_owned()).collect()
}

/// A heading as GitHub makes it a fragment: small letters, digits, hyphens for spaces.
fn fragment(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn a_page_is_taken_apart() {
    let text = "# A title, here\nSee [b](b.md#x) and `llmc plan\nx`.\n```sh\nllmc a # why\n\n```\n```console\n$ llmc b\nout\n…\n$ llmc c\n```\n\
                ```toml\nllmc d\n```\n    llmc e\n";
    let page = Page::parse(text);
    let commands: Vec<_> =
        page.commands.iter().map(|c| (c.number, c.line.as_str(), c.shown.as_ref().map(Vec::len))).collect();
    assert_eq!(commands, [(5, "llmc a # why", None), (9, "llmc b", Some(2)), (12, "llmc c", Some(0))]);
    assert_eq!(page.spans, ["llmc plan x"]);
    assert_eq!(page.links, ["b.md#x"]);
    assert_eq!(page.headings, BTreeSet::from(["a-title-here".to_owned()]));
    assert_eq!(page.strays, ["line 15: llmc d", "line 17: llmc e"]);
}

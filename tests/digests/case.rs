//! A case: command lines, run one after the other in a folder of their own, and the digests of what they leave.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::contents;
use crate::letters::LETTERS;
use crate::machine::Level;
use crate::place::Place;

/// The fixtures, as the command lines of a case name them.
const FIXTURES: &str = "fixtures";

/// Keys of JSON that are left out at any depth: the identity of a record, times, and prose.
const LEFT_OUT: &[&str] = &[
    "record",
    "llmc",
    "machine",
    "input",
    "recipe",
    "questions",
    "seconds",
    "prompt_seconds",
    "estimated_seconds",
    "tokens_per_second",
    "note",
];

/// Command lines and a name for what they make.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub level: Level,
    pub lines: Vec<String>,
}

impl Case {
    /// A case of one command line or several, divided by `;`.
    pub fn new(level: Level, name: String, lines: &str) -> Case {
        let lines = lines.split(';').map(|line| line.trim().to_owned()).collect();
        Case { name, level, lines }
    }

    /// Digests by name: of the files and the printed results, and apart from them of the model cards; or `refused`. An error
    /// where a command neither works nor refuses.
    pub fn digests(&self, place: &Place) -> Result<Vec<(String, String)>, String> {
        let folder = crate::place::folder();
        let here = folder.path();
        let inputs = [(FIXTURES, crate::common::fixture("")), (LETTERS, place.letters())];
        inputs.iter().for_each(|(name, folder)| symlink(folder, here.join(name)).unwrap());
        let mut printed = BTreeMap::new();
        for (number, line) in self.lines.iter().enumerate() {
            let output = self.run(&place.binary(), here, line);
            match output.status.code() {
                Some(0 | 3) => {}
                Some(1 | 2) => return Ok(vec![(self.name.clone(), "refused".to_owned())]),
                _ => {
                    return Err(format!(
                        "{}: {line}: {}",
                        self.name,
                        String::from_utf8_lossy(&output.stderr)
                    ));
                }
            }
            let counted = result(line, &output).map_err(|error| format!("{}: {line}: {error}", self.name))?;
            printed.insert(format!("stdout {number}"), counted);
        }
        inputs.iter().for_each(|(name, _)| std::fs::remove_file(here.join(name)).unwrap());
        Ok(self.split(contents(here), printed))
    }

    fn run(&self, binary: &Path, here: &Path, line: &str) -> Output {
        let mut command = Command::new(binary);
        command.current_dir(here).args(line.split_whitespace()).env_remove("LLMC_SIMD");
        for (variable, folder) in [("HOME", "home"), ("XDG_CACHE_HOME", "home/cache"), ("HF_HOME", "home/hf")]
        {
            command.env(variable, here.join(folder));
        }
        command.envs(self.level.limit().map(|limit| ("LLMC_SIMD", limit)));
        command.output().unwrap()
    }

    fn split(
        &self,
        files: BTreeMap<String, Vec<u8>>,
        printed: BTreeMap<String, Vec<u8>>,
    ) -> Vec<(String, String)> {
        let is_card = |name: &String| PathBuf::from(name).file_name().is_some_and(|name| name == "README.md");
        let (cards, mut rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            files.into_iter().partition(|(name, _)| is_card(name));
        rest.extend(printed.into_iter().filter(|(_, bytes)| !bytes.is_empty()));
        let mut digests = Vec::new();
        if !rest.is_empty() {
            digests.push((self.name.clone(), digest(&rest)));
        }
        if !cards.is_empty() {
            digests.push((format!("{}#card", self.name), digest(&cards)));
        }
        digests
    }
}

/// The digest of named contents.
fn digest(named: &BTreeMap<String, Vec<u8>>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, bytes) in named {
        for part in [name.as_bytes(), bytes] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// The part of stdout that counts: JSON without times and prose, generated text; nothing of tables for people.
fn result(line: &str, output: &Output) -> Result<Vec<u8>, String> {
    if line.contains("--json") {
        let values: Result<Vec<Value>, _> =
            serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect();
        let values = values.map_err(|error| error.to_string())?.into_iter().map(figures).collect();
        return Ok(format!("{:?} {}", output.status.code(), Value::Array(values)).into_bytes());
    }
    Ok(if line.starts_with("generate") { output.stdout.clone() } else { Vec::new() })
}

/// Without the keys that are left out, the others in the order of the alphabet.
pub fn figures(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, _)| !LEFT_OUT.contains(&key.as_str()));
            let sorted: BTreeMap<String, Value> = kept.map(|(key, value)| (key, figures(value))).collect();
            Value::Object(sorted.into_iter().collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(figures).collect()),
        other => other,
    }
}

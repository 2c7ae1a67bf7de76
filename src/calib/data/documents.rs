//! Documents: what the files of a source hold, and their token ids.
//!
//! A file of text is one document. A row of a table is one, by the first of these that it has:
//!
//! - `messages` or `conversations`: a list of `role` and `content`, or, as ShareGPT has them, of `from` and `value`;
//! - `text` or `content`: text;
//! - `prompt`, `instruction` or `question`, with `response`, `completion`, `output` or `answer`: text, one after the other;
//!   an `input` stands between them.
//!
//! Documents without text are left out, and so are rows that have null instead of one. Of a source much larger than what is
//! asked for, parts that are spread over the whole are read, so that tokenizing does not take longer than calibrating.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use super::spread::spread;
use crate::corpus::rows::Row;
use crate::corpus::{Content, TextSource, warn_of_null_rows};
use crate::engine::{ChatTemplate, Message, Tokenizer};
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::numerics::random::SplitMix64;

/// Approximate bytes of the parts that texts of a large source are cut into.
const PART: usize = 1 << 14;
const CONVERSATIONS: [&str; 2] = ["messages", "conversations"];
const TEXTS: [&str; 2] = ["text", "content"];
const PROMPTS: [&str; 3] = ["prompt", "instruction", "question"];
const RESPONSES: [&str; 4] = ["response", "completion", "output", "answer"];

/// A piece of calibration data, before it becomes tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// Plain text.
    Text(String),
    /// A conversation, and the row that it is from.
    Chat(usize, Vec<Message>),
}

impl Document {
    fn bytes(&self) -> usize {
        match self {
            Document::Text(text) => text.len(),
            Document::Chat(_, messages) => messages.iter().map(|message| message.content.len()).sum(),
        }
    }

    /// Cuts a long text at ends of lines, where it has any.
    fn parts(self) -> Vec<Document> {
        let Document::Text(text) = &self else { return vec![self] };
        let (mut rest, mut parts) = (text.as_str(), Vec::new());
        while rest.len() > 2 * PART {
            let part = first(rest, PART);
            let end = part.rfind('\n').map_or(part.len(), |at| at + 1);
            parts.push(Document::Text(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        parts.push(Document::Text(rest.to_owned()));
        parts
    }
}

/// The documents of a source, at least one.
///
/// # Errors
/// Files that cannot be read, rows of no form that is known, no text at all.
pub(crate) fn read(name: &str, source: &TextSource) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    source.read(|file, content| {
        match content {
            Content::Text(text) => documents.push(Document::Text(text)),
            Content::Rows(table) => {
                let before = documents.len();
                for (number, row) in table.rows.iter().enumerate() {
                    documents.extend(document(file, number, row)?);
                }
                warn_of_null_rows(file, before + table.rows.len() - documents.len());
            }
        }
        Ok(())
    })?;
    documents.retain(|document| match document {
        Document::Text(text) => !text.trim().is_empty(),
        Document::Chat(_, messages) => messages.iter().any(|message| !message.content.trim().is_empty()),
    });
    match documents.is_empty() {
        true => Err(Error::malformed(name, "text to calibrate on", "none", "name a file with some text")),
        false => Ok(documents),
    }
}

/// Leaves documents (parts of long ones) out, evenly, where there are more bytes than that.
pub(crate) fn thin(documents: Vec<Document>, bytes: usize, random: &mut SplitMix64) -> Vec<Document> {
    let all: usize = documents.iter().map(Document::bytes).sum();
    if all <= bytes {
        return documents;
    }
    let parts: Vec<Document> = documents.into_iter().flat_map(Document::parts).collect();
    let keep = (parts.len() as u128 * bytes as u128).div_ceil(all as u128) as usize;
    let mut kept = spread(keep, parts.len(), random).into_iter().peekable();
    let chosen = parts.into_iter().enumerate().filter(|(index, _)| kept.next_if_eq(index).is_some());
    chosen.map(|(_, document)| document).collect()
}

/// The document of a row; `None` where it has null instead of a text.
fn document(file: &Path, number: usize, row: &Row) -> Result<Option<Document>> {
    let wrong = |expected: &str, found: String| {
        let hint = "the forms of rows that llmc reads are in docs/calibration.md";
        Error::malformed_tensor(file, format!("row {number}"), expected, found, hint)
    };
    let given = |name: &&str| row.get(*name).filter(|value| !value.is_null());
    if let Some(turns) = CONVERSATIONS.iter().find_map(given) {
        let messages = turns.as_array().and_then(|turns| turns.iter().map(message).collect());
        let expected = "a list of messages with role and content";
        return Ok(Some(Document::Chat(number, messages.ok_or_else(|| wrong(expected, shown(turns)))?)));
    }
    let text = |names: &[&str]| names.iter().find_map(|name| row.get(*name)?.as_str());
    let pair = || Some([text(&PROMPTS)?, text(&["input"]).unwrap_or_default(), text(&RESPONSES)?]);
    let whole = text(&TEXTS).map(str::to_owned);
    let joined = || pair().map(|parts| parts.map(str::trim).join("\n").replace("\n\n", "\n"));
    let expected = "text, messages, or a prompt and a response";
    let columns = || row.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    match whole.or_else(joined) {
        Some(text) => Ok(Some(Document::Text(text))),
        None if has_null(row) => Ok(None),
        None => Err(wrong(expected, columns())),
    }
}

/// Returns true if a column that could have made a document holds null.
fn has_null(row: &Row) -> bool {
    let mut known = CONVERSATIONS.iter().chain(&TEXTS).chain(&PROMPTS).chain(&RESPONSES);
    known.any(|name| row.get(*name) == Some(&Value::Null))
}

/// One turn; `None` where it is none.
fn message(turn: &Value) -> Option<Message> {
    let role = turn.get("role").or(turn.get("from"))?.as_str()?;
    let role = match role {
        "human" => "user",
        "gpt" => "assistant",
        other => other,
    };
    Some(Message::new(role, content(turn.get("content").or(turn.get("value"))?)?))
}

/// Text, or the text of several parts; a turn that only calls tools has none.
fn content(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(|part| part.get("text")?.as_str()).collect(),
        _ => None,
    }
}

/// The first bytes of a text, a little fewer where that would cut a character.
fn first(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A value in an error, cut where it is long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    let start = first(&text, 80);
    if start.len() < text.len() { format!("{start}…") } else { text }
}

/// Makes token ids of documents.
pub(crate) struct Encoder<'a> {
    checkpoint: &'a Checkpoint,
    pub tokenizer: &'a Tokenizer,
    /// Opened where there is a conversation: base models have none.
    template: OnceLock<ChatTemplate>,
}

impl<'a> Encoder<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, tokenizer: &'a Tokenizer) -> Encoder<'a> {
        Encoder { checkpoint, tokenizer, template: OnceLock::new() }
    }

    /// The token ids of the first `bytes` of a document, about. `alone`: with what the tokenizer puts around a text; else a
    /// text ends with an empty line, and BOS is left to who packs. Conversations spell all that out themselves: only their
    /// template makes special tokens.
    pub(crate) fn encode(&self, document: &Document, alone: bool, bytes: usize) -> Result<Vec<u32>> {
        match document {
            Document::Text(text) if alone => self.tokenizer.encode_plain(first(text, bytes), true),
            Document::Text(text) => self.tokenizer.encode_plain(&format!("{}\n\n", text.trim_end()), false),
            Document::Chat(row, messages) => {
                let text = self.template()?.render(messages, false).map_err(|error| in_row(*row, error))?;
                self.tokenizer.encode(first(&text, bytes), false)
            }
        }
    }

    fn template(&self) -> Result<&ChatTemplate> {
        if let Some(template) = self.template.get() {
            return Ok(template);
        }
        let opened = ChatTemplate::open(self.checkpoint).map_err(|error| match error {
            Error::Unsupported { what, .. } => {
                let hint = "put its chat_template.jinja beside the weights, or name rows with a text";
                Error::unsupported(format!("{what}, and the calibration data are conversations"), hint)
            }
            other => other,
        })?;
        Ok(self.template.get_or_init(|| opened))
    }
}

fn in_row(row: usize, error: Error) -> Error {
    match error {
        Error::Unsupported { what, .. } => {
            let hint = "leave such conversations out of the data, or give their text under `text`";
            Error::unsupported(format!("row {row}: {what}"), hint)
        }
        other => other,
    }
}

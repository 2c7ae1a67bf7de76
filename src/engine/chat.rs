//! Chat templates: a conversation → the text that a chat model was trained on.
//!
//! A template is a Jinja program that comes with the model. It is rendered as transformers does (its environment is
//! `_compile_jinja_template` of
//! <https://github.com/huggingface/transformers/blob/main/src/transformers/utils/chat_template_utils.py>), in an
//! environment that reaches no file and ends after [`FUEL`] steps: templates are other people's code. Not supported:
//! tools, documents, messages of several parts.

mod json;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::path::PathBuf;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;

use super::Tokenizer;
use super::companions::{self, Companions, SPECIAL_TOKENS};
use crate::error::{Error, Result};
use crate::io::Checkpoint;

/// Instructions that a template may take; a message takes some hundreds.
const FUEL: u64 = 5_000_000;
/// How well-known templates end a turn. Some base models name only the end of a text as their EOS.
const TURN_ENDS: &[&str] =
    &["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>"];

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; the template says what it takes.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn of that role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// The chat template of one checkpoint.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// What it was read from, for errors.
    file: PathBuf,
    /// By name, those that the model has.
    special_tokens: BTreeMap<&'static str, String>,
}

impl ChatTemplate {
    /// The model's own template: chat_template.jinja, or `chat_template` of tokenizer_config.json (which a GGUF's
    /// metadata are rebuilt as), or of chat_template.json.
    ///
    /// # Errors
    /// There is none (a base model has none), or it is no Jinja.
    pub fn open(checkpoint: &Checkpoint) -> Result<ChatTemplate> {
        let companions = Companions::read(checkpoint)?;
        let Some((file, template)) = find(checkpoint, &companions)? else {
            let what = format!("{}: this model has no chat template", checkpoint.path.display());
            let hint = "a base model continues text: leave --chat out; or put its chat_template.jinja beside the weights";
            return Err(Error::unsupported(what, hint));
        };
        let text = |name: &&'static str| Some((*name, companions.special_token(name)?.to_owned()));
        ChatTemplate::parse(file, &template, SPECIAL_TOKENS.iter().filter_map(text).collect())
    }

    fn parse(
        file: PathBuf,
        template: &str,
        special_tokens: BTreeMap<&'static str, String>,
    ) -> Result<ChatTemplate> {
        let mut environment = environment();
        let source = without_generation_tags(template).into_owned();
        environment.add_template_owned("chat", source.clone()).map_err(|e| {
            Error::malformed(
                &file,
                "a Jinja template",
                e,
                "take the model's chat template again from its source",
            )
        })?;
        Ok(ChatTemplate { environment, source, file, special_tokens })
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the assistant's answer begins. The text
    /// spells special tokens out, BOS among them: encode it without adding any.
    ///
    /// # Errors
    /// The template refuses the conversation (some take no system message, or want roles to alternate).
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let context = context! {
            messages => Serde(messages), add_generation_prompt, tools => (), documents => (),
            ..Value::from_pairs(self.special_tokens.iter().map(|(name, text)| (*name, text.as_str())))
        };
        let template = self.environment.get_template("chat").map_err(|e| self.refused(e))?;
        template.render(context).map_err(|e| self.refused(e))
    }

    /// Tokens that end a turn: those that the template writes, and that the tokenizer has as one token.
    pub fn ends(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let written = |end: &&&str| self.source.contains(**end);
        TURN_ENDS.iter().filter(written).filter_map(|end| tokenizer.id(end)).collect()
    }

    fn refused(&self, error: minijinja::Error) -> Error {
        let reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
        let what =
            format!("{}: the chat template does not take this conversation: {reason}", self.file.display());
        Error::unsupported(what, "leave out --system where the model knows none, or leave --chat out")
    }
}

/// The template, and the file it is from.
fn find(checkpoint: &Checkpoint, companions: &Companions) -> Result<Option<(PathBuf, String)>> {
    let files = checkpoint.side_files()?;
    if let Some((file, bytes)) = companions::content(&files, "chat_template.jinja")? {
        let hint = "save chat_template.jinja as UTF-8";
        let text = String::from_utf8(bytes.into_owned())
            .map_err(|e| Error::malformed(&file, "UTF-8 text", e, hint))?;
        return Ok(Some((file, text)));
    }
    let older = companions::json(&files, "chat_template.json")?;
    let found = [("tokenizer_config.json", &companions.tokenizer), ("chat_template.json", &older)];
    let named = found.into_iter().find_map(|(name, json)| Some((name, default(json.get("chat_template")?)?)));
    Ok(named.map(|(name, text)| {
        let file = files.iter().find(|file| file.name == name).map(|file| file.path.clone());
        (file.unwrap_or_else(|| checkpoint.path.clone()), text)
    }))
}

/// The template itself; of a list of named ones, the one named `default`.
fn default(template: &serde_json::Value) -> Option<String> {
    let named = |entry: &&serde_json::Value| entry.get("name").is_some_and(|name| name == "default");
    let text = match template.as_array() {
        Some(list) => list.iter().find(named)?.get("template")?,
        None => template,
    };
    text.as_str().map(str::to_owned)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The local time by a `strftime` pattern: Llama 3's templates tell the model the date.
fn strftime_now(pattern: &str) -> Result<String, minijinja::Error> {
    formatted(chrono::Local::now().format(pattern)).ok_or_else(|| {
        let what = format!("strftime_now: {pattern:?} is no pattern of dates");
        minijinja::Error::new(ErrorKind::InvalidOperation, what)
    })
}

/// `to_string`, but for values whose formatting may fail.
fn formatted(value: impl Display) -> Option<String> {
    let mut text = String::new();
    write!(text, "{value}").is_ok().then_some(text)
}

/// `{% generation %}` marks what an assistant said, for training; it prints its body. Jinja does not know the tag, so it
/// becomes an `if` that always holds, with the same control of white space.
fn without_generation_tags(template: &str) -> Cow<'_, str> {
    if !template.contains("generation") {
        return template.into();
    }
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, tag)) = rest.split_once("{%") {
        let Some((inside, after)) = tag.split_once("%}") else { break };
        let word = inside.trim_matches(['-', '+']).trim();
        let inside = match word {
            "generation" => inside.replace(word, "if true"),
            "endgeneration" => inside.replace(word, "endif"),
            _ => inside.to_owned(),
        };
        text.extend([before, "{%", &inside, "%}"]);
        rest = after;
    }
    (text + rest).into()
}

#[cfg(test)]
mod tests;

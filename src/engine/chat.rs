//! Chat templates: turn a conversation into the text format that a chat model was trained on.
//!
//! A template is a Jinja program that comes with the model, so it is untrusted code: [`crate::jinja`] runs it within bounds. The
//! environment is that of transformers (`_compile_jinja_template` in
//! <https://github.com/huggingface/transformers/blob/main/src/transformers/utils/chat_template_utils.py>). Not supported:
//! tools, documents, messages of several parts.

mod json;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::path::PathBuf;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{ErrorKind, Value, context};
use serde::Serialize;

use super::tokenizer::Tokenizer;
use super::tokenizer_configs::{TokenizerConfigs, side_file, side_json};
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::io::tokenizer::{SPECIAL_TOKENS, default_template};
use crate::jinja::{Failure, Limit, Sandbox};

/// The turn ends of well-known templates. The EOS of some base models is only the end of a text.
const TURN_ENDS: &[&str] =
    &["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>"];

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; the template may accept only some of them.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// Creates a turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// The chat template of one checkpoint.
#[derive(Debug)]
pub struct ChatTemplate {
    sandbox: Sandbox,
    source: String,
    /// The template's file, for errors.
    file: PathBuf,
    special_tokens: BTreeMap<&'static str, String>,
}

impl ChatTemplate {
    /// Reads the model's own template: chat_template.jinja, or `chat_template` in tokenizer_config.json (a GGUF's
    /// template appears there) or in chat_template.json.
    ///
    /// # Errors
    /// A model without a template (a base model), a template that is not valid Jinja.
    pub fn open(checkpoint: &Checkpoint) -> Result<ChatTemplate> {
        let configs = TokenizerConfigs::read(checkpoint)?;
        let Some((file, template)) = find(checkpoint, &configs)? else {
            let what = format!("{}: this model has no chat template", checkpoint.path.display());
            let hint = "for a base model, leave --chat out; or put a chat_template.jinja beside the weights";
            return Err(Error::unsupported(what, hint));
        };
        let mut special_tokens = BTreeMap::new();
        for name in SPECIAL_TOKENS {
            if let Some(text) = configs.special_token(name) {
                special_tokens.insert(*name, text.to_owned());
            }
        }
        ChatTemplate::parse(file, &template, special_tokens)
    }

    /// Compiles a template. `file` is its name in errors; `special_tokens` are texts by name (`bos_token`).
    ///
    /// # Errors
    /// A template that is not valid Jinja.
    pub fn parse(
        file: PathBuf,
        template: &str,
        special_tokens: BTreeMap<&'static str, String>,
    ) -> Result<ChatTemplate> {
        let sandbox = sandbox();
        let source = without_generation_tags(template).into_owned();
        sandbox.check(&source).map_err(|e| {
            Error::malformed(
                &file,
                "a Jinja template",
                e,
                "get the chat template again from the model's source",
            )
        })?;
        Ok(ChatTemplate { sandbox, source, file, special_tokens })
    }

    /// Renders a conversation as text. With `add_generation_prompt` the text ends where the assistant's answer begins.
    /// The text contains all special tokens, including BOS: encode it without adding any.
    ///
    /// # Errors
    /// A conversation that the template refuses: some accept no system message, or only alternating roles. A template that goes
    /// past a limit.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let context = context! {
            messages => Serde(messages), add_generation_prompt, tools => (), documents => (),
            ..Value::from_pairs(self.special_tokens.iter().map(|(name, text)| (*name, text.as_str())))
        };
        self.sandbox.render(&self.source, context).map_err(|failure| self.failed(failure))
    }

    /// The tokens that end a turn: they occur in the template, and the tokenizer has an id for them.
    pub fn ends(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let ends = TURN_ENDS.iter().filter(|end| self.source.contains(**end));
        ends.filter_map(|end| tokenizer.id(end)).collect()
    }

    fn failed(&self, failure: Failure) -> Error {
        let file = self.file.display();
        let error = match failure {
            Failure::Limit(limit) => {
                let what = format!("{file}: the chat template cannot be rendered: {limit}");
                let hint = "get the chat template again from the model's source, or leave --chat out";
                return Error::unsupported(what, hint);
            }
            Failure::Template(error) => error,
        };
        let reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
        let what = format!("{file}: the chat template refuses this conversation: {reason}");
        Error::unsupported(what, "leave out --system if the model does not support it, or leave --chat out")
    }
}

fn find(checkpoint: &Checkpoint, configs: &TokenizerConfigs) -> Result<Option<(PathBuf, String)>> {
    let files = checkpoint.side_files()?;
    if let Some((file, bytes)) = side_file(&files, "chat_template.jinja")? {
        let hint = "save chat_template.jinja as UTF-8";
        let text = String::from_utf8(bytes.into_owned())
            .map_err(|e| Error::malformed(&file, "UTF-8 text", e, hint))?;
        return Ok(Some((file, text)));
    }
    let older = side_json(&files, "chat_template.json")?;
    let found = [("tokenizer_config.json", &configs.tokenizer), ("chat_template.json", &older)];
    let named = found
        .into_iter()
        .find_map(|(name, json)| Some((name, default_template(json.get("chat_template")?)?)));
    Ok(named.map(|(name, text)| {
        let file = files.iter().find(|file| file.name == name).map(|file| file.path.clone());
        (file.unwrap_or_else(|| checkpoint.path.clone()), text)
    }))
}

fn sandbox() -> Sandbox {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let mut sandbox = Sandbox::new(syntax.expect("the delimiters are the usual ones"));
    sandbox.environment.add_filter("tojson", json::tojson);
    sandbox.environment.add_function("raise_exception", raise_exception);
    sandbox.environment.add_function("strftime_now", strftime_now);
    sandbox
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// Formats the local time by a `strftime` pattern: Llama 3's templates tell the model the date.
fn strftime_now(pattern: &str) -> Result<String, minijinja::Error> {
    if pattern.len() > Limit::WIDTH {
        return Err(Limit::Width.into());
    }
    formatted(chrono::Local::now().format(pattern)).ok_or_else(|| {
        let what = format!("strftime_now: {pattern:?} is not a date pattern");
        minijinja::Error::new(ErrorKind::InvalidOperation, what)
    })
}

/// `to_string` for values whose formatting may fail.
fn formatted(value: impl Display) -> Option<String> {
    let mut text = String::new();
    write!(text, "{value}").is_ok().then_some(text)
}

/// Replaces `{% generation %}`, which marks an assistant's text for training, by `{% if true %}` with the same white-space
/// control: minijinja does not have the tag.
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

//! tokenizer.json and its companions → GGUF metadata.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Value as Json;

use super::sentencepiece::{SPACES, from_base64};
use super::table::{Table, table};
use super::vocabulary::{Vocabulary, token_type};
use super::{complete, declared, pre, rebuild, table};
use crate::error::{Error, Result};
use crate::io::gguf::{Array, Metadata, Value};
use crate::io::side_files::additional_template;
use crate::io::{Checkpoint, SideFile};

/// The files that a tokenizer is in, parsed.
#[derive(Debug)]
pub(crate) struct Files {
    tokenizer: Json,
    /// tokenizer_config.json over special_tokens_map.json over the special tokens that the tokenizer's own file names.
    /// Null where there is none.
    settings: Vec<Json>,
    /// SentencePiece's table, where the tokenizer was built from it.
    pieces: Option<Vocabulary>,
    chat_template: Option<String>,
    /// Further templates, by name.
    named_templates: Vec<(String, String)>,
}

impl Files {
    /// Reads a checkpoint's files; `None` where it has none that llmc reads.
    ///
    /// # Errors
    /// [`Error::Io`] and, where a file is not JSON, [`Error::Malformed`].
    pub(crate) fn read(checkpoint: &Checkpoint) -> Result<Option<Files>> {
        let json = |name: &str| Ok::<_, Error>(json_file(checkpoint, name)?.unwrap_or(Json::Null));
        let mut settings = vec![json("tokenizer_config.json")?, json("special_tokens_map.json")?];
        let found = json_file(checkpoint, "tokenizer.json")?.map(|tokenizer| (tokenizer, None));
        let Some((mut tokenizer, pieces)) =
            found.map_or_else(|| built(checkpoint, &mut settings), |f| Ok(Some(f)))?
        else {
            return Ok(None);
        };
        let config = &settings[0];
        complete(&mut tokenizer, declared(config, &json("added_tokens.json")?));
        let older = json("chat_template.json")?;
        let text = |bytes: Cow<[u8]>| String::from_utf8(bytes.into_owned()).ok();
        let template = side_file(checkpoint, "chat_template.jinja")?.and_then(text);
        let chat_template = template
            .or_else(|| default_template(&config["chat_template"]))
            .or_else(|| default_template(&older["chat_template"]));
        let mut named_templates = named(&config["chat_template"]);
        for file in &checkpoint.side_files {
            if let Some(name) = additional_template(&file.name).filter(|_| checkpoint.may_copy(file)) {
                named_templates.extend(text(file.content()?).map(|text| (name.to_owned(), text)));
            }
        }
        Ok(Some(Files { tokenizer, settings, pieces, chat_template, named_templates }))
    }

    fn setting(&self, key: &str) -> Option<&Json> {
        self.settings.iter().find_map(|file| file.get(key)).filter(|value| !value.is_null())
    }

    /// The text of a special token: given as a string, or as an added token's description.
    fn special(&self, key: &str) -> Option<&str> {
        let value = self.setting(key)?;
        value.as_str().or_else(|| value["content"].as_str())
    }
}

/// A tokenizer built from other files, with SentencePiece's table; the special tokens that they name join the settings.
fn built(checkpoint: &Checkpoint, settings: &mut Vec<Json>) -> Result<Option<(Json, Option<Vocabulary>)>> {
    let config = checkpoint.config.as_ref().unwrap_or(&Json::Null);
    let may_copy = |file: &&SideFile| checkpoint.may_copy(file);
    let files: Vec<SideFile> = checkpoint.side_files.iter().filter(may_copy).cloned().collect();
    let Some(rebuilt) = rebuild(&files, [&settings[0], &settings[1]], config)? else {
        return Ok(None);
    };
    settings.push(rebuilt.special_tokens);
    Ok(Some((rebuilt.tokenizer, rebuilt.pieces)))
}

fn side_file<'a>(checkpoint: &'a Checkpoint, name: &str) -> Result<Option<Cow<'a, [u8]>>> {
    let file = checkpoint.side_files.iter().find(|file| file.name == name && checkpoint.may_copy(file));
    file.map(SideFile::content).transpose()
}

fn json_file(checkpoint: &Checkpoint, name: &str) -> Result<Option<Json>> {
    let Some(bytes) = side_file(checkpoint, name)? else { return Ok(None) };
    let hint = "the file is damaged: download it again";
    let parsed = crate::json::parse(&bytes);
    parsed.map(Some).map_err(|e| Error::malformed(checkpoint.path.join(name), "JSON", e, hint))
}

/// A template, or the one named `default` of several.
pub(crate) fn default_template(value: &Json) -> Option<String> {
    let named = |list: &Vec<Json>| {
        let default = list.iter().find(|entry| entry["name"] == "default")?;
        default["template"].as_str().map(str::to_owned)
    };
    value.as_str().map(str::to_owned).or_else(|| value.as_array().and_then(named))
}

/// The templates of a list that have another name than `default`.
fn named(value: &Json) -> Vec<(String, String)> {
    let entry =
        |entry: &Json| Some((entry["name"].as_str()?.to_owned(), entry["template"].as_str()?.to_owned()));
    let entries = value.as_array().into_iter().flatten().filter_map(entry);
    entries.filter(|(name, _)| name != "default").collect()
}

/// Puts named templates where llama.cpp's tools look for them: `add_chat_template`,
/// <https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/gguf_writer.py>.
fn put_named_templates(templates: &[(String, String)], metadata: &mut Metadata) {
    if templates.is_empty() {
        return;
    }
    let plain = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let names = templates.iter().map(|(name, _)| plain(name)).collect();
    metadata.insert("tokenizer.chat_templates".into(), Value::Array(Array::Strings(names)));
    for (name, template) in templates {
        metadata.insert(format!("tokenizer.chat_template.{}", plain(name)), Value::String(template.clone()));
    }
}

/// The metadata of a tokenizer for an embedding of `rows` rows; `config` is config.json, for the ids that the tokenizer's
/// own files leave out.
///
/// # Errors
/// [`Error::Unsupported`] for tokenizers that llama.cpp has no form for, or whose pre-tokenizer it does not know;
/// [`Error::Malformed`] for far more rows than tokens.
pub(crate) fn to_gguf(files: &Files, config: &Json, rows: usize) -> Result<Metadata> {
    let mut table = table(&files.tokenizer, rows)?;
    if let Some(pieces) = &files.pieces {
        table.mark_unused(&pieces.types);
    }
    let mut metadata = Metadata::new();
    let mut put = |key: &str, value: Value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
    let kind = kind(&files.tokenizer)?;
    put("model", Value::String(kind.name().to_owned()));
    put("pre", Value::String(pre_name(kind, &files.tokenizer)?.to_owned()));
    if let Some(scores) = scores(kind, files, &table) {
        put("scores", Value::Array(Array::F32(scores)));
    }
    if kind == Kind::ByteLevel {
        put("merges", Value::Array(Array::Strings(table::merges(&files.tokenizer))));
    } else {
        put("add_space_prefix", Value::Bool(prepends_space(&files.tokenizer)));
    }
    if kind == Kind::Unigram && removes_spaces(&files.tokenizer) {
        put("remove_extra_whitespaces", Value::Bool(true));
    }
    if let Some(map) = charsmap(&files.tokenizer) {
        put("precompiled_charsmap", Value::Array(Array::U8(map)));
    }
    put_special(files, config, &table, &mut put);
    put("tokens", Value::Array(Array::Strings(table.tokens)));
    put("token_type", Value::Array(Array::I32(table.types)));
    if let Some(template) = &files.chat_template {
        metadata.insert("tokenizer.chat_template".into(), Value::String(template.clone()));
    }
    put_named_templates(&files.named_templates, &mut metadata);
    Ok(metadata)
}

/// The name that llama.cpp gives a tokenizer's model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ByteLevel,
    SentencePiece,
    Unigram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::ByteLevel => "gpt2",
            Kind::SentencePiece => "llama",
            Kind::Unigram => "t5",
        }
    }
}

fn kind(tokenizer: &Json) -> Result<Kind> {
    let mentions = |part: &str, text: &str| tokenizer[part].to_string().contains(text);
    let byte_level = mentions("pre_tokenizer", "\"ByteLevel\"") || mentions("decoder", "\"ByteLevel\"");
    let spaces = ["normalizer", "pre_tokenizer", "decoder"].iter().any(|part| mentions(part, "▁"));
    match tokenizer["model"]["type"].as_str() {
        Some("BPE") if byte_level => Ok(Kind::ByteLevel),
        Some("BPE") if spaces => Ok(Kind::SentencePiece),
        Some("Unigram") => Ok(Kind::Unigram),
        other => Err(Error::unsupported(
            format!(
                "tokenizer.json: llama.cpp has no form for this {} tokenizer",
                other.unwrap_or("unnamed")
            ),
            "export to another format; GGUF takes byte-level BPE, SentencePiece BPE and unigram tokenizers",
        )),
    }
}

fn pre_name(kind: Kind, tokenizer: &Json) -> Result<&'static str> {
    if kind != Kind::ByteLevel {
        return Ok("default");
    }
    pre::recognize(tokenizer).map(|pre| pre.names[0]).map_err(|found| {
        Error::unsupported(
            format!("tokenizer.json: no pre-tokenizer of llama.cpp splits text by {found}"),
            "export to another format: the engine would split text differently from the model's tokenizer",
        )
    })
}

/// Scores by which llama.cpp merges as the list of merges does: a token's is minus the rank of its first merge. Tokens
/// that no merge makes score below all others. SentencePiece's own scores are taken as they are.
fn scores(kind: Kind, files: &Files, table: &Table) -> Option<Vec<f32>> {
    match (kind, &files.pieces) {
        (Kind::ByteLevel, _) => None,
        (Kind::Unigram, _) => Some(table.scores.clone()),
        (Kind::SentencePiece, Some(pieces)) => Some(table.with_scores(&pieces.scores)),
        (Kind::SentencePiece, None) => {
            let mut ranks: HashMap<String, usize> = HashMap::new();
            let merges = table::merges(&files.tokenizer);
            for (rank, merge) in merges.iter().enumerate() {
                ranks.entry(merge.replacen(' ', "", 1)).or_insert(rank);
            }
            let rank = |token: &String| ranks.get(token).copied().unwrap_or(merges.len());
            Some(table.tokens.iter().map(|token| -(rank(token) as f32)).collect())
        }
    }
}

fn prepends_space(tokenizer: &Json) -> bool {
    let normalizer = tokenizer["normalizer"].to_string();
    let pre = tokenizer["pre_tokenizer"].to_string();
    let metaspace = pre.contains("\"Metaspace\"")
        && !pre.contains("\"prepend_scheme\":\"never\"")
        && !pre.contains("\"add_prefix_space\":false");
    normalizer.contains("\"Prepend\"") || metaspace
}

/// Returns true if runs of spaces count as one.
fn removes_spaces(tokenizer: &Json) -> bool {
    normalizers(tokenizer).iter().any(|step| step["pattern"]["Regex"] == SPACES)
}

/// The steps of normalization.
fn normalizers(tokenizer: &Json) -> &[Json] {
    let normalizer = &tokenizer["normalizer"];
    normalizer["normalizers"].as_array().map_or(std::slice::from_ref(normalizer), Vec::as_slice)
}

/// SentencePiece's compiled normalization, where the normalizer has one.
fn charsmap(tokenizer: &Json) -> Option<Vec<u8>> {
    from_base64(normalizers(tokenizer).iter().find_map(|part| part["precompiled_charsmap"].as_str())?)
}

fn put_special(
    files: &Files,
    config: &Json,
    table: &Table,
    put: &mut impl FnMut(&str, Value) -> Option<Value>,
) {
    for (key, gguf) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let by_text = files.special(&format!("{key}_token")).and_then(|text| table.id(text));
        let id = by_text.or_else(|| config_id(config, &format!("{key}_token_id"), table));
        if let Some(id) = id {
            put(&format!("{gguf}_token_id"), Value::U32(id as u32));
        }
    }
    for (key, position) in [("add_bos_token", Position::First), ("add_eos_token", Position::Last)] {
        let given = files.setting(key).and_then(Json::as_bool);
        let adds = given.unwrap_or_else(|| adds_special(&files.tokenizer["post_processor"], position));
        put(key, Value::Bool(adds));
    }
}

/// An id of config.json: a number, or the first of several.
fn config_id(config: &Json, key: &str, table: &Table) -> Option<usize> {
    let value = config.get(key)?;
    let id = value.as_u64().or_else(|| value.get(0)?.as_u64())?;
    usize::try_from(id).ok().filter(|id| table.types.get(*id).is_some_and(|kind| *kind != token_type::UNUSED))
}

#[derive(Clone, Copy)]
enum Position {
    First,
    Last,
}

/// Returns true if a post-processor puts a special token before or after a text.
fn adds_special(processor: &Json, position: Position) -> bool {
    let parts = processor["processors"].as_array().map_or(std::slice::from_ref(processor), Vec::as_slice);
    let ends = parts.iter().filter_map(|part| part["single"].as_array()).map(|single| match position {
        Position::First => single.first(),
        Position::Last => single.last(),
    });
    ends.flatten().any(|end| end.get("SpecialToken").is_some())
}

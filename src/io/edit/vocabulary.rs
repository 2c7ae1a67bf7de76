//! A smaller vocabulary: the tokens that must stay, and the files that number them anew.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::io::{Checkpoint, SideFile};
use crate::json;
use crate::recipe::Kept;

const TOKENIZER: &str = "tokenizer.json";
/// Files whose ids have other names for the same tokens: tokenizer.json is enough for every engine.
const OTHER_FORMS: [&str; 6] =
    ["vocab.json", "merges.txt", "vocab.txt", "tekken.json", "tokenizer.tiktoken", "sentencepiece.bpe.model"];
/// Settings that are the id of a token, or a list of such, beside those that end in `_token_id`.
const IDS: [&str; 3] = ["suppress_tokens", "begin_suppress_tokens", "eos_token_ids"];

/// The tokens that stay if a text uses these: with them their parts, every byte, all special and added tokens, and the ids in
/// config.json and generation_config.json.
///
/// # Errors
/// A model without a tokenizer.json.
pub(crate) fn with_needed(checkpoint: &Checkpoint, used: impl IntoIterator<Item = u32>) -> Result<Kept> {
    let files = checkpoint.side_files()?;
    let tokenizer = read(&files, TOKENIZER)?.ok_or_else(no_tokenizer)?;
    let mut kept: BTreeSet<u32> = used.into_iter().collect();
    kept.extend(fixed(checkpoint, &files, &tokenizer)?);
    let ids = ids_of(&tokenizer);
    kept.extend(ids.iter().filter(|(token, _)| is_byte(token, &tokenizer)).map(|(_, id)| *id));
    add_parts(&tokenizer, &ids, &mut kept);
    Ok(Kept::new(kept))
}

fn no_tokenizer() -> Error {
    Error::unsupported(
        "no tokenizer.json beside the weights: its tokens cannot be numbered anew",
        "save the tokenizer with transformers, which writes one: AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIR)",
    )
}

/// Special and added tokens, and the ids that settings name.
fn fixed(checkpoint: &Checkpoint, files: &[SideFile], tokenizer: &Value) -> Result<BTreeSet<u32>> {
    let mut fixed = BTreeSet::new();
    let number = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    fixed.extend(list(&tokenizer["added_tokens"]).filter_map(|token| number(&token["id"])));
    fixed.extend(number(&tokenizer["model"]["unk_id"]));
    let ids = ids_of(tokenizer);
    fixed.extend(tokenizer["model"]["unk_token"].as_str().and_then(|token| ids.get(token)));
    let config = read(files, "tokenizer_config.json")?.unwrap_or_default();
    let declared = config["added_tokens_decoder"].as_object().into_iter().flatten();
    fixed.extend(declared.filter_map(|(id, _)| id.parse::<u32>().ok()));
    let added = read(files, "added_tokens.json")?.unwrap_or_default();
    fixed.extend(added.as_object().into_iter().flatten().filter_map(|(_, id)| number(id)));
    let mut collect = |id: &mut Value| fixed.extend(number(id));
    for mut settings in
        [checkpoint.config.clone(), read(files, "generation_config.json")?].into_iter().flatten()
    {
        each_id(&mut settings, &mut collect);
    }
    each_post_processed(&mut tokenizer["post_processor"].clone(), &mut collect);
    // Some settings name tokens that the embedding has no row for.
    let rows = checkpoint.sizes()?.vocabulary as u32;
    fixed.retain(|id| *id < rows);
    Ok(fixed)
}

/// Tokens with their ids.
fn ids_of(tokenizer: &Value) -> HashMap<&str, u32> {
    let vocabulary = &tokenizer["model"]["vocab"];
    let table = vocabulary.as_object().into_iter().flatten();
    let table = table.filter_map(|(token, id)| Some((token.as_str(), u32::try_from(id.as_u64()?).ok()?)));
    let pieces = list(vocabulary).enumerate();
    let pieces = pieces.filter_map(|(id, piece)| Some((piece[0].as_str()?, id as u32)));
    table.chain(pieces).collect()
}

/// Returns true for a token that stands for a byte, or for a letter where there are no bytes: any text can be written with these.
fn is_byte(token: &str, tokenizer: &Value) -> bool {
    match tokenizer["model"]["byte_fallback"] == true {
        true => token.len() == 6 && token.starts_with("<0x") && token.ends_with('>'),
        false => token.trim_start_matches("##").chars().count() == 1,
    }
}

/// Adds the parts of tokens that merges make, and their parts.
fn add_parts(tokenizer: &Value, ids: &HashMap<&str, u32>, kept: &mut BTreeSet<u32>) {
    let mut parts: HashMap<u32, Vec<[u32; 2]>> = HashMap::new();
    for merge in list(&tokenizer["model"]["merges"]) {
        if let Some([left, right, whole]) = merged(merge, tokenizer, ids) {
            parts.entry(whole).or_default().push([left, right]);
        }
    }
    let mut open: Vec<u32> = kept.iter().copied().collect();
    while let Some(token) = open.pop() {
        let of_token = parts.get(&token).into_iter().flatten().flatten();
        open.extend(of_token.filter(|part| kept.insert(**part)));
    }
}

/// The ids of the two parts of a merge, and of the whole; `None` where one has none.
fn merged(merge: &Value, tokenizer: &Value, ids: &HashMap<&str, u32>) -> Option<[u32; 3]> {
    let (left, right) = match merge {
        Value::String(text) => text.split_once(' ')?,
        pair => (pair[0].as_str()?, pair[1].as_str()?),
    };
    let prefix = tokenizer["model"]["continuing_subword_prefix"].as_str().unwrap_or_default();
    let whole = format!("{left}{}", right.strip_prefix(prefix).unwrap_or(right));
    Some([*ids.get(left)?, *ids.get(right)?, *ids.get(whole.as_str())?])
}

/// The side files of a model with these tokens.
///
/// # Errors
/// A special token that would go; no tokenizer.json.
pub(super) fn files(checkpoint: &Checkpoint, kept: &Kept) -> Result<Vec<SideFile>> {
    let files = checkpoint.side_files()?;
    let tokenizer = read(&files, TOKENIZER)?.ok_or_else(no_tokenizer)?;
    let lost = fixed(checkpoint, &files, &tokenizer)?.into_iter().find(|id| kept.place(*id).is_none());
    if let Some(lost) = lost {
        let name = ids_of(&tokenizer).into_iter().find(|(_, id)| *id == lost).map_or("", |(token, _)| token);
        let what = format!(
            "the vocabulary would lose token {lost} {name}, a special token or one that settings name"
        );
        return Err(Error::usage(what, "keep it, or let --method vocabulary choose"));
    }
    let stays =
        |file: &&SideFile| !OTHER_FORMS.contains(&file.name.as_str()) && !file.name.ends_with(".model");
    files.iter().filter(stays).map(|file| renumbered(file, kept)).collect()
}

fn renumbered(file: &SideFile, kept: &Kept) -> Result<SideFile> {
    let edit: fn(&mut Value, &Kept) = match file.name.as_str() {
        TOKENIZER => edit_tokenizer,
        "tokenizer_config.json" => edit_tokenizer_config,
        "added_tokens.json" => edit_added,
        "generation_config.json" => edit_ids,
        _ => return Ok(file.clone()),
    };
    let mut value = parse(file)?;
    edit(&mut value, kept);
    Ok(SideFile { bytes: Some(json::pretty(&value)), ..file.clone() })
}

/// Renumbers the ids in settings.
pub(super) fn edit_ids(settings: &mut Value, kept: &Kept) {
    each_id(settings, &mut |id| renumber(id, kept));
}

fn edit_tokenizer(tokenizer: &mut Value, kept: &Kept) {
    let ids: HashMap<String, u32> =
        ids_of(tokenizer).into_iter().map(|(token, id)| (token.to_owned(), id)).collect();
    let borrowed = ids.iter().map(|(token, id)| (token.as_str(), *id)).collect();
    let stays = |merge: &Value| {
        merged(merge, tokenizer, &borrowed).is_some_and(|ids| ids.iter().all(|id| kept.place(*id).is_some()))
    };
    let merges: Vec<Value> =
        list(&tokenizer["model"]["merges"]).filter(|merge| stays(merge)).cloned().collect();
    let model = &mut tokenizer["model"];
    if let Some(all) = model.get_mut("merges").and_then(Value::as_array_mut) {
        *all = merges;
    }
    match model.get_mut("vocab") {
        Some(Value::Object(table)) => {
            table.retain(|_, id| id.as_u64().is_some_and(|id| kept.place(id as u32).is_some()));
            table.values_mut().for_each(|id| renumber(id, kept));
        }
        Some(Value::Array(pieces)) => {
            let mut id = 0..;
            pieces.retain(|_| id.next().is_some_and(|id| kept.place(id).is_some()));
        }
        _ => {}
    }
    if let Some(unknown) = model.get_mut("unk_id") {
        renumber(unknown, kept);
    }
    let added = tokenizer.get_mut("added_tokens").and_then(Value::as_array_mut);
    added.into_iter().flatten().filter_map(|token| token.get_mut("id")).for_each(|id| renumber(id, kept));
    if let Some(padding) = tokenizer.get_mut("padding").and_then(|padding| padding.get_mut("pad_id")) {
        renumber(padding, kept);
    }
    if let Some(processor) = tokenizer.get_mut("post_processor") {
        each_post_processed(processor, &mut |id| renumber(id, kept));
    }
}

fn edit_tokenizer_config(config: &mut Value, kept: &Kept) {
    let Some(declared) = config.get_mut("added_tokens_decoder").and_then(Value::as_object_mut) else {
        return;
    };
    let place = |(id, token): (String, Value)| Some((kept.place(id.parse().ok()?)?.to_string(), token));
    *declared = std::mem::take(declared).into_iter().filter_map(place).collect::<Map<_, _>>();
}

fn edit_added(added: &mut Value, kept: &Kept) {
    added.as_object_mut().into_iter().flatten().for_each(|(_, id)| renumber(id, kept));
}

/// The ids of tokens that a post-processor puts around a text.
fn each_post_processed(processor: &mut Value, edit: &mut impl FnMut(&mut Value)) {
    for inner in processor.get_mut("processors").and_then(Value::as_array_mut).into_iter().flatten() {
        each_post_processed(inner, edit);
    }
    for end in ["sep", "cls"] {
        processor.get_mut(end).and_then(|pair| pair.get_mut(1)).into_iter().for_each(&mut *edit);
    }
    let tokens = processor.get_mut("special_tokens").and_then(Value::as_object_mut);
    for (_, token) in tokens.into_iter().flatten() {
        token.get_mut("ids").and_then(Value::as_array_mut).into_iter().flatten().for_each(&mut *edit);
    }
}

/// The ids of tokens in settings, and in those of the text model inside.
fn each_id(settings: &mut Value, edit: &mut impl FnMut(&mut Value)) {
    for (key, value) in settings.as_object_mut().into_iter().flatten() {
        let is_id =
            key.ends_with("_token_id") || key.ends_with("_token_index") || IDS.contains(&key.as_str());
        match value {
            Value::Array(words) if key.ends_with("_words_ids") => {
                let ids = words.iter_mut().filter_map(Value::as_array_mut).flatten();
                ids.for_each(&mut *edit);
            }
            // Pairs of a position and a token.
            Value::Array(pairs) if key == "forced_decoder_ids" => {
                pairs.iter_mut().filter_map(|pair| pair.get_mut(1)).for_each(&mut *edit);
            }
            Value::Array(ids) if is_id => ids.iter_mut().for_each(&mut *edit),
            Value::Object(_) if key == "text_config" => each_id(value, edit),
            _ if is_id => edit(value),
            _ => {}
        }
    }
}

/// Ids that are no token (null, −1) stay as they are.
fn renumber(id: &mut Value, kept: &Kept) {
    let place = id.as_u64().and_then(|id| kept.place(u32::try_from(id).ok()?));
    if let Some(place) = place {
        *id = place.into();
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn read(files: &[SideFile], name: &str) -> Result<Option<Value>> {
    files.iter().find(|file| file.name == name).map(parse).transpose()
}

fn parse(file: &SideFile) -> Result<Value> {
    let hint = "get this file again from the model's source";
    json::parse(&file.content()?).map_err(|e| Error::malformed(&file.path, "JSON", e, hint))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_support::checkpoint;

    fn tokenizer() -> Value {
        json!({
            "added_tokens": [{ "id": 0, "content": "<s>" }, { "id": 9, "content": "</s>" }],
            "post_processor": { "type": "Sequence", "processors": [
                { "type": "TemplateProcessing", "special_tokens": { "<s>": { "id": "<s>", "ids": [0] } } },
                { "type": "RobertaProcessing", "sep": ["</s>", 9], "cls": ["<s>", 0] } ] },
            "model": { "type": "BPE", "unk_token": null, "merges": ["a b", ["ab", "c"], "b c", "c d", "cd d"],
                "vocab": { "<s>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "ab": 5, "abc": 6, "bc": 7, "cd": 8, "</s>": 9, "cdd": 10 } },
        })
    }

    /// Of abc its parts stay, and every letter; the tokens behind bc and cd go, and the merges that make them.
    #[test]
    fn parts_and_letters_stay() {
        let tokenizer = tokenizer();
        let ids = ids_of(&tokenizer);
        let mut kept: BTreeSet<u32> = [6, 0, 9].into();
        kept.extend(ids.iter().filter(|(token, _)| is_byte(token, &tokenizer)).map(|(_, id)| *id));
        add_parts(&tokenizer, &ids, &mut kept);
        let kept = Kept::new(kept);
        assert_eq!(kept.to_string(), "0-6,9");
        let mut edited = tokenizer.clone();
        edit_tokenizer(&mut edited, &kept);
        let vocabulary = json!({ "<s>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "ab": 5, "abc": 6, "</s>": 7 });
        assert_eq!(edited["model"]["vocab"], vocabulary);
        assert_eq!(edited["model"]["merges"], json!(["a b", ["ab", "c"]]));
        assert_eq!(edited["added_tokens"][1]["id"], 7);
        let processors = &edited["post_processor"]["processors"];
        assert_eq!(
            (&processors[0]["special_tokens"]["<s>"]["ids"], &processors[1]["sep"]),
            (&json!([0]), &json!(["</s>", 7]))
        );
    }

    #[test]
    fn pieces_and_settings_are_numbered_anew() {
        let mut unigram = json!({ "model": { "type": "Unigram", "unk_id": 2, "vocab": [["a", -1], ["b", -2], ["<unk>", 0]] } });
        let kept = Kept::new([0, 2]);
        edit_tokenizer(&mut unigram, &kept);
        assert_eq!(
            unigram["model"],
            json!({ "type": "Unigram", "unk_id": 1, "vocab": [["a", -1], ["<unk>", 0]] })
        );
        let mut settings =
            json!({ "eos_token_id": [0, 2], "pad_token_id": 2, "bos_token_id": null, "vocab_size": 2 });
        edit_ids(&mut settings, &kept);
        let expected =
            json!({ "eos_token_id": [0, 1], "pad_token_id": 1, "bos_token_id": null, "vocab_size": 2 });
        assert_eq!(settings, expected);
        let mut config = json!({ "added_tokens_decoder": { "2": { "content": "<unk>" }, "1": {} } });
        edit_tokenizer_config(&mut config, &kept);
        assert_eq!(config, json!({ "added_tokens_decoder": { "1": { "content": "<unk>" } } }));
    }

    #[test]
    fn a_special_token_cannot_go() {
        let whole = checkpoint("tiny-llama");
        let error = files(&whole, &Kept::new(5..100)).unwrap_err().to_string();
        assert!(error.contains("would lose token 0"), "{error}");
        let kept = with_needed(&whole, [300, 301]).unwrap();
        assert!([0, 1, 2, 300, 301].iter().all(|id| kept.place(*id).is_some()), "{kept}");
        assert!(kept.numbers().len() > 256 && kept.numbers().len() < 512, "{}", kept.numbers().len());
        assert!(files(&whole, &kept).is_ok());
    }
}

//! Added tokens that only the files beside tokenizer.json declare: `added_tokens_decoder` of tokenizer_config.json, and
//! added_tokens.json. transformers adds them to the tokenizer's own.

use std::collections::HashSet;

use serde_json::{Value as Json, json};

/// The added tokens that the files beside tokenizer.json declare, in its form. `config` is tokenizer_config.json, `added`
/// added_tokens.json; null where there is none.
pub(crate) fn declared(config: &Json, added: &Json) -> Vec<Json> {
    described(config).chain(plain(added)).collect()
}

/// Adds the tokens that tokenizer.json does not have to it.
pub(crate) fn complete(tokenizer: &mut Json, declared: Vec<Json>) {
    let Some(object) = tokenizer.as_object_mut() else { return };
    let Some(list) = object.entry("added_tokens").or_insert_with(|| json!([])).as_array_mut() else { return };
    let id = |token: &Json| token["id"].as_u64();
    let text = |token: &Json| token["content"].as_str().unwrap_or_default().to_owned();
    let mut ids: HashSet<Option<u64>> = list.iter().map(id).collect();
    let mut texts: HashSet<String> = list.iter().map(text).collect();
    for token in declared {
        if !ids.contains(&id(&token)) && !texts.contains(&text(&token)) {
            ids.insert(id(&token));
            texts.insert(text(&token));
            list.push(token);
        }
    }
    // The tokenizers crate wants them in the order of their ids.
    list.sort_by_key(|token| token["id"].as_u64());
}

/// The entries of `added_tokens_decoder`: descriptions by id.
fn described(config: &Json) -> impl Iterator<Item = Json> {
    let entries = config["added_tokens_decoder"].as_object().into_iter().flatten();
    entries.filter_map(|(id, description)| {
        let mut token = token(id.parse().ok()?, description["content"].as_str()?);
        for key in ["single_word", "lstrip", "rstrip", "normalized", "special"] {
            if let Some(flag) = description[key].as_bool() {
                token[key] = flag.into();
            }
        }
        Some(token)
    })
}

/// The entries of added_tokens.json: ids by text.
fn plain(added: &Json) -> impl Iterator<Item = Json> {
    let entries = added.as_object().into_iter().flatten();
    entries.filter_map(|(text, id)| Some(token(id.as_u64()?, text)))
}

fn token(id: u64, content: &str) -> Json {
    json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": true, "special": false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_beside_tokenizer_json_join_its_own() {
        let mut tokenizer = json!({ "added_tokens": [{ "id": 2, "content": "<e>", "special": true }] });
        let config = json!({ "added_tokens_decoder": {
            "2": { "content": "<e>", "special": false }, "9": { "content": "<tool>", "special": true, "lstrip": true } } });
        let added = json!({ "<tool>": 9, "<e>": 2, "<x>": 7 });
        complete(&mut tokenizer, declared(&config, &added));
        let list = tokenizer["added_tokens"].as_array().expect("a list");
        let found: Vec<_> =
            list.iter().map(|t| (t["id"].as_u64(), t["content"].as_str(), t["special"].as_bool())).collect();
        let expected = [(2, "<e>", true), (7, "<x>", false), (9, "<tool>", true)]
            .map(|(i, t, s)| (Some(i), Some(t), Some(s)));
        assert_eq!(found, expected);
        assert_eq!(list[2]["lstrip"], true);
    }
}

//! The parts that every tokenizer.json has: added tokens, and what is put around a text.

use serde_json::{Map, Value, json};

use super::vocabulary::{Vocabulary, token_type};

/// Tokens that text is searched for before anything else, in the order of their ids.
pub(super) fn added_tokens(vocabulary: &Vocabulary) -> Vec<Value> {
    let added = |(id, kind): (usize, &i32)| match *kind {
        token_type::CONTROL | token_type::UNKNOWN => Some(added_token(id, &vocabulary.tokens[id], true)),
        token_type::USER_DEFINED => Some(added_token(id, &vocabulary.tokens[id], false)),
        _ => None,
    };
    vocabulary.types.iter().enumerate().filter_map(added).collect()
}

fn added_token(id: usize, content: &str, special: bool) -> Value {
    json!({
        "id": id,
        "content": content,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": special,
    })
}

/// Puts BOS and EOS around a text; `None` where neither is wanted.
pub(super) fn template(vocabulary: &Vocabulary, add_bos: bool, add_eos: bool) -> Option<Value> {
    let bos = vocabulary.bos.filter(|_| add_bos);
    let eos = vocabulary.eos.filter(|_| add_eos);
    if bos.is_none() && eos.is_none() {
        return None;
    }
    let mut special_tokens = Map::new();
    for id in bos.into_iter().chain(eos) {
        let text = &vocabulary.tokens[id];
        special_tokens.insert(text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    }
    let around = |sequence: &str, type_id: u8| {
        let special =
            |id: usize| json!({ "SpecialToken": { "id": vocabulary.tokens[id], "type_id": type_id } });
        let text = json!({ "Sequence": { "id": sequence, "type_id": type_id } });
        bos.map(special).into_iter().chain([text]).chain(eos.map(special)).collect::<Vec<_>>()
    };
    let pair = [around("A", 0), around("B", 1)].concat();
    Some(json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": special_tokens,
    }))
}

/// A tokenizer.json of these parts.
pub(super) fn tokenizer(
    vocabulary: &Vocabulary,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Value,
) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(vocabulary),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    })
}

//! The small files beside tokenizer.json, rebuilt from a GGUF: tokenizer_config.json, special_tokens_map.json,
//! generation_config.json.

use serde_json::{Map, Value, json};

use super::vocabulary::{Vocabulary, token_type};

/// `PreTrainedTokenizerFast` makes transformers take tokenizer.json as it is, whatever the model.
pub(super) fn tokenizer_config(vocabulary: &Vocabulary, model_max_length: Option<u64>) -> Value {
    let mut config = special_tokens(vocabulary);
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("added_tokens_decoder".into(), added_tokens_decoder(vocabulary));
    if let Some(length) = model_max_length {
        config.insert("model_max_length".into(), length.into());
    }
    if let Some(template) = &vocabulary.chat_template {
        config.insert("chat_template".into(), template.as_str().into());
    }
    Value::Object(config)
}

/// The texts of the special tokens, as special_tokens_map.json lists them.
pub(super) fn special_tokens(vocabulary: &Vocabulary) -> Map<String, Value> {
    let tokens = [
        ("bos_token", vocabulary.bos),
        ("eos_token", vocabulary.eos),
        ("unk_token", vocabulary.unk),
        ("pad_token", vocabulary.pad),
    ];
    let text = |(key, id): (&str, Option<usize>)| Some((key.to_owned(), vocabulary.text(id)?.into()));
    tokens.into_iter().filter_map(text).collect()
}

fn added_tokens_decoder(vocabulary: &Vocabulary) -> Value {
    let entry = |(id, kind): (usize, &i32)| {
        let special = matches!(*kind, token_type::CONTROL | token_type::UNKNOWN);
        let token = json!({
            "content": vocabulary.tokens[id],
            "lstrip": false,
            "normalized": false,
            "rstrip": false,
            "single_word": false,
            "special": special,
        });
        (special || *kind == token_type::USER_DEFINED).then(|| (id.to_string(), token))
    };
    vocabulary.types.iter().enumerate().filter_map(entry).collect::<Map<_, _>>().into()
}

/// The tokens that begin and end a generation: the end of a turn ends it too.
pub(super) fn generation_config(vocabulary: &Vocabulary) -> Value {
    let mut config = Map::new();
    if let Some(bos) = vocabulary.bos {
        config.insert("bos_token_id".into(), bos.into());
    }
    let ends: Vec<usize> =
        vocabulary.eos.into_iter().chain(vocabulary.eot.filter(|t| vocabulary.eos != Some(*t))).collect();
    match ends.as_slice() {
        [] => {}
        [only] => drop(config.insert("eos_token_id".into(), (*only).into())),
        _ => drop(config.insert("eos_token_id".into(), ends.into())),
    }
    if let Some(pad) = vocabulary.pad {
        config.insert("pad_token_id".into(), pad.into());
    }
    Value::Object(config)
}

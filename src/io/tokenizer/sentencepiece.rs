//! SentencePiece (`tokenizer.ggml.model` "llama", a BPE by scores, and "t5", a unigram model) → tokenizer.json.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::added;
use super::vocabulary::{Vocabulary, token_type};

/// Longest token, in bytes, that merges are looked for in; the longest in the wild are runs of spaces of a tenth of it.
const MAX_MERGED_BYTES: usize = 256;
/// Surplus spaces, as transformers' converter finds them.
pub(super) const SPACES: &str = " {2,}";

/// Rebuilds the tokenizer.json of a BPE by scores, as transformers' converter of `tokenizer.model` does: every split of
/// a token into two others is a merge, the better token's first. `charsmap` is SentencePiece's compiled normalization.
pub(super) fn bpe_json(vocabulary: &Vocabulary, charsmap: Option<&[u8]>) -> Value {
    let prefix = vocabulary.add_space_prefix.unwrap_or(true);
    let add_bos = vocabulary.add_bos.unwrap_or(true);
    let post = added::template(vocabulary, add_bos, vocabulary.add_eos.unwrap_or(false));
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": vocabulary.text(vocabulary.unk.or(Some(0))),
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": vocabulary.types.contains(&token_type::BYTE),
        "ignore_merges": false,
        "vocab": ids(vocabulary),
        "merges": merges(vocabulary),
    });
    let post = post.unwrap_or(Value::Null);
    let mut steps = clean_up(vocabulary, charsmap);
    steps.extend(prefix.then(|| json!({ "type": "Prepend", "prepend": "▁" })));
    steps.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" }));
    added::tokenizer(vocabulary, normalizer(steps), Value::Null, post, decoder(prefix), model)
}

/// Rebuilds the tokenizer.json of a unigram model. `charsmap` is SentencePiece's compiled normalization.
pub(super) fn unigram_json(vocabulary: &Vocabulary, charsmap: Option<&[u8]>) -> Value {
    let scheme = if vocabulary.add_space_prefix.unwrap_or(true) { "always" } else { "never" };
    let metaspace =
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true });
    let add_bos = vocabulary.add_bos.unwrap_or(false);
    let post = added::template(vocabulary, add_bos, vocabulary.add_eos.unwrap_or(true));
    let score = |id: usize| vocabulary.scores.get(id).copied().filter(|s| s.is_finite()).unwrap_or(0.0);
    let pieces: Vec<Value> =
        (0..vocabulary.tokens.len()).map(|id| json!([vocabulary.tokens[id], score(id)])).collect();
    let model = json!({
        "type": "Unigram",
        "unk_id": vocabulary.unk,
        "vocab": pieces,
        "byte_fallback": vocabulary.types.contains(&token_type::BYTE),
    });
    let post = post.unwrap_or(Value::Null);
    let normalizer = normalizer(clean_up(vocabulary, charsmap));
    added::tokenizer(vocabulary, normalizer, metaspace.clone(), post, metaspace, model)
}

fn ids(vocabulary: &Vocabulary) -> Map<String, Value> {
    let kept = vocabulary.tokens.iter().enumerate().filter(|(id, _)| !vocabulary.is_filler(*id));
    kept.map(|(id, token)| (token.clone(), id.into())).collect()
}

/// The steps of SentencePiece's own normalization: the compiled map, then surplus spaces.
fn clean_up(vocabulary: &Vocabulary, charsmap: Option<&[u8]>) -> Vec<Value> {
    let map = charsmap.map(|map| json!({ "type": "Precompiled", "precompiled_charsmap": base64(map) }));
    let mut steps: Vec<Value> = map.into_iter().collect();
    if vocabulary.remove_extra_whitespaces {
        steps.push(json!({ "type": "Strip", "strip_left": true, "strip_right": true }));
        steps.push(json!({ "type": "Replace", "pattern": { "Regex": SPACES }, "content": " " }));
    }
    steps
}

/// One step as it is, several as a sequence.
fn normalizer(mut steps: Vec<Value>) -> Value {
    match steps.len() {
        0 => Value::Null,
        1 => steps.remove(0),
        _ => json!({ "type": "Sequence", "normalizers": steps }),
    }
}

fn decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        steps.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": steps })
}

/// Every split of a token into two others: by falling score, then by the lengths of the halves, the longer first.
fn merges(vocabulary: &Vocabulary) -> Vec<String> {
    let pieces: HashMap<&str, usize> = mergeable(vocabulary).collect();
    let score = |id: usize| vocabulary.scores.get(id).copied().unwrap_or(0.0);
    let mut merges = Vec::new();
    for (token, id) in mergeable(vocabulary).filter(|(token, _)| token.len() <= MAX_MERGED_BYTES) {
        merges.extend(splits(token, &pieces).into_iter().map(|(left, right)| (score(id), left, right)));
    }
    let lengths = |left: &str, right: &str| (left.chars().count(), right.chars().count());
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| lengths(b.1, b.2).cmp(&lengths(a.1, a.2))));
    merges.into_iter().map(|(_, left, right)| format!("{left} {right}")).collect()
}

/// The splits of a token into two others, by the ids of these.
fn splits<'a>(token: &'a str, pieces: &HashMap<&str, usize>) -> Vec<(&'a str, &'a str)> {
    let halves = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
    let ids =
        |(left, right): (&'a str, &'a str)| Some((*pieces.get(left)?, *pieces.get(right)?, left, right));
    let mut found: Vec<_> = halves.filter_map(ids).collect();
    found.sort_by_key(|(left, right, ..)| (*left, *right));
    found.into_iter().map(|(_, _, left, right)| (left, right)).collect()
}

/// Tokens that text is merged from and into. A space would break the notation of merges; SentencePiece writes ▁.
fn mergeable(vocabulary: &Vocabulary) -> impl Iterator<Item = (&str, usize)> {
    let usable =
        |id: usize| vocabulary.types[id] == token_type::NORMAL && !vocabulary.tokens[id].contains(' ');
    let tokens = vocabulary.tokens.iter().enumerate();
    tokens.filter(move |(id, _)| usable(*id)).map(|(id, token)| (token.as_str(), id))
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding, as tokenizer.json keeps compiled maps.
fn base64(bytes: &[u8]) -> String {
    let digits = |chunk: &[u8]| {
        let word = (0..3).fold(0u32, |word, i| word << 8 | u32::from(*chunk.get(i).unwrap_or(&0)));
        let digit = move |i: usize| BASE64[(word >> (18 - 6 * i)) as usize & 63] as char;
        let used = chunk.len() + 1;
        (0..4).map(move |i| if i < used { digit(i) } else { '=' })
    };
    bytes.chunks(3).flat_map(digits).collect()
}

/// The inverse of [`base64`]; `None` where the text is none.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').bytes();
    let values: Option<Vec<u32>> =
        digits.map(|d| BASE64.iter().position(|b| *b == d).map(|at| at as u32)).collect();
    let decode = |chunk: &[u32]| {
        let word = (0..4).fold(0u32, |word, i| word << 6 | chunk.get(i).unwrap_or(&0));
        word.to_be_bytes()[1..chunk.len()].to_vec()
    };
    Some(values?.chunks(4).flat_map(decode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_rfc4648s() {
        let vectors = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
            assert_eq!(from_base64(encoded).as_deref(), Some(plain.as_bytes()));
        }
    }

    #[test]
    fn merges_follow_the_scores() {
        let tokens = ["<unk>", "a", "b", "c", "ab", "bc", "abc"].map(str::to_owned).to_vec();
        let mut types = vec![token_type::NORMAL; 7];
        types[0] = token_type::UNKNOWN;
        let scores = vec![0.0, -10.0, -11.0, -12.0, -2.0, -1.0, -3.0];
        let vocabulary = Vocabulary { tokens, types, scores, ..Vocabulary::default() };
        // bc scores best, then ab; abc comes last, the longer left half first.
        assert_eq!(merges(&vocabulary), ["b c", "a b", "ab c", "a bc"]);
    }
}

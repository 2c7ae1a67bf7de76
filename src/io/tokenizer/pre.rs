//! Pre-tokenizers of byte-level BPE: GGUF names them (`tokenizer.ggml.pre`), tokenizer.json spells them out.
//!
//! Every one of them is a list of regular expressions, applied in turn, each isolating its matches in the pieces that
//! the ones before left. In that form a tokenizer.json can be looked up, whichever components it was written with.
//! Sources: the models' tokenizer.json files, and `llm_tokenizer_bpe` of
//! <https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp>.

use serde_json::{Value, json};

/// The split of text before merging.
#[derive(Debug)]
pub(super) struct Pre {
    /// Names in GGUF; the first is written.
    pub names: &'static [&'static str],
    /// Applied in turn.
    pub regexes: &'static [&'static str],
    /// Words that are tokens need no merges.
    pub ignore_merges: bool,
    /// True if text opens with the BOS token where the metadata do not say.
    pub add_bos: bool,
    /// True if text is composed (NFC) first.
    pub nfc: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";
const DIGITS: &str = r"\p{N}+";
/// The class of tokenizers' `Punctuation`: ASCII's and Unicode's.
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^`\|~]+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Letters with case. Escaped: editors replace some of these characters by their look-alikes.
const DEEPSEEK_LETTERS: &str = "\
    \\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\
    \u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\
    \u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\
    \u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\
    \u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\
    \u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\
    \u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\
    \u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\
    \u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\
    \u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\
    \u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\
    \u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\
    \u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+";
const DEEPSEEK_CJK: &str = "[一-龥ࠀ-一가-퟿]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

const fn pre(names: &'static [&'static str], regexes: &'static [&'static str]) -> Pre {
    Pre { names, regexes, ignore_merges: false, add_bos: false, nfc: false }
}

/// The table. Where two entries have the same regular expressions, the flags tell them apart.
const PRES: &[Pre] = &[
    Pre {
        ignore_merges: true,
        add_bos: true,
        ..pre(
            &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
            &[LLAMA3],
        )
    },
    pre(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[LLAMA3]),
    Pre { nfc: true, ..pre(&["qwen2", "deepseek-r1-qwen", "megrez"], &[QWEN2]) },
    pre(&["stablelm2", "hunyuan"], &[QWEN2]),
    pre(&["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"], &[DIGIT, GPT2]),
    Pre { nfc: true, ..pre(&["command-r"], &[DIGIT, GPT2]) },
    pre(&["gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "jais", "trillion"], &[GPT2]),
    Pre { nfc: true, ..pre(&["olmo", "mpt"], &[GPT2]) },
    Pre { ignore_merges: true, add_bos: true, ..pre(&["tekken"], &[TEKKEN]) },
    pre(&["gpt-4o", "llama4"], &[GPT4O]),
    pre(
        &["deepseek-llm"],
        &["[\r\n]", DEEPSEEK_LETTERS, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", DEEPSEEK_CJK, DIGIT],
    ),
    pre(&["deepseek-coder"], &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, DIGIT]),
    pre(&["deepseek-v3", "hunyuan-dense"], &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3]),
    pre(&["falcon"], &[PUNCTUATION, GPT2, DIGITS, "[0-9][0-9][0-9]"]),
    pre(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, DIGITS, "[0-9][0-9][0-9]"]),
];

/// The pre-tokenizer that a GGUF names.
pub(super) fn find(name: &str) -> Option<&'static Pre> {
    PRES.iter().find(|pre| pre.names.contains(&name))
}

/// GGUF's name for the pre-tokenizer of a tokenizer.json; the error is what it does, for the message.
pub(super) fn recognize(tokenizer: &Value) -> Result<&'static Pre, String> {
    let mut regexes = Vec::new();
    collect(&tokenizer["pre_tokenizer"], &mut regexes).map_err(|kind| format!("the component {kind}"))?;
    let ignore_merges = tokenizer["model"]["ignore_merges"] == json!(true);
    let nfc = tokenizer["normalizer"].to_string().contains("\"NFC\"");
    let same = |pre: &&Pre| pre.regexes == regexes.as_slice();
    let exactly = |pre: &&Pre| same(pre) && pre.ignore_merges == ignore_merges && pre.nfc == nfc;
    let merges = |pre: &&Pre| same(pre) && pre.ignore_merges == ignore_merges;
    let found = PRES.iter().find(exactly).or_else(|| PRES.iter().find(merges));
    found.or_else(|| PRES.iter().find(same)).ok_or_else(|| format!("the regular expressions {regexes:?}"))
}

/// The regular expressions that a `pre_tokenizer` applies.
fn collect(component: &Value, regexes: &mut Vec<String>) -> Result<(), String> {
    match component["type"].as_str() {
        Some("Sequence") => {
            let parts = component["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice);
            return parts.iter().try_for_each(|part| collect(part, regexes));
        }
        Some("Split") => {
            let pattern = component["pattern"]["Regex"].as_str().or(component["pattern"]["String"].as_str());
            regexes.push(canonical(pattern.unwrap_or_default()));
        }
        Some("Digits") if component["individual_digits"] == json!(true) => regexes.push(DIGIT.into()),
        Some("Digits") => regexes.push(DIGITS.into()),
        Some("Punctuation") => regexes.push(PUNCTUATION.into()),
        Some("ByteLevel") if component["use_regex"] != json!(false) => regexes.push(GPT2.into()),
        Some("ByteLevel") => {}
        other => return Err(other.unwrap_or("null").to_owned()),
    }
    Ok(())
}

/// Spellings of one regular expression that files in the wild differ in.
fn canonical(regex: &str) -> String {
    let regex = regex.replace("'(?i:[sdmt]|ll|ve|re)", "(?i:'s|'t|'re|'ve|'m|'ll|'d)");
    regex.replace("?+", "?").replace("++", "+").replace("{1}", "")
}

impl Pre {
    /// As tokenizer.json spells it.
    pub(super) fn json(&self) -> Value {
        let (last, before) = self.regexes.split_last().expect("every entry has a regular expression");
        let last_is_gpt2 = *last == GPT2;
        let splits = if last_is_gpt2 { before } else { self.regexes };
        let mut parts: Vec<Value> = splits.iter().map(|regex| component(regex)).collect();
        parts.push(byte_level(last_is_gpt2));
        match <[Value; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => json!({ "type": "Sequence", "pretokenizers": parts }),
        }
    }
}

fn component(regex: &str) -> Value {
    match regex {
        DIGIT => json!({ "type": "Digits", "individual_digits": true }),
        DIGITS => json!({ "type": "Digits", "individual_digits": false }),
        _ => {
            json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false })
        }
    }
}

/// The component that spells bytes as printable characters.
pub(super) fn byte_level(use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_is_recognized_in_its_own_spelling() {
        for pre in PRES {
            let tokenizer = json!({
                "normalizer": if pre.nfc { json!({ "type": "NFC" }) } else { Value::Null },
                "pre_tokenizer": pre.json(),
                "model": { "ignore_merges": pre.ignore_merges },
            });
            assert_eq!(recognize(&tokenizer).map(|found| found.names), Ok(pre.names));
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = PRES.iter().flat_map(|pre| pre.names).copied().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn unknown_components_are_named() {
        let odd = json!({ "pre_tokenizer": { "type": "Whitespace" } });
        assert_eq!(recognize(&odd).map(|pre| pre.names).unwrap_err(), "the component Whitespace");
    }
}

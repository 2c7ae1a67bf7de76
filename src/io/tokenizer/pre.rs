//! Pre-tokenizers of byte-level BPE: GGUF names them (`tokenizer.ggml.pre`), tokenizer.json spells them out.
//!
//! Every one of them is a list of regular expressions, applied in turn, each isolating its matches in the pieces that
//! the ones before left. In that form a tokenizer.json can be looked up, whichever components it was written with.
//! Sources: the models' tokenizer.json files, and `llm_tokenizer_bpe` of
//! <https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp>.

use serde_json::{Value, json};

/// How text is split before merging.
#[derive(Debug)]
pub(super) struct Pre {
    /// Names in GGUF; the first is written.
    pub names: &'static [&'static str],
    /// Applied in turn.
    pub regexes: &'static [&'static str],
    /// Words that are tokens need no merges.
    pub ignore_merges: bool,
    /// Whether text opens with the BOS token where the metadata do not say.
    pub add_bos: bool,
    /// Whether text is composed (NFC) first.
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
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
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

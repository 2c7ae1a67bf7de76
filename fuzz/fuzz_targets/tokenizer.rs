//! Any bytes as a tokenizer.json: an error, or a tokenizer that turns texts into ids and back, or says that it cannot.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use llmc::engine::Tokenizer;

/// Far more than these texts take.
const TIME: Duration = Duration::from_secs(10);
/// Tokens for each byte of a text: the normalizer's bound, with room for what surrounds a text.
const RATIO: usize = 32;
const SURROUNDINGS: usize = 10_000;

const TEXTS: &[&str] =
    &["", "a", " ab  <s>ab\n\n<unk>Ünï 日本 \u{1f600}x_1 ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"];

fuzz_target!(|bytes: &[u8]| {
    let start = Instant::now();
    if let Ok(tokenizer) = Tokenizer::parse("tokenizer.json".into(), bytes) {
        for text in TEXTS {
            for ids in
                [tokenizer.encode(text, true), tokenizer.encode_plain(text, false)].into_iter().flatten()
            {
                assert!(ids.len() <= RATIO * text.len() + SURROUNDINGS, "{} ids of {text:?}", ids.len());
                let _ = tokenizer.decode(&ids, false);
            }
        }
        let some = [0, 1, 2, tokenizer.vocabulary_size() as u32, u32::MAX];
        let _ = tokenizer.decode(&some, true);
        let _ = tokenizer.check_fits(4);
    }
    assert!(start.elapsed() < TIME, "{:?}", start.elapsed());
});

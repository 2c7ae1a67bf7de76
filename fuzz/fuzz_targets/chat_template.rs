//! Any text as a chat template: an error, or a rendering within the bounds of size and time.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use llmc::engine::{ChatTemplate, Message};

/// Far more than a rendering takes: the bounds are on steps.
const TIME: Duration = Duration::from_secs(20);
/// Far more than the conversation, and the limit of `jinja::Limit`.
const BYTES: usize = 64 << 20;

static TURNS: LazyLock<Vec<Message>> = LazyLock::new(|| {
    let texts = [
        ("system", "Be brief."),
        ("user", "<b>Hi</b>, {\"a\": 1}"),
        ("assistant", "Hello!\n"),
        ("user", "日本?"),
    ];
    texts.map(|(role, text)| Message::new(role, text)).into()
});

fuzz_target!(|text: &str| {
    let start = Instant::now();
    let tokens = BTreeMap::from([("bos_token", "<s>".to_owned()), ("eos_token", "</s>".to_owned())]);
    if let Ok(template) = ChatTemplate::parse("fuzz.jinja".into(), text, tokens) {
        for (turns, prompt) in [(&TURNS[..], true), (&TURNS[1..2], false), (&[], true)] {
            let rendered = template.render(turns, prompt).unwrap_or_default();
            assert!(rendered.len() <= BYTES, "{} bytes", rendered.len());
        }
    }
    assert!(start.elapsed() < TIME, "{:?}", start.elapsed());
});

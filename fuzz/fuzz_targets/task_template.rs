//! Any text as the templates of a task: an error, or results within the bounds of size and time. Input: a template, and
//! after a line that reads `----` an expression.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use llmc::corpus::rows::{Row, RowLocation};
use llmc::eval::tasks::template::Templates;

/// Far more than a rendering takes: the bounds are on steps, and 5 s for a regular expression.
const TIME: Duration = Duration::from_secs(30);
/// The limit of `jinja::Limit`.
const BYTES: usize = 64 << 20;

static ROW: LazyLock<Row> = LazyLock::new(|| {
    let row = r#"{"question": "What is 2 + 2?", "choices": ["3", "4"], "answer": 1, "label": "B", "n": null, "x": 0.5,
        "context": {"text": ["A long story. ", "Ünïcode 日本"], "label": ["A", "B"]}}"#;
    serde_json::from_str(row).expect("valid JSON")
});

fuzz_target!(|text: &str| {
    let start = Instant::now();
    let (template, expression) = text.split_once("\n----\n").unwrap_or((text, text));
    let place = RowLocation { file: Path::new("fuzz.jsonl"), row: 0 };
    let templates = Templates::default();
    let rendered = templates.text("context", template, &ROW, place).unwrap_or_default();
    let texts = templates.texts("choices", expression, &ROW, place).unwrap_or_default();
    let bytes = texts.iter().map(String::len).sum::<usize>();
    assert!(rendered.len() <= BYTES && bytes <= BYTES, "{} and {bytes} bytes", rendered.len());
    assert!(start.elapsed() < TIME, "{:?}", start.elapsed());
});

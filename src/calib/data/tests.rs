//! Sequences of small sources for the fixtures' tokenizers, and what is said of sources that do not do.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::test_support;

fn checkpoint(name: &str) -> Arc<Checkpoint> {
    Arc::new(test_support::checkpoint(name))
}

/// A folder with these files, and their paths.
fn files(contents: &[(&str, &str)]) -> (TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let paths = contents.iter().map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let paths = paths.collect();
    (folder, paths)
}

fn sequences(calibration: &Calibration) -> Result<Samples> {
    let (interrupted, progress) = (AtomicBool::new(false), |_, _| {});
    let watch = Watch { interrupted: &interrupted, progress: &progress, kept: None };
    calibration.sequences_from(&checkpoint("tiny-llama"), &watch, Path::new("no cache"))
}

fn text(words: usize) -> String {
    (0..words).map(|i| format!("word{} ", i * 7919 % 100_003)).collect()
}

/// The error for a bad calibration, with its hint.
fn said(result: Result<Samples>) -> String {
    let error = result.unwrap_err();
    format!("{error}; {}", error.hint().unwrap())
}

#[test]
fn packed_sequences_are_full_and_in_the_order_of_the_text() {
    let whole = text(3000);
    let (_folder, data) = files(&[("a.txt", &whole)]);
    let calibration = Calibration { data, samples: 9, seq_len: 33, ..Calibration::default() };
    let samples = sequences(&calibration).unwrap();
    assert_eq!(samples, sequences(&calibration).unwrap());
    assert_eq!((samples.sequences.len(), samples.tokens()), (9, 9 * 33));
    let tokenizer = Tokenizer::open(&checkpoint("tiny-llama")).unwrap();
    let (bos, stream) = (tokenizer.bos().unwrap(), tokenizer.encode(&(whole + "\n\n"), false).unwrap());
    let skipped = usize::from(tokenizer.adds_bos());
    let mut after = 0;
    for sequence in &samples.sequences {
        assert!(sequence.len() == 33 && (skipped == 0 || sequence[0] == bos));
        let piece = &sequence[skipped..];
        let at = (after..stream.len()).step_by(piece.len()).find(|at| stream[*at..].starts_with(piece));
        after = at.expect("a piece of the text, after the one before") + piece.len();
    }
    let other = Calibration { seed: 1, ..calibration };
    assert_ne!(sequences(&other).unwrap().digest, samples.digest);
}

#[test]
fn all_of_a_text_is_taken_where_it_just_suffices() {
    let (_folder, data) = files(&[("a.txt", &text(400))]);
    let all = |samples| {
        let calibration = Calibration { data: data.clone(), samples, seq_len: 16, ..Calibration::default() };
        sequences(&calibration)
    };
    let error = said(all(10_000));
    let most = error.split("lower --samples to ").nth(1).unwrap().split(',').next().unwrap();
    let most: usize = most.parse().unwrap();
    assert_eq!(all(most).unwrap().sequences.len(), most);
    assert!(said(all(most + 1)).contains("or name more text with --data"));
}

#[test]
fn documents_by_themselves_are_ragged() {
    let long = text(200);
    let rows = format!("{{\"text\": {long:?}}}\n{{\"text\": \"a b\"}}\n{{\"text\": \"\"}}\n")
        + &format!("{{\"prompt\": {:?}, \"response\": \"yes\"}}\n", text(12));
    let (_folder, data) = files(&[("a.jsonl", &rows)]);
    let calibration =
        Calibration { data, samples: 2, seq_len: 100, packing: false, ..Calibration::default() };
    let samples = sequences(&calibration).unwrap();
    let lengths: Vec<usize> = samples.sequences.iter().map(Vec::len).collect();
    assert!(lengths[0] == 100 && (16..100).contains(&lengths[1]), "{lengths:?}");
    assert_eq!(samples.sources[0].documents, 3);
    let error = said(sequences(&Calibration { samples: 3, ..calibration }));
    assert!(
        error.contains("expected 3 documents of at least 16 tokens, found 2, and 1 shorter ones"),
        "{error}"
    );
}

#[test]
fn sources_give_their_parts() {
    let (_folder, mut data) = files(&[("a.txt", &text(900)), ("b.txt", &text(900))]);
    data[0] = format!("0.75*{}", data[0]);
    data[1] = format!("0.25*{}", data[1]);
    let samples =
        sequences(&Calibration { data, samples: 8, seq_len: 20, ..Calibration::default() }).unwrap();
    let counts: Vec<usize> = samples.sources.iter().map(|drawn| drawn.sequences).collect();
    assert_eq!((counts, samples.sources[0].source.ends_with("a.txt")), (vec![6, 2], true));
}

#[test]
fn conversations_go_through_the_chat_template() {
    let rows = [
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Is it so?\"}, {\"role\": \"assistant\", \"content\": \"It is.\"}]}",
        "{\"conversations\": [{\"from\": \"human\", \"value\": \"Is it so?\"}, {\"from\": \"gpt\", \"value\": [{\"text\": \"It is.\"}]}]}",
    ];
    let (_folder, data) = files(&[("a.jsonl", &rows.join("\n"))]);
    let model = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(checkpoint("tiny-llama").path.clone()).unwrap().flatten() {
        std::fs::copy(entry.path(), model.path().join(entry.file_name())).unwrap();
    }
    let config = model.path().join("tokenizer_config.json");
    let bare = std::fs::read_to_string(&config).unwrap().replace("chat_template", "no_template");
    std::fs::write(&config, bare).unwrap();
    let opened = || Arc::new(Checkpoint::open(model.path().to_str().unwrap()).unwrap());
    let (interrupted, progress) = (AtomicBool::new(false), |_, _| {});
    let watch = Watch { interrupted: &interrupted, progress: &progress, kept: None };
    let calibration = Calibration { data, samples: 2, seq_len: 90, packing: false, ..Calibration::default() };
    let error = said(calibration.sequences_from(&opened(), &watch, Path::new("")));
    assert!(error.contains("no chat template, and the calibration data are conversations"), "{error}");
    let template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}";
    std::fs::write(model.path().join("chat_template.jinja"), template).unwrap();
    let samples = calibration.sequences_from(&opened(), &watch, Path::new("")).unwrap();
    let expected =
        Tokenizer::open(&opened()).unwrap().encode("[user] Is it so?\n[assistant] It is.\n", false);
    assert_eq!(samples.sequences, vec![expected.unwrap(); 2]);
    std::fs::write(model.path().join("chat_template.jinja"), "{{ raise_exception('no system') }}").unwrap();
    let error = said(calibration.sequences_from(&opened(), &watch, Path::new("")));
    assert!(error.contains("row ") && error.contains("no system"), "{error}");
}

#[test]
fn much_more_text_than_needed_is_thinned() {
    let whole = text(60_000);
    let mut random = SplitMix64(0);
    let thinned =
        documents::thin(vec![documents::Document::Text(whole.clone())], whole.len() / 4, &mut random);
    let texts: Vec<&str> = thinned
        .iter()
        .map(|document| match document {
            documents::Document::Text(text) => text.as_str(),
            documents::Document::Chat(..) => unreachable!(),
        })
        .collect();
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    assert!((whole.len() / 5..whole.len() / 3).contains(&bytes), "{bytes} of {}", whole.len());
    assert!(texts.iter().all(|text| whole.contains(text)));
    assert!(whole.find(texts.last().unwrap()).unwrap() > whole.len() / 2);
}

#[test]
fn the_model_writes_its_own() {
    let calibration =
        Calibration { data: vec!["self".into()], samples: 3, seq_len: 24, ..Calibration::default() };
    let samples = sequences(&calibration).unwrap();
    assert_eq!(samples, sequences(&calibration).unwrap());
    assert!(samples.sequences.iter().all(|sequence| sequence.len() == 24 && sequence[0] == 1));
    assert_ne!(samples.sequences[0], samples.sequences[1]);
    let fewer = sequences(&Calibration { samples: 1, ..calibration.clone() }).unwrap();
    assert_eq!(fewer.sequences[0], samples.sequences[0], "a text depends on those written beside it");
    let interrupted = AtomicBool::new(true);
    let watch = Watch { interrupted: &interrupted, progress: &|_, _| {}, kept: None };
    let error = calibration.sequences(&checkpoint("tiny-llama"), &watch).unwrap_err();
    assert_eq!(error.exit_code(), 130);
}

#[test]
fn text_that_was_written_is_kept_and_goes_on_to_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.json");
    let calibration =
        Calibration { data: vec!["self".into()], samples: 5, seq_len: 70, ..Calibration::default() };
    let whole = sequences(&calibration).unwrap();
    let stopped_at = |model: &str, tokens: usize| {
        let (interrupted, first) = (AtomicBool::new(false), AtomicUsize::new(usize::MAX));
        let progress = |done: usize, _: usize| {
            first.fetch_min(done, Ordering::Relaxed);
            interrupted.fetch_or(done >= tokens, Ordering::Relaxed);
        };
        let kept = Some(KeptText { path: path.clone(), model: model.into() });
        let watch = Watch { interrupted: &interrupted, progress: &progress, kept };
        let samples = calibration.sequences_from(&checkpoint("tiny-llama"), &watch, Path::new("no cache"));
        (samples, first.load(Ordering::Relaxed))
    };
    let (stopped, began) = stopped_at("a", 5 * 20);
    assert!(began == 2 * 5 && said(stopped).contains("it goes on from the text so far"));
    assert_eq!(stopped_at("a", 5 * 40).1, 21 * 5, "the second run begins where the first stopped");
    let kept = std::fs::read(&path).unwrap();
    let (samples, began) = stopped_at("a", usize::MAX);
    assert_eq!((samples.unwrap(), began), (whole.clone(), 41 * 5));
    assert_eq!(stopped_at("a", usize::MAX).1, usize::MAX, "nothing is left to write");

    // The text of another model, and damaged text, are not taken.
    assert_eq!(stopped_at("b", 5 * 20).1, 2 * 5);
    let damaged = String::from_utf8(kept).unwrap().replacen("[[1,", "[[1,1,", 1);
    std::fs::write(&path, damaged).unwrap();
    let (samples, began) = stopped_at("a", usize::MAX);
    assert_eq!((samples.unwrap(), began), (whole, 2 * 5));
}

#[test]
fn what_does_not_do_is_named() {
    let (folder, paths) = files(&[
        ("empty.txt", " \n"),
        ("rows.jsonl", "{\"text\": \"x\"}\n{\"body\": \"x\"}"),
        ("turns.jsonl", "{\"messages\": [{\"role\": \"user\"}]}"),
        ("nulls.jsonl", "{\"text\": null}\n{\"instruction\": \"x\", \"output\": null}\n{\"messages\": null}"),
    ]);
    let of = |data: &str| Calibration { data: vec![data.to_owned()], ..Calibration::default() };
    let check = |calibration: Calibration, expected: &str| {
        let error = said(sequences(&calibration));
        assert!(error.contains(expected), "{error}");
    };
    check(of(&paths[0]), "empty.txt: expected text to calibrate on, found none");
    check(of(&paths[1]), "row 1: expected text, messages, or a prompt and a response, found body");
    check(of(&paths[2]), "row 0: expected a list of messages with role and content");
    check(of(&paths[3]), "nulls.jsonl: expected text to calibrate on, found none");
    check(of(folder.path().to_str().unwrap()), "expected a text file, found a folder");
    check(of("no/such.txt"), "no such dataset in");
    check(
        Calibration { seq_len: 513, ..of("self") },
        "sequences of 513 tokens, for a model of 512 positions",
    );
    check(Calibration { seq_len: 1, ..of("self") }, "128 sequences of 1 tokens");
    check(Calibration { samples: usize::MAX, ..of("self") }, "--samples 128 --seq-len 512 is usual");
}

#[test]
fn recipes_hold_it() {
    let calibration: Calibration = toml::from_str("data = [\"2*a.txt\", \"self\"]\nsamples = 64").unwrap();
    assert_eq!((calibration.samples, calibration.seq_len, calibration.packing), (64, 512, true));
    let text = toml::to_string(&calibration).unwrap();
    assert_eq!(toml::from_str::<Calibration>(&text).unwrap(), calibration);
    let error = toml::from_str::<Calibration>("sample = 3").unwrap_err();
    assert!(error.to_string().contains("unknown field `sample`"), "{error}");
}

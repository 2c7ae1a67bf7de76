//! Hub ids against a hub of our own on 127.0.0.1: what is downloaded, where it lies, what happens when the hub refuses,
//! lies, breaks off or falls silent. Nothing here leaves the machine.
#![allow(clippy::unwrap_used)]

mod server;

use std::fs;
use std::net::TcpListener;
use std::time::Instant;

use llmc::Error;
use llmc::io::Checkpoint;
use llmc::io::hub::{Hub, Id, parse_id};
use serde_json::json;

use server::{COMMIT, Mood, PATIENCE, SILENCE, Server, hub_at};

/// One F32 tensor of so many zeros.
fn weights(name: &str, values: usize) -> Vec<u8> {
    let header =
        json!({ name: { "dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values] } }).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + 4 * values, 0);
    bytes
}

fn id() -> Id {
    parse_id("org/name").unwrap()
}

fn small() -> Server {
    Server::new(&[("config.json", b"{\"model_type\":\"x\"}"), ("model.safetensors", &weights("w", 5000))])
}

fn text(error: &Error) -> String {
    format!("{error} hint: {}", error.hint().unwrap_or("NONE"))
}

#[test]
fn only_what_is_needed_comes_into_the_standard_cache() {
    let index = json!({ "weight_map": { "a": "a.safetensors", "b": "b.safetensors" } }).to_string();
    let (a, b) = (weights("a", 7), weights("b", 9));
    let server = Server::new(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{ }"),
        ("model.safetensors.index.json", index.as_bytes()),
        ("a.safetensors", &a),
        ("b.safetensors", &b),
        ("modules.json", b"[{\"path\":\"1_Pooling\"}]"),
        ("1_Pooling/config.json", b"{  }"),
        ("README.md", b"# Card"),
        ("pytorch_model.bin", b"no"),
        ("onnx/model.onnx", b"no"),
        ("../../escape.py", b"no"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let opened = Checkpoint::open_with("org/name", &server.hub(&cache)).unwrap();
    assert_eq!(opened.tensors.keys().collect::<Vec<_>>(), ["a", "b"]);
    let names: Vec<&str> = opened.side_files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["1_Pooling/config.json", "modules.json", "tokenizer.json"]);
    assert!(!server.log().iter().any(|line| [".bin", "onnx", "escape"].iter().any(|no| line.contains(no))));
    assert_eq!(fs::read_to_string(opened.path.join("README.md")).unwrap(), "# Card");
    let model = cache.path().join("hub/models--org--name");
    assert_eq!(fs::read_to_string(model.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(opened.path, model.join("snapshots").join(COMMIT));
    assert_eq!(fs::read(model.join(format!("blobs/etag{}", a.len()))).unwrap(), a);
    // Again: the hub is asked which commit `main` is, and nothing is transferred.
    Checkpoint::open_with("org/name", &server.hub(&cache)).unwrap();
    assert_eq!(server.log().len(), 1);
}

#[test]
fn offline_the_cache_is_enough_and_nothing_else_is_asked() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    let folder = server.hub(&cache).fetch(&id()).unwrap();
    server.log();
    let offline = Hub { offline: true, ..server.hub(&cache) };
    assert_eq!(offline.fetch(&id()).unwrap(), folder);
    let pinned = parse_id(&format!("org/name@{COMMIT}")).unwrap();
    assert_eq!(offline.fetch(&pinned).unwrap(), folder);
    // Online, a commit that is cached cannot have changed.
    assert_eq!(server.hub(&cache).fetch(&pinned).unwrap(), folder);
    assert!(server.log().is_empty());
}

#[test]
fn offline_and_not_cached_is_an_error_at_once() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    let offline = Hub { offline: true, ..server.hub(&cache) };
    let started = Instant::now();
    let error = Checkpoint::open_with("org/name", &offline).unwrap_err();
    assert!(started.elapsed() < PATIENCE / 3);
    assert!(text(&error).contains("org/name@main: offline (HF_HUB_OFFLINE)"), "{}", text(&error));
    // Cached without its weights is not cached.
    server.mood(Mood::Cuts(100));
    assert!(server.hub(&cache).fetch(&id()).is_err());
    assert!(text(&offline.fetch(&id()).unwrap_err()).contains("not complete in the cache"));
    assert!(!server.log().is_empty());
}

#[test]
fn refusals_say_what_to_do() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    for (status, word) in
        [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "spelling"), (500, "network"), (418, "HF_ENDPOINT")]
    {
        server.mood(Mood::Status(status));
        let error = Checkpoint::open_with("org/name", &server.hub(&cache)).unwrap_err();
        let text = text(&error);
        for word in [word, "org/name@main", "no such file or folder", &server.address, &status.to_string()] {
            assert!(text.contains(word), "{status}: {word} is not in {text}");
        }
    }
}

#[test]
fn the_token_travels_as_bearer() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    let hub = Hub { token: Some("hf_secret".into()), ..server.hub(&cache) };
    hub.fetch(&id()).unwrap();
    assert!(server.log().iter().all(|line| line.ends_with("Bearer hf_secret")));
}

#[test]
fn a_silent_hub_is_given_up() {
    for mood in [Mood::Silent, Mood::Stalls] {
        let (server, cache) = (small(), tempfile::tempdir().unwrap());
        server.mood(mood);
        let started = Instant::now();
        let error = Hub { timeout: SILENCE, ..server.hub(&cache) }.fetch(&id()).unwrap_err();
        assert!(started.elapsed() < PATIENCE / 3, "{mood:?} took {:?}", started.elapsed());
        assert!(text(&error).contains("nothing arrived for 0.7 s"), "{mood:?}: {}", text(&error));
    }
}

#[test]
fn a_hub_that_cannot_be_reached_is_an_error_or_the_cache() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    let folder = server.hub(&cache).fetch(&id()).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = hub_at(&format!("http://{closed}"), &cache);
    assert_eq!(dead.fetch(&id()).unwrap(), folder);
    let empty = tempfile::tempdir().unwrap();
    let error = hub_at(&dead.endpoint, &empty).fetch(&id()).unwrap_err();
    assert!(text(&error).contains("check the network"), "{}", text(&error));
}

#[test]
fn a_transfer_that_breaks_off_is_resumed() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    server.mood(Mood::Cuts(8000));
    let folder = server.hub(&cache).fetch(&id()).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights("w", 5000));
    let log = server.log();
    for range in ["bytes=0- ", "bytes=8000- ", "bytes=16000- "] {
        assert!(
            log.iter().any(|line| line.contains("model.safetensors") && line.contains(range)),
            "{range}: {log:#?}"
        );
    }
}

#[test]
fn the_next_run_goes_on_where_the_last_stopped() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    server.mood(Mood::Cuts(1000));
    let error = server.hub(&cache).fetch(&id()).unwrap_err();
    assert!(text(&error).contains("downloading model.safetensors"), "{}", text(&error));
    assert!(text(&error).contains("goes on where it stopped"), "{}", text(&error));
    server.log();
    server.mood(Mood::Well);
    let folder = server.hub(&cache).fetch(&id()).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights("w", 5000));
    let log = server.log();
    assert!(log.iter().any(|line| line.contains("bytes=3000-")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("config.json")), "{log:#?}");
}

#[test]
fn a_part_that_is_already_whole_is_fetched_anew() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    let bytes = weights("w", 5000);
    let blobs = cache.path().join("hub/models--org--name/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("etag{}.part", bytes.len())), &bytes).unwrap();
    let folder = server.hub(&cache).fetch(&id()).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), bytes);
}

#[test]
fn a_hub_that_ignores_ranges_spoils_nothing() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    server.mood(Mood::Cuts(1000));
    assert!(server.hub(&cache).fetch(&id()).is_err());
    server.mood(Mood::IgnoresRanges);
    let error = server.hub(&cache).fetch(&id()).unwrap_err();
    assert!(text(&error).contains("bytes, received"), "{}", text(&error));
    // What was spoilt is gone: from its start, the file fits.
    let folder = server.hub(&cache).fetch(&id()).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights("w", 5000));
}

#[test]
fn answers_that_would_leave_the_cache_are_refused() {
    for mood in [Mood::EvilEtag, Mood::EvilCommit] {
        let (server, cache) = (small(), tempfile::tempdir().unwrap());
        server.mood(mood);
        let error = server.hub(&cache).fetch(&id()).unwrap_err();
        assert!(text(&error).contains("../../../evil"), "{mood:?}: {}", text(&error));
        let left: Vec<_> = cache.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty() || left == ["hub"], "{left:?}");
    }
    let index = json!({ "weight_map": { "a": "../../../evil" } }).to_string();
    let server = Server::new(&[("model.safetensors.index.json", index.as_bytes())]);
    let cache = tempfile::tempdir().unwrap();
    assert!(text(&server.hub(&cache).fetch(&id()).unwrap_err()).contains("plain name"));
}

#[test]
fn ids_are_taken_as_people_paste_them() {
    for input in [
        "https://huggingface.co/org/name",
        "hf://org/name",
        "https://huggingface.co/org/name/tree/main",
        "gpt2",
    ] {
        let (server, cache) = (small(), tempfile::tempdir().unwrap());
        let opened = Checkpoint::open_with(input, &server.hub(&cache)).unwrap();
        assert_eq!(opened.tensors.keys().collect::<Vec<_>>(), ["w"], "{input}");
        let folder = if input == "gpt2" { "hub/models--gpt2" } else { "hub/models--org--name" };
        assert!(opened.path.starts_with(cache.path().join(folder)), "{input}: {}", opened.path.display());
    }
}

#[test]
fn one_gguf_of_several_is_named_by_its_quantization() {
    let files: [(&str, &[u8]); 4] = [
        ("x.Q4_K_M.gguf", b"four"),
        ("x.Q4_K_S.gguf", b"small"),
        ("x.Q8_0.gguf", b"eight."),
        ("config.json", b"{}"),
    ];
    let (server, cache) = (Server::new(&files), tempfile::tempdir().unwrap());
    let fetch = |hub: &Hub, input: &str| hub.fetch(&parse_id(input).unwrap());
    for (input, content) in [
        ("org/name:q4_k_m", &files[0].1),
        ("org/name@main:Q8_0", &files[2].1),
        ("https://huggingface.co/org/name/blob/main/x.Q4_K_S.gguf", &files[1].1),
    ] {
        server.log();
        let path = fetch(&server.hub(&cache), input).unwrap();
        assert_eq!(fs::read(&path).unwrap(), *content, "{input}");
        let log = server.log();
        let weights: Vec<_> = log.iter().filter(|line| line.contains(".gguf ")).collect();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(!weights.is_empty() && weights.iter().all(|line| line.contains(name)), "{input}: {log:#?}");
        // Offline, the one that is there is found again, and no other.
        let offline = Hub { offline: true, ..server.hub(&cache) };
        assert_eq!(fetch(&offline, input).unwrap(), path);
        assert!(fetch(&offline, "org/name:Q2_K").is_err());
    }
    let error = fetch(&server.hub(&cache), "org/name:Q5_K_M").unwrap_err();
    assert!(text(&error).contains("no weight file is named Q5_K_M"), "{}", text(&error));
    assert!(text(&error).contains("x.Q4_K_M.gguf, x.Q4_K_S.gguf, x.Q8_0.gguf"), "{}", text(&error));
    let error = fetch(&server.hub(&cache), "org/name").unwrap_err();
    assert!(text(&error).contains("org/name:Q4_K_M"), "{}", text(&error));
}

#[test]
fn models_without_weights_for_llmc_say_so() {
    for (names, word) in
        [(vec!["pytorch_model.bin"], "no weights"), (vec!["a.gguf", "b.gguf"], "several weight files")]
    {
        let files: Vec<(&str, &[u8])> = names.into_iter().map(|name| (name, b"x".as_slice())).collect();
        let (server, cache) = (Server::new(&files), tempfile::tempdir().unwrap());
        let error = server.hub(&cache).fetch(&id()).unwrap_err();
        assert!(text(&error).contains(word), "{}", text(&error));
    }
}

#[test]
fn a_path_that_exists_is_no_hub_id() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    assert!(parse_id("fixtures/tiny-llama").is_some());
    let opened = Checkpoint::open_with("fixtures/tiny-llama", &server.hub(&cache)).unwrap();
    assert_eq!(opened.path, std::path::Path::new("fixtures/tiny-llama"));
    assert!(server.log().is_empty());
}

#[test]
fn what_is_neither_says_both() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    for input in [
        "name",
        "/org/name",
        "a/b/c",
        "org/name.gguf",
        "org/na me",
        "../no-such-model-here",
        "org/name@",
        "org/name@../x",
        "org/..",
        "-a/b",
    ] {
        let error = Checkpoint::open_with(input, &server.hub(&cache)).unwrap_err();
        assert!(
            text(&error).contains("no such file or folder, and not a hub id"),
            "{input}: {}",
            text(&error)
        );
    }
    assert!(server.log().is_empty());
    let with_branch = parse_id("org/name@refs/pr/1").unwrap();
    assert_eq!((with_branch.model.as_str(), with_branch.revision.as_str()), ("org/name", "refs/pr/1"));
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let (server, cache) = (small(), tempfile::tempdir().unwrap());
    fs::write(cache.path().join("hub"), "a file where the folder should be").unwrap();
    let error = server.hub(&cache).fetch(&id()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert!(text(&error).contains("hub: "), "{}", text(&error));
}

//! Hub ids against a hub of our own on 127.0.0.1: what is downloaded, where it lies, what happens when the hub refuses,
//! lies, breaks off or falls silent. Nothing here leaves the machine.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use llmc::Error;
use llmc::io::Checkpoint;
use llmc::io::hub::{Hub, Id, parse_id};
use serde_json::json;
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Silence that is waited for in the tests of silence; elsewhere, long enough for the busiest machine.
const SILENCE: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(30);

/// How the hub misbehaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Well,
    /// Answers everything with this status.
    Status(u16),
    /// Accepts, and never answers.
    Silent,
    /// Breaks off each transfer after so many bytes.
    Cuts(usize),
    /// Sends half of a file, then nothing.
    Stalls,
    /// Sends whole files whatever range is asked for.
    IgnoresRanges,
    /// Gives a path out of the cache as etag.
    EvilEtag,
    /// Gives a path as commit.
    EvilCommit,
}

struct State {
    mood: Mood,
    files: HashMap<String, Vec<u8>>,
    /// Request lines with their `range` and `authorization`.
    log: Vec<String>,
}

/// A hub with one model, `org/name`.
struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn new(files: &[(&str, &[u8])]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
        let state = Arc::new(Mutex::new(State { mood: Mood::Well, files, log: Vec::new() }));
        let server =
            Server { address: format!("http://{}", listener.local_addr().unwrap()), state: state.clone() };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let state = state.clone();
                thread::spawn(move || serve(stream.unwrap(), &state));
            }
        });
        server
    }

    fn mood(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// What was asked since the last time.
    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    fn hub(&self, cache: &TempDir) -> Hub {
        hub_at(&self.address, cache)
    }
}

fn hub_at(address: &str, cache: &TempDir) -> Hub {
    Hub {
        endpoint: address.into(),
        cache: cache.path().join("hub"),
        token: None,
        offline: false,
        timeout: PATIENCE,
        progress: false,
    }
}

struct Request {
    path: String,
    start: Option<usize>,
    /// The range is one byte: the client asks for the headers.
    probe: bool,
}

fn read_request(stream: &TcpStream, state: &Mutex<State>) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let headers: HashMap<String, String> = lines
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .filter_map(|line| line.split_once(": ").map(|(key, value)| (key.to_lowercase(), value.to_owned())))
        .collect();
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    state.lock().unwrap().log.push(format!("{first} {} {}", header("range"), header("authorization")));
    let range = header("range");
    let start = range.strip_prefix("bytes=").and_then(|range| range.split('-').next()?.parse().ok());
    Some(Request { path: first.split(' ').nth(1)?.to_owned(), start, probe: range == "bytes=0-0" })
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let Some(request) = read_request(&stream, state) else { return };
    let (mood, files) = {
        let state = state.lock().unwrap();
        (state.mood, state.files.clone())
    };
    match mood {
        Mood::Silent => thread::sleep(PATIENCE),
        Mood::Status(status) => respond(&mut stream, status, "", b""),
        _ if request.path.starts_with("/api/models/org/name/revision/main") => {
            let sha = if mood == Mood::EvilCommit { "../../../evil" } else { COMMIT };
            let names: Vec<_> = files.keys().map(|name| json!({ "rfilename": name })).collect();
            respond(&mut stream, 200, "", json!({ "sha": sha, "siblings": names }).to_string().as_bytes());
        }
        _ => serve_file(&mut stream, &request, mood, &files),
    }
}

fn serve_file(stream: &mut TcpStream, request: &Request, mood: Mood, files: &HashMap<String, Vec<u8>>) {
    let name = request.path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/"));
    let Some(bytes) = name.and_then(|name| files.get(name)) else { return respond(stream, 404, "", b"") };
    let etag = if mood == Mood::EvilEtag { "../../../evil".into() } else { format!("etag{}", bytes.len()) };
    let start = request.start.unwrap_or(0);
    let headers = |start: usize, len: usize| {
        let range = format!("Content-Range: bytes {start}-{}/{}\r\n", start + len - 1, bytes.len());
        format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n{range}")
    };
    let rest = bytes.get(start..).filter(|rest| !rest.is_empty());
    match (mood, rest) {
        _ if request.probe => respond(stream, 206, &headers(0, 1), &bytes[..1]),
        (Mood::IgnoresRanges, _) => respond(stream, 200, &headers(0, bytes.len()), bytes),
        (_, None) => respond(stream, 416, "", b""),
        (Mood::Cuts(at), Some(rest)) => {
            respond_part(stream, 206, &headers(start, rest.len()), rest, at.min(rest.len()))
        }
        (Mood::Stalls, Some(rest)) => {
            respond_part(stream, 206, &headers(start, rest.len()), rest, rest.len() / 2);
            thread::sleep(PATIENCE);
        }
        (_, Some(rest)) => respond(stream, 206, &headers(start, rest.len()), rest),
    }
}

fn respond(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8]) {
    respond_part(stream, status, headers, body, body.len());
}

/// Announces the whole body, and sends its first `len` bytes.
fn respond_part(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8], len: usize) {
    let head = format!(
        "HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&body[..len]))
        .and_then(|()| stream.flush());
}

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
        ("README.md", b"no"),
        ("pytorch_model.bin", b"no"),
        ("onnx/model.onnx", b"no"),
        ("../../escape.py", b"no"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let opened = Checkpoint::open_with("org/name", &server.hub(&cache)).unwrap();
    assert_eq!(opened.tensors.keys().collect::<Vec<_>>(), ["a", "b"]);
    let names: Vec<&str> = opened.side_files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["1_Pooling/config.json", "modules.json", "tokenizer.json"]);
    assert!(
        !server
            .log()
            .iter()
            .any(|line| ["README", ".bin", "onnx", "escape"].iter().any(|no| line.contains(no)))
    );
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
        "../x",
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

//! A hub on 127.0.0.1 with one model, `org/name` or `gpt2`, that can misbehave.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use llmc::io::hub::Hub;
use serde_json::json;
use tempfile::TempDir;

/// The names of the model.
const MODELS: [&str; 2] = ["org/name", "gpt2"];
/// The commit that `main` is.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Silence that is waited for in the tests of silence; elsewhere, long enough for the busiest machine.
pub const SILENCE: Duration = Duration::from_millis(700);
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The misbehaviour of the hub.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mood {
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

/// A hub with one model, under each of the names in `MODELS`.
pub struct Server {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn new(files: &[(&str, &[u8])]) -> Server {
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

    pub fn mood(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// Takes the requests since the last call.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    pub fn hub(&self, cache: &TempDir) -> Hub {
        hub_at(&self.address, cache)
    }
}

/// The settings of a client, without a token.
pub fn hub_at(address: &str, cache: &TempDir) -> Hub {
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
        _ if MODELS.iter().any(|model| request.path == format!("/api/models/{model}/revision/main")) => {
            let sha = if mood == Mood::EvilCommit { "../../../evil" } else { COMMIT };
            let names: Vec<_> = files.keys().map(|name| json!({ "rfilename": name })).collect();
            respond(&mut stream, 200, "", json!({ "sha": sha, "siblings": names }).to_string().as_bytes());
        }
        _ => serve_file(&mut stream, &request, mood, &files),
    }
}

fn serve_file(stream: &mut TcpStream, request: &Request, mood: Mood, files: &HashMap<String, Vec<u8>>) {
    let name =
        MODELS.iter().find_map(|model| request.path.strip_prefix(&format!("/{model}/resolve/{COMMIT}/")));
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

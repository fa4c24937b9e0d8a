//! A server that speaks the Hub's routes on this machine, and misbehaves as it is told to.
//!
//! It has two ports: the Hub itself, and the storage that the Hub redirects to.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit that every branch is at.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server knows as a token.
pub(crate) const TOKEN: &str = "hf_secretsecretsecret";

/// What goes wrong with the next request whose path contains a text.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// An answer without a body, with these headers.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// The body ends after so many bytes.
    Cut(usize),
    /// The body stops after so many bytes, and the connection stays.
    Stall(usize),
    /// One byte of the body is another.
    Flip,
    /// To where it came from.
    Loop,
    /// The range that was asked for is not looked at.
    WholeBody,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// `hub` or `storage`.
    pub(crate) host: &'static str,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// Files by `models/owner/name` or `datasets/owner/name@branch`, and path.
    repos: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    faults: Vec<(String, VecDeque<Fault>)>,
    seen: Vec<Seen>,
    gated: Vec<String>,
    private: Vec<String>,
    /// What was committed, by path.
    pushed: BTreeMap<String, Vec<u8>>,
    /// What was put into the storage.
    stored: BTreeMap<String, Vec<u8>>,
    /// In how large parts uploads are asked for.
    part_bytes: Option<usize>,
    /// Whether lists have hashes and sizes.
    has_bare_lists: bool,
}

/// The server; it ends with the test's process.
#[derive(Clone)]
pub(crate) struct Server {
    state: Arc<Mutex<State>>,
    pub(crate) hub: String,
    pub(crate) storage: String,
}

impl Server {
    pub(crate) fn start() -> Self {
        let (hub, storage) = (listener(), listener());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let server = Self { state: Arc::default(), hub: address(&hub), storage: address(&storage) };
        for (listener, host) in [(hub, "hub"), (storage, "storage")] {
            let server = server.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let server = server.clone();
                    // A client that has gone is none of the server's concern.
                    thread::spawn(move || server.serve(host, stream));
                }
            });
        }
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a file; `repo` is `models/owner/name` or `datasets/owner/name`, with `@branch` for another than `main`.
    pub(crate) fn add(&self, repo: &str, path: &str, contents: impl Into<Vec<u8>>) {
        self.state().repos.entry(repo.to_owned()).or_default().insert(path.to_owned(), contents.into());
    }

    /// Adds all files of a folder.
    pub(crate) fn add_folder(&self, repo: &str, folder: &std::path::Path) {
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                    self.add(repo, name, std::fs::read(&path).unwrap());
                }
            }
        }
    }

    /// Lets the next requests whose path contains a text go wrong.
    pub(crate) fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.push((path.to_owned(), faults.into_iter().collect()));
    }

    pub(crate) fn gate(&self, repo: &str) {
        self.state().gated.push(repo.to_owned());
    }

    pub(crate) fn hide(&self, repo: &str) {
        self.state().private.push(repo.to_owned());
    }

    pub(crate) fn ask_for_parts(&self, n_bytes: usize) {
        self.state().part_bytes = Some(n_bytes);
    }

    pub(crate) fn leave_out_hashes(&self) {
        self.state().has_bare_lists = true;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// The paths of files that were asked for.
    pub(crate) fn resolved(&self) -> Vec<String> {
        let path = |seen: &Seen| Some(seen.path.split_once("/resolve/")?.1.split_once('/')?.1.to_owned());
        self.state().seen.iter().filter(|seen| seen.host == "hub").filter_map(path).collect()
    }

    pub(crate) fn forget(&self) {
        self.state().seen.clear();
    }

    pub(crate) fn pushed(&self) -> BTreeMap<String, Vec<u8>> {
        self.state().pushed.clone()
    }

    fn serve(&self, host: &'static str, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut out = stream;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut words = line.split_whitespace().map(str::to_owned);
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let mut headers = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let Some((name, value)) = line.trim().split_once(':') else { break };
                headers.insert(name.to_lowercase(), value.trim().to_owned());
            }
            let mut body = vec![0; headers.get("content-length").map_or(0, |text| text.parse().unwrap())];
            reader.read_exact(&mut body)?;
            let seen = Seen { host, method, path, headers, body };
            self.state().seen.push(seen.clone());
            if !self.reply(&seen, &mut out)? {
                return Ok(());
            }
        }
    }

    /// Answers; returns whether the connection stays.
    fn reply(&self, seen: &Seen, out: &mut TcpStream) -> std::io::Result<bool> {
        let fault = {
            let mut state = self.state();
            let wanted =
                state.faults.iter_mut().find(|(path, faults)| seen.path.contains(path) && !faults.is_empty());
            wanted.and_then(|(_, faults)| faults.pop_front())
        };
        match &fault {
            Some(Fault::Status(status, headers)) => {
                write_head(
                    out,
                    *status,
                    headers.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect(),
                    0,
                )?;
                return Ok(true);
            }
            Some(Fault::Loop) => {
                write_head(out, 302, vec![("Location".to_owned(), seen.path.clone())], 0)?;
                return Ok(true);
            }
            _ => {}
        }
        let mut answer = if seen.host == "hub" { self.hub(seen) } else { self.storage(seen) };
        let range = seen
            .headers
            .get("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        if let Some(start) =
            range.filter(|_| answer.status == 200 && !matches!(fault, Some(Fault::WholeBody)))
        {
            let n_bytes = answer.body.len();
            if start >= n_bytes {
                answer = Answer::status(416);
            } else {
                answer.status = 206;
                answer
                    .headers
                    .push(("Content-Range".to_owned(), format!("bytes {start}-{}/{n_bytes}", n_bytes - 1)));
                answer.body.drain(..start);
            }
        }
        if matches!(fault, Some(Fault::Flip)) {
            answer.body[0] ^= 1;
        }
        write_head(out, answer.status, answer.headers, answer.body.len())?;
        match fault {
            Some(Fault::Cut(n)) => {
                out.write_all(&answer.body[..n.min(answer.body.len())])?;
                Ok(false)
            }
            Some(Fault::Stall(n)) => {
                out.write_all(&answer.body[..n.min(answer.body.len())])?;
                thread::sleep(Duration::from_secs(5));
                Ok(false)
            }
            _ => out.write_all(&answer.body).map(|()| true),
        }
    }

    fn hub(&self, seen: &Seen) -> Answer {
        let path = seen.path.split('?').next().unwrap();
        let token = seen.headers.get("authorization").map(String::as_str);
        if token.is_some_and(|token| token != format!("Bearer {TOKEN}")) {
            return Answer::error(401, "", "Invalid username or password.");
        }
        if seen.method != "GET" {
            return if token.is_some() { self.write(seen, path) } else { Answer::status(401) };
        }
        if path == "/api/whoami-v2" {
            return if token.is_some() {
                Answer::json(&json!({ "name": "me" }))
            } else {
                Answer::status(401)
            };
        }
        let Some((repo, branch, file)) = route(path) else { return Answer::status(404) };
        let state = self.state();
        if state.private.contains(&repo) && token.is_none() {
            return Answer::error(401, "RepoNotFound", "Repository not found");
        }
        let is_known = state.repos.keys().any(|key| key.split('@').next() == Some(&repo));
        if !is_known {
            let status = if token.is_some() { 404 } else { 401 };
            return Answer::error(status, "RepoNotFound", "Repository not found");
        }
        let at_branch = if branch == "main" { repo.clone() } else { format!("{repo}@{branch}") };
        // Commits are of all branches here.
        let found = state.repos.iter().find(|(key, files)| {
            **key == at_branch
                || branch == COMMIT
                    && key.split('@').next() == Some(&repo)
                    && file.as_ref().is_none_or(|f| files.contains_key(f))
        });
        let Some((_, files)) = found else { return Answer::error(404, "RevisionNotFound", "Invalid rev id") };
        let Some(file) = file else { return listing(&repo, files, state.has_bare_lists) };
        if state.gated.contains(&repo) {
            return Answer::error(403, "GatedRepo", "Access to this model is restricted");
        }
        let Some(contents) = files.get(&file) else {
            return Answer::error(404, "EntryNotFound", "Entry not found");
        };
        if is_large(&file) {
            let oid = sha256(contents);
            let headers = [
                ("Location", format!("{}/{oid}?Signature=signed", self.storage)),
                ("X-Linked-Etag", format!("\"{oid}\"")),
                ("X-Linked-Size", contents.len().to_string()),
                ("X-Repo-Commit", COMMIT.to_owned()),
            ];
            let headers = headers.map(|(name, value)| (name.to_owned(), value)).to_vec();
            return Answer { status: 302, headers, body: Vec::new() };
        }
        let headers = vec![("ETag".to_owned(), format!("\"{}\"", git_sha1(contents)))];
        Answer { status: 200, headers, body: contents.clone() }
    }

    fn write(&self, seen: &Seen, path: &str) -> Answer {
        let body = || serde_json::from_slice::<Value>(&seen.body).unwrap();
        if path == "/api/repos/create" {
            return Answer::json(&json!({ "url": format!("{}/{}", self.hub, body()["name"]) }));
        }
        if path.contains("/preupload/") {
            let mode = |file: &Value| {
                let name = file["path"].as_str().unwrap();
                json!({ "path": name, "uploadMode": if is_large(name) { "lfs" } else { "regular" } })
            };
            let files: Vec<Value> = body()["files"].as_array().unwrap().iter().map(mode).collect();
            return Answer::json(&json!({ "files": files }));
        }
        if path.ends_with(".git/info/lfs/objects/batch") {
            let part_bytes = self.state().part_bytes;
            let action = |object: &Value| {
                let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap());
                let mut upload = json!({ "href": format!("{}/{oid}", self.storage) });
                if let Some(part_bytes) = part_bytes {
                    upload["header"]["chunk_size"] = part_bytes.to_string().into();
                    for number in 1..=usize::try_from(size).unwrap().div_ceil(part_bytes) {
                        upload["header"][format!("{number:05}")] =
                            format!("{}/{oid}?part={number}", self.storage).into();
                    }
                }
                let verify = json!({ "href": format!("{}/verify", self.hub) });
                json!({ "oid": oid, "size": size, "actions": { "upload": upload, "verify": verify } })
            };
            let objects: Vec<Value> = body()["objects"].as_array().unwrap().iter().map(action).collect();
            return Answer::json(&json!({ "objects": objects }));
        }
        if path == "/verify" {
            let is_stored = self.state().stored.contains_key(body()["oid"].as_str().unwrap());
            return Answer::status(if is_stored { 200 } else { 404 });
        }
        if path.contains("/commit/") {
            let lines = String::from_utf8(seen.body.clone()).unwrap();
            let mut state = self.state();
            for line in lines.lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                let value = &line["value"];
                let name = value["path"].as_str().map(str::to_owned);
                let contents = match line["key"].as_str().unwrap() {
                    "file" => base64(value["content"].as_str().unwrap()),
                    "lfsFile" => state.stored[value["oid"].as_str().unwrap()].clone(),
                    _ => continue,
                };
                state.pushed.insert(name.unwrap(), contents);
            }
            return Answer::json(&json!({ "commitOid": COMMIT }));
        }
        Answer::status(404)
    }

    fn storage(&self, seen: &Seen) -> Answer {
        let oid = seen.path.trim_start_matches('/').split('?').next().unwrap();
        let mut state = self.state();
        match &*seen.method {
            "PUT" => {
                state.stored.entry(oid.to_owned()).or_default().extend_from_slice(&seen.body);
                Answer { headers: vec![("ETag".to_owned(), "\"part\"".to_owned())], ..Answer::status(200) }
            }
            "POST" => Answer::status(200),
            _ => {
                let contents =
                    state.repos.values().flat_map(BTreeMap::values).find(|contents| sha256(contents) == oid);
                contents
                    .map_or(Answer::status(404), |body| Answer { body: body.clone(), ..Answer::status(200) })
            }
        }
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn json(value: &Value) -> Self {
        Self { body: value.to_string().into_bytes(), ..Self::status(200) }
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        let headers = [("X-Error-Code", code), ("X-Error-Message", message)];
        let headers = headers.into_iter().filter(|(_, value)| !value.is_empty());
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { headers, ..Self::status(status) }
    }
}

fn write_head(
    out: &mut impl Write,
    status: u16,
    headers: Vec<(String, String)>,
    n_bytes: usize,
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Told\r\nContent-Length: {n_bytes}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    out.write_all((head + "\r\n").as_bytes())
}

/// The repository, branch and, if it is one, file that a path is of.
fn route(path: &str) -> Option<(String, String, Option<String>)> {
    if let Some(rest) = path.strip_prefix("/api/") {
        let (repo, branch) = rest.split_once("/revision/")?;
        return Some((repo.to_owned(), branch.replace("%2F", "/"), None));
    }
    let (repo, rest) = path.trim_start_matches('/').split_once("/resolve/")?;
    let (branch, file) = rest.split_once('/')?;
    let repo = if repo.starts_with("datasets/") { repo.to_owned() } else { format!("models/{repo}") };
    Some((repo, branch.replace("%2F", "/"), Some(file.replace("%20", " "))))
}

fn listing(repo: &str, files: &BTreeMap<String, Vec<u8>>, is_bare: bool) -> Answer {
    let sibling = |(path, contents): (&String, &Vec<u8>)| {
        let mut sibling = json!({ "rfilename": path });
        if !is_bare {
            sibling["size"] = contents.len().into();
            sibling["blobId"] = git_sha1(contents).into();
            if is_large(path) {
                sibling["lfs"] =
                    json!({ "sha256": sha256(contents), "size": contents.len(), "pointerSize": 134 });
            }
        }
        sibling
    };
    let siblings: Vec<Value> = files.iter().map(sibling).collect();
    Answer::json(&json!({ "id": repo.split_once('/').unwrap().1, "sha": COMMIT, "siblings": siblings }))
}

/// Whether git-lfs would keep a file.
pub(crate) fn is_large(path: &str) -> bool {
    [".safetensors", ".bin", ".png", ".parquet", ".zip"].iter().any(|ending| path.ends_with(ending))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sha256(contents: &[u8]) -> String {
    hex(&Sha256::digest(contents))
}

pub(crate) fn git_sha1(contents: &[u8]) -> String {
    let header = format!("blob {}\0", contents.len());
    hex(&Sha1::new_with_prefix(header).chain_update(contents).finalize())
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0_u32, |bits, &byte| bits << 6 | u32::from(digit(byte)))
            << (6 * (4 - four.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

//! Files to a repository: large ones to its storage, then all of them in one commit.
//!
//! Source: `huggingface_hub` 2.4.0, `_commit_api.py` and `lfs.py`; the git-lfs batch API.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::error::HubError;
use crate::hash::sha256_of;
use crate::http::{Call, Payload, Subject, one_line, shown};
use crate::name::{Place, RepoKind, RepoName};
use crate::notice::Notice;
use crate::{Hub, Tell};

const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// How much of a file the Hub looks at to say where it goes.
const SAMPLE_BYTES: u64 = 512;

/// What is uploaded, and where.
#[derive(Debug)]
pub struct Push<'a> {
    /// The model's repository, which is made if it is not there.
    pub name: &'a RepoName,
    /// Who may see it, if it is made.
    pub visibility: Visibility,
    /// The commit's message.
    pub message: &'a str,
    /// The files.
    pub files: Vec<PushFile>,
}

/// A file to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushFile {
    /// Where it is.
    pub local: PathBuf,
    /// Where it goes, with `/`.
    pub path: String,
}

/// Who may see a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Everybody.
    Public,
    /// Its owner.
    Private,
}

/// A file of which more is known.
struct Upload<'a> {
    file: &'a PushFile,
    n_bytes: u64,
    /// The SHA-256, if it goes to the storage.
    oid: Option<String>,
}

impl Hub {
    /// The user of the token.
    ///
    /// # Errors
    /// [`HubError::UnknownToken`] and what the network brings.
    pub fn user(&self, tell: Tell<'_>) -> Result<String, HubError> {
        let url = format!("{}/api/whoami-v2", self.http.endpoint);
        let who = self.http.json(&Call::get(url.clone(), Subject::Other), tell)?;
        let name = who["name"].as_str().map(str::to_owned);
        name.ok_or_else(|| HubError::BadReply { url: shown(&url), why: "it has no `name`".to_owned() })
    }

    /// Makes the repository, if need be, and commits the files to its main branch; returns the address of its page.
    ///
    /// # Errors
    /// [`HubError`]; nothing is seen of what was uploaded before an error.
    pub fn push(&self, push: &Push<'_>, tell: Tell<'_>) -> Result<String, HubError> {
        let place = Place { name: push.name.clone(), kind: RepoKind::Model, revision: "main".to_owned() };
        self.create(push, &place, tell)?;
        let files = self.modes(push, &place, tell)?;
        let large: Vec<&Upload<'_>> = files.iter().filter(|file| file.oid.is_some()).collect();
        self.store(&large, &place, tell)?;
        self.commit(push, &files, &place, tell)?;
        Ok(format!("{}/{}", self.http.endpoint, place.page()))
    }

    fn create(&self, push: &Push<'_>, place: &Place, tell: Tell<'_>) -> Result<(), HubError> {
        let (owner, name) = push.name.as_str().split_once('/').expect("a name has an owner");
        let is_private = push.visibility == Visibility::Private;
        let body = json!({ "name": name, "organization": owner, "type": "model", "private": is_private });
        let url = format!("{}/api/repos/create", self.http.endpoint);
        match self.http.send(&Call::post_json(url, &body, Subject::Place(place)), tell) {
            // It is there already.
            Ok(_) | Err(HubError::Status { status: 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks which files go to the storage, and hashes those.
    fn modes<'a>(
        &self,
        push: &'a Push<'_>,
        place: &Place,
        tell: Tell<'_>,
    ) -> Result<Vec<Upload<'a>>, HubError> {
        let mut samples = Vec::new();
        let mut sizes = Vec::new();
        for file in &push.files {
            let (n_bytes, sample) = start_of(&file.local).map_err(HubError::read(&file.local))?;
            samples.push(json!({ "path": file.path, "size": n_bytes, "sample": BASE64.encode(sample) }));
            sizes.push(n_bytes);
        }
        let url = self.http.api(RepoKind::Model, &format!("{}/preupload/main", push.name));
        let reply = self
            .http
            .json(&Call::post_json(url, &json!({ "files": samples }), Subject::Place(place)), tell)?;
        let answers = reply["files"].as_array().cloned().unwrap_or_default();
        let is_large = |path: &str| {
            let answer = answers.iter().find(|answer| answer["path"] == path);
            answer.is_some_and(|answer| answer["uploadMode"] == "lfs")
        };
        let sized = |(file, n_bytes): (&'a PushFile, u64)| {
            let oid =
                is_large(&file.path).then(|| sha256_of(&file.local).map_err(HubError::read(&file.local)));
            Ok(Upload { file, n_bytes, oid: oid.transpose()? })
        };
        push.files.iter().zip(sizes).map(sized).collect()
    }

    /// Brings what the storage does not have yet.
    fn store(&self, files: &[&Upload<'_>], place: &Place, tell: Tell<'_>) -> Result<(), HubError> {
        if files.is_empty() {
            return Ok(());
        }
        let objects: Vec<Value> =
            files.iter().map(|file| json!({ "oid": file.oid, "size": file.n_bytes })).collect();
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": objects,
            "hash_algo": "sha256",
        });
        let url = format!("{}/{}.git/info/lfs/objects/batch", self.http.endpoint, place.page());
        let call = Call::post(url, LFS_JSON, body.to_string().into_bytes(), Subject::Place(place));
        let reply = self.http.json(&call, tell)?;
        let answers = reply["objects"].as_array().cloned().unwrap_or_default();

        let answer_of = |file: &Upload<'_>| {
            let answer = answers.iter().find(|answer| answer["oid"].as_str() == file.oid.as_deref());
            answer.ok_or_else(|| refused(file, "it says nothing of it"))
        };
        let mut missing = Vec::new();
        for file in files {
            let answer = answer_of(file)?;
            if let Some(message) = answer["error"]["message"].as_str() {
                return Err(refused(file, message));
            }
            // Without actions it is there already.
            if answer["actions"]["upload"].is_object() {
                missing.push((file, &answer["actions"]));
            }
        }
        let n_bytes = missing.iter().map(|(file, _)| file.n_bytes).sum();
        tell(Notice::Begins { name: &place.name, n_files: missing.len(), n_bytes });
        let mut n_done = 0;
        for (file, actions) in missing {
            self.upload(file, &actions["upload"], &mut n_done, tell)?;
            if let Some(href) = actions["verify"]["href"].as_str() {
                let body = json!({ "oid": file.oid, "size": file.n_bytes }).to_string().into_bytes();
                self.http.send(&Call::post(href.to_owned(), LFS_JSON, body, Subject::Place(place)), tell)?;
            }
        }
        tell(Notice::Ends);
        Ok(())
    }

    /// One object: in one piece, or in those that the storage asks for.
    fn upload(
        &self,
        file: &Upload<'_>,
        action: &Value,
        n_done: &mut u64,
        tell: Tell<'_>,
    ) -> Result<(), HubError> {
        let href = action["href"].as_str().ok_or_else(|| refused(file, "it does not say where it goes"))?;
        let Some(part_bytes) = number(&action["header"]["chunk_size"]).filter(|bytes| *bytes > 0) else {
            self.put(file, href, 0, file.n_bytes, tell)?;
            *n_done += file.n_bytes;
            tell(Notice::Bytes { file: &file.file.path, n_done: *n_done });
            return Ok(());
        };
        let mut parts = Vec::new();
        for (idx, start) in
            (0..file.n_bytes).step_by(usize::try_from(part_bytes).unwrap_or(usize::MAX)).enumerate()
        {
            // The keys are numbers with any zeros before them.
            let headers = action["header"].as_object().into_iter().flatten();
            let is_part = |key: &str| key.parse().is_ok_and(|number: usize| number == idx + 1);
            let url = headers.filter(|(key, _)| is_part(key)).find_map(|(_, url)| url.as_str());
            let url = url.ok_or_else(|| refused(file, "it does not say where a part goes"))?;
            let n_bytes = part_bytes.min(file.n_bytes - start);
            let etag = self.put(file, url, start, n_bytes, tell)?;
            let etag = etag.ok_or_else(|| refused(file, "it does not say what a part is called"))?;
            parts.push(json!({ "partNumber": idx + 1, "etag": etag }));
            *n_done += n_bytes;
            tell(Notice::Bytes { file: &file.file.path, n_done: *n_done });
        }
        let body = json!({ "oid": file.oid, "parts": parts }).to_string().into_bytes();
        self.http.send(&Call::post(href.to_owned(), LFS_JSON, body, Subject::Other), tell).map(|_| ())
    }

    /// A part of a file to an address that is good for it alone; returns its tag.
    fn put(
        &self,
        file: &Upload<'_>,
        url: &str,
        start: u64,
        n_bytes: u64,
        tell: Tell<'_>,
    ) -> Result<Option<String>, HubError> {
        let payload = Payload::Part { path: file.file.local.clone(), start, n_bytes };
        let call = Call { method: "PUT", payload, ..Call::get(url.to_owned(), Subject::Other) };
        let reply = self.http.send(&call, tell)?;
        Ok(reply.header("etag").map(str::to_owned))
    }

    fn commit(
        &self,
        push: &Push<'_>,
        files: &[Upload<'_>],
        place: &Place,
        tell: Tell<'_>,
    ) -> Result<(), HubError> {
        let mut lines =
            vec![json!({ "key": "header", "value": { "summary": push.message, "description": "" } })];
        for Upload { file, n_bytes, oid } in files {
            lines.push(match oid {
                Some(oid) => {
                    json!({ "key": "lfsFile", "value": { "path": file.path, "algo": "sha256", "oid": oid, "size": n_bytes } })
                }
                None => {
                    let bytes = fs::read(&file.local).map_err(HubError::read(&file.local))?;
                    let content = BASE64.encode(bytes);
                    json!({ "key": "file", "value": { "path": file.path, "content": content, "encoding": "base64" } })
                }
            });
        }
        let body =
            lines.iter().fold(String::new(), |text, line| text + &line.to_string() + "\n").into_bytes();
        let url = self.http.api(RepoKind::Model, &format!("{}/commit/main", push.name));
        self.http
            .send(&Call::post(url, "application/x-ndjson", body, Subject::Place(place)), tell)
            .map(|_| ())
    }
}

fn refused(file: &Upload<'_>, why: &str) -> HubError {
    HubError::UploadRefused { file: file.file.path.clone(), why: one_line(why) }
}

/// A number that may be written as a string.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A file's size and its first bytes.
fn start_of(path: &Path) -> std::io::Result<(u64, Vec<u8>)> {
    let file = File::open(path)?;
    let n_bytes = file.metadata()?.len();
    let mut start = Vec::new();
    file.take(SAMPLE_BYTES).read_to_end(&mut start)?;
    Ok((n_bytes, start))
}

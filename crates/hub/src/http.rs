//! Requests: redirections, waits and what a status means.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Request, Response, Uri, header};
use ureq::{Agent, Body, SendBody};

use crate::Tell;
use crate::error::HubError;
use crate::name::{Place, RepoKind};
use crate::notice::Notice;
use crate::options::{HubOptions, Network, Patience, Waits};
use crate::token::Token;

/// As many as browsers follow.
const MAX_REDIRECTS: usize = 10;

/// Enough for the list of a million files.
const MAX_REPLY_BYTES: u64 = 512 << 20;

/// A client of one endpoint.
#[derive(Debug)]
pub(crate) struct Http {
    agent: Agent,
    /// Without a slash at its end.
    pub(crate) endpoint: String,
    origin: Origin,
    token: Option<Token>,
    pub(crate) patience: Patience,
    network: Network,
    /// Whether anybody has answered yet.
    was_answered: AtomicBool,
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'static str,
    pub(crate) url: String,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) payload: Payload,
    /// The first byte that is wanted, if it is not the first one of all.
    pub(crate) from_byte: u64,
    /// What it is about.
    pub(crate) subject: Subject<'a>,
}

/// What a request brings.
#[derive(Debug)]
pub(crate) enum Payload {
    Nothing,
    Bytes(Vec<u8>),
    /// A part of a file.
    Part {
        path: PathBuf,
        start: u64,
        n_bytes: u64,
    },
}

/// What a request is about, to say what a refusal means.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    Place(&'a Place),
    File(&'a Place, &'a str),
    /// The user, or storage that is not the Hub's own.
    Other,
}

impl<'a> Call<'a> {
    pub(crate) fn get(url: String, subject: Subject<'a>) -> Self {
        Self { method: "GET", url, content_type: None, payload: Payload::Nothing, from_byte: 0, subject }
    }

    pub(crate) fn post(url: String, content_type: &'static str, body: Vec<u8>, subject: Subject<'a>) -> Self {
        let payload = Payload::Bytes(body);
        Self { method: "POST", url, content_type: Some(content_type), payload, from_byte: 0, subject }
    }

    pub(crate) fn post_json(url: String, body: &Value, subject: Subject<'a>) -> Self {
        Self::post(url, "application/json", body.to_string().into_bytes(), subject)
    }
}

/// A successful answer, whose body is not read yet.
pub(crate) struct Reply {
    /// Of this answer and, where it has none, of those that led to it.
    headers: Vec<HeaderMap>,
    body: Body,
    /// Who answered, to tell what is wrong with it.
    url: String,
}

impl Reply {
    /// The header of the last answer that has it.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().rev().find_map(|headers| text(headers, name))
    }

    pub(crate) fn into_reader(self) -> impl Read {
        self.body.into_with_config().limit(u64::MAX).reader()
    }

    pub(crate) fn json(mut self, stall: Duration) -> Result<Value, HubError> {
        let bytes = self.body.with_config().limit(MAX_REPLY_BYTES).read_to_vec();
        let bytes = bytes.map_err(|error| unreachable(&self.url, error, stall))?;
        let bad =
            |error: serde_json::Error| HubError::BadReply { url: self.url.clone(), why: error.to_string() };
        serde_json::from_slice(&bytes).map_err(bad)
    }
}

impl Http {
    pub(crate) fn new(options: &HubOptions) -> Result<Self, HubError> {
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        let origin = endpoint.parse().ok().and_then(|uri| Origin::of(&uri));
        let origin = origin.ok_or_else(|| HubError::BadEndpoint { endpoint: shown(&endpoint) })?;
        let patience = options.patience.clone();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("pyrograph/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.stall))
            .timeout_per_read(Some(patience.stall))
            .timeout_per_write(Some(patience.stall))
            .build();
        Ok(Self {
            agent: config.into(),
            endpoint,
            origin,
            token: options.token.clone(),
            patience,
            network: options.network,
            was_answered: AtomicBool::new(false),
        })
    }

    /// Asks until there is an answer that is no passing fault.
    pub(crate) fn send(&self, call: &Call<'_>, tell: Tell<'_>) -> Result<Reply, HubError> {
        self.until_done(|| self.send_once(call), tell)
    }

    /// Asks, and for JSON.
    pub(crate) fn json(&self, call: &Call<'_>, tell: Tell<'_>) -> Result<Value, HubError> {
        self.until_done(|| self.send_once(call)?.json(self.patience.stall), tell)
    }

    fn until_done<T>(&self, ask: impl Fn() -> Result<T, HubError>, tell: Tell<'_>) -> Result<T, HubError> {
        let mut waits = Waits::new(&self.patience);
        loop {
            match ask() {
                Err(error) if error.is_passing() => wait_or(error, &mut waits, tell)?,
                done => return done,
            }
        }
    }

    /// Asks once, where the answer says to ask, and turns refusals into errors.
    pub(crate) fn send_once(&self, call: &Call<'_>) -> Result<Reply, HubError> {
        let mut url = call.url.clone();
        let mut headers = Vec::new();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.exchange(call, &url)?;
            let status = response.status().as_u16();
            let location = text(response.headers(), "location").map(str::to_owned);
            let is_redirect = matches!(status, 301 | 302 | 303 | 307 | 308);
            let (parts, body) = response.into_parts();
            if is_redirect && matches!(call.payload, Payload::Nothing) {
                let next = location.and_then(|location| redirected(&url, &location));
                url = next.ok_or_else(|| HubError::Redirects { url: shown(&url) })?;
                headers.push(parts.headers);
            } else if (200..300).contains(&status) {
                headers.push(parts.headers);
                return Ok(Reply { headers, body, url: shown(&url) });
            } else {
                return Err(self.refusal(call, &url, status, &parts.headers, body));
            }
        }
        Err(HubError::Redirects { url: shown(&call.url) })
    }

    /// One request and its answer.
    fn exchange(&self, call: &Call<'_>, url: &str) -> Result<Response<Body>, HubError> {
        if self.network == Network::Offline {
            return Err(HubError::Offline { url: shown(url) });
        }
        let mut request = Request::builder().method(call.method).uri(url);
        let is_ours =
            url.parse().ok().and_then(|uri| Origin::of(&uri)).is_some_and(|origin| origin == self.origin);
        if let Some(token) = self.token.as_ref().filter(|_| is_ours) {
            let value = token.authorization().ok_or(HubError::MalformedToken)?;
            request = request.header(header::AUTHORIZATION, value);
        }
        if call.from_byte > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", call.from_byte));
        }
        if let Some(content_type) = call.content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
            request = request.header(header::ACCEPT, content_type);
        }
        let bad_url = |_| HubError::Redirects { url: shown(url) };
        let sent = match &call.payload {
            Payload::Nothing => self.agent.run(request.body(()).map_err(bad_url)?),
            Payload::Bytes(bytes) => self.agent.run(request.body(&bytes[..]).map_err(bad_url)?),
            Payload::Part { path, start, n_bytes } => {
                let part = part_of(path, *start, *n_bytes).map_err(HubError::read(path))?;
                let request = request.header(header::CONTENT_LENGTH, *n_bytes);
                self.agent.run(request.body(SendBody::from_owned_reader(part)).map_err(bad_url)?)
            }
        };
        match sent {
            Ok(response) => {
                self.was_answered.store(true, Ordering::Relaxed);
                Ok(response)
            }
            Err(error) if is_of_connecting(&error) && !self.was_answered.load(Ordering::Relaxed) => {
                Err(HubError::NoConnection { url: shown(url), source: Box::new(error) })
            }
            Err(error) => Err(unreachable(&shown(url), error, self.patience.stall)),
        }
    }

    /// What an answer without success means.
    fn refusal(
        &self,
        call: &Call<'_>,
        url: &str,
        status: u16,
        headers: &HeaderMap,
        mut body: Body,
    ) -> HubError {
        let code = text(headers, "x-error-code").unwrap_or_default();
        let subject = match call.subject {
            Subject::Place(place) => Some((place, None)),
            Subject::File(place, file) => Some((place, Some(file))),
            Subject::Other => None,
        };
        match (status, code, subject) {
            (429, ..) => HubError::TooManyRequests { retry_after: retry_after(headers) },
            (500..=599, ..) => HubError::Server { url: shown(url), status },
            (401 | 403, "GatedRepo", Some((place, _))) => self.gated(place),
            (401, _, Some((place, _))) if self.token.is_none() || code == "RepoNotFound" => {
                HubError::NoToken { name: place.name.clone() }
            }
            (401, ..) => HubError::UnknownToken,
            (403, _, Some((place, _))) => HubError::Forbidden { name: place.name.clone() },
            (404, "RevisionNotFound", Some((Place { name, revision, .. }, _))) => {
                HubError::NoRevision { name: name.clone(), revision: revision.clone() }
            }
            (404, "EntryNotFound", Some((place, Some(file)))) => {
                HubError::NoFile { name: place.name.clone(), file: file.to_owned() }
            }
            (404, "RepoNotFound" | "", Some((place, None))) => {
                HubError::NoRepo { kind: place.kind, name: place.name.clone() }
            }
            (404, _, Some((place, Some(file)))) => {
                HubError::NoFile { name: place.name.clone(), file: file.to_owned() }
            }
            _ => {
                let message = text(headers, "x-error-message").map(str::to_owned);
                let message = message.or_else(|| message_of(&mut body));
                HubError::Status { url: shown(url), status, message: message.map(|text| one_line(&text)) }
            }
        }
    }

    fn gated(&self, place: &Place) -> HubError {
        let page = format!("{}/{}", self.endpoint, place.page());
        HubError::Gated { name: place.name.clone(), page, is_signed_in: self.token.is_some() }
    }

    /// The address of an API call about a repository.
    pub(crate) fn api(&self, kind: RepoKind, rest: &str) -> String {
        format!("{}/api/{}/{rest}", self.endpoint, kind.in_api())
    }
}

/// Waits for the next attempt, or gives the error back if there is none.
pub(crate) fn wait_or(error: HubError, waits: &mut Waits<'_>, tell: Tell<'_>) -> Result<(), HubError> {
    let wait = match &error {
        // That has been waiting enough.
        HubError::NoConnection { source, .. } if matches!(**source, ureq::Error::Timeout(_)) => None,
        HubError::NoConnection { .. } => waits.next_connection(),
        HubError::TooManyRequests { retry_after } => waits.next(*retry_after),
        _ => waits.next(None),
    };
    let Some(wait) = wait else { return Err(error) };
    tell(Notice::Waits { why: &error, wait });
    std::thread::sleep(wait);
    Ok(())
}

/// Scheme, host and port: who sees what is sent.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let port = match &*scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let host = uri.host()?.to_ascii_lowercase();
        Some(Self { port: uri.port_u16().unwrap_or(port), scheme, host })
    }
}

/// Where a redirection leads, if that is on the web.
fn redirected(from: &str, location: &str) -> Option<String> {
    let from: Uri = from.parse().ok()?;
    let to = if location.starts_with('/') && !location.starts_with("//") {
        format!("{}://{}{location}", from.scheme_str()?, from.authority()?)
    } else if location.starts_with("//") {
        format!("{}:{location}", from.scheme_str()?)
    } else {
        location.to_owned()
    };
    let uri: Uri = to.parse().ok()?;
    Origin::of(&uri).map(|_| to)
}

/// An address as it may be told: without its query, which may be a signature, and without a password.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://").map(|(scheme, rest)| (scheme, rest.split_once('/').unwrap_or((rest, "")))) {
        Some((scheme, (authority, path))) if authority.contains('@') => {
            format!("{scheme}://{}/{path}", authority.rsplit('@').next().unwrap_or_default())
        }
        _ => url.to_owned(),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// In seconds; the form with a date is left to the usual waits.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    text(headers, "retry-after")?.trim().parse().ok().map(Duration::from_secs)
}

/// What the body of a refusal says.
fn message_of(body: &mut Body) -> Option<String> {
    let bytes = body.with_config().limit(1 << 16).read_to_vec().ok()?;
    let json: Value = serde_json::from_slice(&bytes).ok()?;
    json["error"].as_str().or_else(|| json["message"].as_str()).map(str::to_owned)
}

/// At most a line of what somebody else wrote.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

/// Whether it is an error of the way to a server, such as a name, a proxy or a certificate, and not the server's silence.
fn is_of_connecting(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Timeout(which) => matches!(which, ureq::Timeout::Resolve | ureq::Timeout::Connect),
        ureq::Error::Io(error) => error.kind() != io::ErrorKind::TimedOut,
        _ => true,
    }
}

fn unreachable(url: &str, error: ureq::Error, stall: Duration) -> HubError {
    let url = url.to_owned();
    match error {
        ureq::Error::Timeout(_) => HubError::Stalled { url, stall },
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => HubError::Stalled { url, stall },
        error => HubError::Unreachable { url, source: Box::new(error) },
    }
}

/// The same for an error that came through a reader.
pub(crate) fn interrupted(url: &str, error: io::Error, stall: Duration) -> HubError {
    unreachable(&shown(url), ureq::Error::from(error), stall)
}

fn part_of(path: &PathBuf, start: u64, n_bytes: u64) -> io::Result<io::Take<File>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    Ok(file.take(n_bytes))
}

/// A path or revision as a part of an address.
pub(crate) fn escaped(text: &str, is_kept: fn(u8) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || is_kept(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_lead_to_the_web_only() {
        let from = "https://hub.example/org/name/resolve/main/a?x=1";
        let to = |location| redirected(from, location);
        assert_eq!(to("/b").unwrap(), "https://hub.example/b");
        assert_eq!(to("//cdn.example/b").unwrap(), "https://cdn.example/b");
        assert_eq!(to("http://cdn.example/b?sig=1").unwrap(), "http://cdn.example/b?sig=1");
        for location in ["file:///etc/passwd", "b", "", "ftp://a/b", "https://"] {
            assert_eq!(to(location), None, "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let of = |url: &str| Origin::of(&url.parse().unwrap()).unwrap();
        assert_eq!(of("https://Hub.example/a"), of("https://hub.example:443/b"));
        for other in [
            "http://hub.example",
            "https://hub.example:8443",
            "https://cdn.hub.example",
            "https://hub.example.evil",
        ] {
            assert_ne!(of("https://hub.example"), of(other), "{other}");
        }
    }

    #[test]
    fn signatures_and_passwords_are_not_shown() {
        assert_eq!(shown("https://u:p@cdn.example/a?Signature=s"), "https://cdn.example/a");
        assert_eq!(shown("https://cdn.example/a@b"), "https://cdn.example/a@b");
    }

    #[test]
    fn what_means_something_in_an_address_is_escaped() {
        assert_eq!(escaped("a b/c#?.png", |byte| byte == b'/'), "a%20b/c%23%3F.png");
        assert_eq!(escaped("refs/pr/4", |_| false), "refs%2Fpr%2F4");
    }
}

//! What can go wrong between here and the Hub.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::name::{RepoKind, RepoName};

/// Everything this crate can fail with. No variant holds a token, and addresses are without their query, which may sign them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Nobody could be connected to, since the client was made.
    #[error("no connection to `{url}`")]
    NoConnection {
        /// What was asked for.
        url: String,
        /// What the client said.
        source: Box<ureq::Error>,
    },
    /// Nothing may be asked ([`crate::Network::Offline`]).
    #[error("`{url}` may not be asked")]
    Offline {
        /// What would have been asked for.
        url: String,
    },
    /// A connection broke, or there is none any more.
    #[error("cannot reach `{url}`")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the client said.
        source: Box<ureq::Error>,
    },
    /// Nothing arrived for too long.
    #[error("`{url}` is silent for {} s", stall.as_secs_f64())]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long was waited.
        stall: Duration,
    },
    /// The connection ended within a file.
    #[error("`{file}` ended after {received} of {expected} bytes")]
    Truncated {
        /// The file in its repository.
        file: String,
        /// What is there.
        received: u64,
        /// What should be.
        expected: u64,
    },
    /// A fault of the server.
    #[error("`{url}` answers with status {status}")]
    Server {
        /// What was asked for.
        url: String,
        /// From 500 to 599.
        status: u16,
    },
    /// Too many requests.
    #[error("the Hub refuses further requests for now (status 429)")]
    TooManyRequests {
        /// How long it says to wait.
        retry_after: Option<Duration>,
    },
    /// A status that is not known here.
    #[error("`{url}` answers with status {status}{}", message.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Status {
        /// What was asked for.
        url: String,
        /// Not a success.
        status: u16,
        /// What the server says of it.
        message: Option<String>,
    },
    /// A token is needed.
    #[error("`{name}` is private or does not exist")]
    NoToken {
        /// The repository.
        name: RepoName,
    },
    /// The token is of no use.
    #[error("the Hub does not know the token (status 401)")]
    UnknownToken,
    /// The token has characters that no token has.
    #[error("the token has characters that no token has")]
    MalformedToken,
    /// Its owner wants something accepted before it is downloaded.
    #[error("access to `{name}` must be asked for")]
    Gated {
        /// The repository.
        name: RepoName,
        /// Its page.
        page: String,
        /// Whether a token was sent.
        is_signed_in: bool,
    },
    /// The token does not allow it.
    #[error("the token does not allow this for `{name}` (status 403)")]
    Forbidden {
        /// The repository.
        name: RepoName,
    },
    /// No such repository.
    #[error("there is no {kind} `{name}` on the Hub")]
    NoRepo {
        /// What was looked for.
        kind: RepoKind,
        /// Its name.
        name: RepoName,
    },
    /// No such branch, tag or commit.
    #[error("`{name}` has no revision `{revision}`")]
    NoRevision {
        /// The repository.
        name: RepoName,
        /// What it does not have.
        revision: String,
    },
    /// No such file, though the repository's list has it.
    #[error("`{name}` has no file `{file}`")]
    NoFile {
        /// The repository.
        name: RepoName,
        /// What it does not have.
        file: String,
    },
    /// Too many redirections, or one to nowhere.
    #[error("`{url}` redirects without end or to nowhere")]
    Redirects {
        /// What was asked for.
        url: String,
    },
    /// A reply that is not what the Hub would say.
    #[error("the reply of `{url}` cannot be used: {why}")]
    BadReply {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The bytes are not those of the repository.
    #[error("`{file}` was not received as it is in `{name}`: its hash is {found}, expected {expected}")]
    WrongHash {
        /// The repository.
        name: RepoName,
        /// The file in it.
        file: String,
        /// What the Hub says.
        expected: String,
        /// That of what came.
        found: String,
    },
    /// Not in the cache, and nothing may be asked.
    #[error("`{name}` at `{revision}` is not in the cache `{}`", cache.display())]
    NotCached {
        /// The repository.
        name: RepoName,
        /// The revision.
        revision: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// A file of the cache is not what it was, and cannot be downloaded again.
    #[error("`{}` in the cache is damaged", path.display())]
    DamagedCache {
        /// The file.
        path: PathBuf,
    },
    /// Not a pipeline.
    #[error("`{name}` is not a model in diffusers' layout: it has no `model_index.json`")]
    NotAPipeline {
        /// The repository.
        name: RepoName,
        /// Some of the files that it has.
        found: Vec<String>,
    },
    /// A part without weights that could be read.
    #[error("`{name}` has no {} in `{folder}`", wanted_weights(variant.as_deref()))]
    NoWeights {
        /// The repository.
        name: RepoName,
        /// The folder of the part.
        folder: String,
        /// The variant that was asked for.
        variant: Option<String>,
        /// The weight files that it has.
        found: Vec<String>,
    },
    /// A part without the file that says what it is.
    #[error("`{name}` has no `{file}`")]
    NoConfig {
        /// The repository.
        name: RepoName,
        /// What it does not have.
        file: String,
        /// Some of the files that it has.
        found: Vec<String>,
    },
    /// Nothing that samples could be read from.
    #[error("`{name}` has no data files{}", config.as_deref().map(|config| format!(" of configuration `{config}`")).unwrap_or_default())]
    NoData {
        /// The repository.
        name: RepoName,
        /// The configuration that was asked for.
        config: Option<String>,
        /// Some of the files that it has.
        found: Vec<String>,
    },
    /// Less space than the files take.
    #[error("`{}` has {free} bytes free, and {needed} are to be downloaded", dir.display())]
    DiskFull {
        /// The cache's folder.
        dir: PathBuf,
        /// Of the files that are not there yet.
        needed: u64,
        /// On that disk.
        free: u64,
    },
    /// The endpoint is no address.
    #[error("`{endpoint}` is not an address of a server")]
    BadEndpoint {
        /// What was given.
        endpoint: String,
    },
    /// A file that is to be uploaded was refused.
    #[error("the Hub does not take `{file}`: {why}")]
    UploadRefused {
        /// The file in the repository.
        file: String,
        /// What the Hub says.
        why: String,
    },
    /// A file or folder cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file or folder cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn wanted_weights(variant: Option<&str>) -> String {
    variant.map_or_else(|| "safetensors".to_owned(), |variant| format!("safetensors of variant `{variant}`"))
}

impl HubError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Write { path, source }
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::NoConnection { .. }
                | Self::Unreachable { .. }
                | Self::Stalled { .. }
                | Self::Truncated { .. }
                | Self::Server { .. }
                | Self::TooManyRequests { .. }
        )
    }

    /// Whether the Hub could not be asked or refused to answer anybody, so that the cache is the next best.
    #[must_use]
    pub fn is_of_the_network(&self) -> bool {
        self.is_passing()
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoConnection { .. } => {
                "check the network, and HF_ENDPOINT and HTTPS_PROXY if they are set; HF_HUB_OFFLINE=1 asks nothing and takes \
                 what is in the cache"
                    .to_owned()
            }
            Self::Offline { .. } => "HF_HUB_OFFLINE is set; unset it".to_owned(),
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::Truncated { .. } | Self::Server { .. } => {
                "run the same command again: what is downloaded stays; behind a mirror or proxy, set HF_ENDPOINT or HTTPS_PROXY"
                    .to_owned()
            }
            Self::TooManyRequests { .. } => "wait some minutes; with a token (HF_TOKEN) more requests are allowed".to_owned(),
            Self::NoToken { .. } => {
                "check the name; if it is private, set HF_TOKEN to a token that may read it, or run `hf auth login`".to_owned()
            }
            Self::UnknownToken | Self::MalformedToken => {
                "set HF_TOKEN to a valid token (https://huggingface.co/settings/tokens), or unset it and remove the token file"
                    .to_owned()
            }
            Self::Gated { page, is_signed_in: true, .. } => {
                format!("open {page} signed in as the token's owner and accept its conditions")
            }
            Self::Gated { page, .. } => {
                format!("open {page} and accept its conditions, then set HF_TOKEN or run `hf auth login`")
            }
            Self::Forbidden { .. } => {
                "use a token with the right to do this: https://huggingface.co/settings/tokens".to_owned()
            }
            Self::NoRepo { .. } => "check the name; a private one needs HF_TOKEN".to_owned(),
            Self::NoRevision { .. } => "check `--revision`: a branch, a tag or a commit".to_owned(),
            Self::NoFile { .. } => "it may have been changed meanwhile; run the same command again".to_owned(),
            Self::Redirects { .. } | Self::BadReply { .. } | Self::BadEndpoint { .. } => "check HF_ENDPOINT".to_owned(),
            Self::WrongHash { .. } => "nothing of it was kept; run the same command again, or check the mirror".to_owned(),
            Self::NotCached { .. } => {
                "HF_HUB_OFFLINE is set, so nothing is downloaded; unset it, or check HF_HOME and HF_HUB_CACHE".to_owned()
            }
            Self::DamagedCache { .. } => "delete it and run without HF_HUB_OFFLINE, so that it is downloaded again".to_owned(),
            Self::NotAPipeline { found, .. } | Self::NoConfig { found, .. } | Self::NoData { found, .. } => {
                format!("it has {}", listed(found))
            }
            Self::NoWeights { found, .. } if found.is_empty() => return None,
            Self::NoWeights { found, .. } => format!(
                "it has {}; a variant is named with `--variant`, and pickles (.bin) are read with `--allow-pickle` only",
                listed(found)
            ),
            Self::DiskFull { .. } => "free some space, or set HF_HUB_CACHE to a folder on another disk".to_owned(),
            Self::Write { source, .. } if is_full(source) => {
                "free some space, or set HF_HUB_CACHE to a folder on another disk, and run the same command again: what is \
                 downloaded stays"
                    .to_owned()
            }
            Self::Status { .. } | Self::UploadRefused { .. } | Self::Read { .. } | Self::Write { .. } => return None,
        })
    }
}

/// Whether the disk, the user's share of it or what a process may write is used up.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// The first few of a list.
fn listed(files: &[String]) -> String {
    const SHOWN: usize = 6;
    if files.is_empty() {
        return "no files".to_owned();
    }
    let shown: Vec<String> = files.iter().take(SHOWN).map(|file| format!("`{file}`")).collect();
    let rest = files.len().saturating_sub(SHOWN);
    if rest == 0 { shown.join(", ") } else { format!("{} and {rest} more", shown.join(", ")) }
}

//! What a repository has.

use serde::Deserialize;

use crate::cache::{is_commit, is_safe};
use crate::error::HubError;
use crate::hash::ContentId;
use crate::http::{Call, Http, Subject, escaped, shown};
use crate::name::Place;
use crate::{Tell, http};

/// A revision's files.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Debug, Clone)]
pub(crate) struct RemoteFile {
    /// It [`is_safe`].
    pub(crate) path: String,
    /// What a mirror may leave out is in the headers of the file itself.
    pub(crate) n_bytes: Option<u64>,
    pub(crate) id: Option<ContentId>,
}

/// The Hub's reply.
///
/// Source: `GET /api/models/{name}/revision/{revision}?blobs=true`, as `HfApi.model_info(files_metadata=True)` asks.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    oid: Option<String>,
    size: Option<u64>,
}

impl Listing {
    /// Asks for it.
    pub(crate) fn ask(http: &Http, place: &Place, tell: Tell<'_>) -> Result<Self, HubError> {
        let revision = escaped(&place.revision, |_| false);
        let url = http.api(place.kind, &format!("{}/revision/{revision}?blobs=true", place.name));
        let bad = |why: String| HubError::BadReply { url: shown(&url), why: http::one_line(&why) };
        let json = http.json(&Call::get(url.clone(), Subject::Place(place)), tell)?;
        let info: Info = serde_json::from_value(json).map_err(|error| bad(error.to_string()))?;
        if !is_commit(&info.sha) {
            return Err(bad(format!("`{}` is no commit", info.sha)));
        }
        let unsafe_path = info.siblings.iter().find(|sibling| !is_safe(&sibling.rfilename));
        if let Some(sibling) = unsafe_path {
            return Err(bad(format!("`{}` is no path of a file", sibling.rfilename)));
        }
        let files = info.siblings.into_iter().map(RemoteFile::from).collect();
        Ok(Self { commit: info.sha, files })
    }

    pub(crate) fn paths(&self) -> Vec<&str> {
        self.files.iter().map(|file| &*file.path).collect()
    }
}

impl From<Sibling> for RemoteFile {
    fn from(sibling: Sibling) -> Self {
        let id = match &sibling.lfs {
            Some(lfs) => lfs.sha256.as_deref().or(lfs.oid.as_deref()).and_then(ContentId::parse),
            None => sibling.blob_id.as_deref().and_then(ContentId::parse),
        };
        let n_bytes = sibling.lfs.and_then(|lfs| lfs.size).or(sibling.size);
        Self { path: sibling.rfilename, n_bytes, id }
    }
}

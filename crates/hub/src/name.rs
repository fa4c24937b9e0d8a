//! What repositories are called.

use std::fmt;

use hf_hub::{Repo, RepoType};

/// The longest name that the Hub gives.
const MAX_BYTES: usize = 96;

/// The name of a repository: `owner/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoName(String);

impl RepoName {
    /// The name, if the text is one. A text with one part or more than two is none, so that a path seldom is.
    ///
    /// Source: `validate_repo_id` of `huggingface_hub` 2.4.0, which also takes names without an owner.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, name) = text.split_once('/')?;
        let is_whole = text.len() <= MAX_BYTES && !text.contains("--") && !text.contains("..");
        (is_whole && is_part(owner) && is_part(name) && !name.ends_with(".git"))
            .then(|| Self(text.to_owned()))
    }

    /// `owner/name`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the slash.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(_, name)| name)
    }
}

fn is_part(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    !text.is_empty()
        && text.bytes().all(is_known)
        && !text.starts_with(['.', '-'])
        && !text.ends_with(['.', '-'])
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    /// Weights and configs.
    Model,
    /// Samples.
    Dataset,
}

impl RepoKind {
    /// The part of an address of the API that says so.
    pub(crate) fn in_api(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// What an address of the repository itself begins with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

impl fmt::Display for RepoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "model",
            Self::Dataset => "data set",
        })
    }
}

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: RepoName,
    pub(crate) kind: RepoKind,
    /// A branch, a tag or a commit.
    pub(crate) revision: String,
}

impl Place {
    pub(crate) fn repo(&self) -> Repo {
        let kind = match self.kind {
            RepoKind::Model => RepoType::Model,
            RepoKind::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(self.name.as_str().to_owned(), kind, self.revision.clone())
    }

    /// The path of the repository's page.
    pub(crate) fn page(&self) -> String {
        format!("{}{}", self.kind.prefix(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_an_owner_and_no_traces_of_a_path() {
        for name in ["org/name", "stable-diffusion-v1-5/stable-diffusion-v1-5", "a/b.c_d-e", "Org1/2x"] {
            assert_eq!(RepoName::parse(name).unwrap().as_str(), name);
        }
        for path in [
            "name",
            "a/b/c",
            "/a",
            "a/",
            "./a",
            "../a",
            "~/a",
            "a/..",
            "a/b--c",
            "a/b.git",
            "a b/c",
            "a\\b/c",
            "",
            "C:/models",
            "a/-b",
            "a/b.",
        ] {
            assert_eq!(RepoName::parse(path), None, "{path}");
        }
        assert_eq!(RepoName::parse(&format!("a/{}", "b".repeat(95))), None);
    }
}

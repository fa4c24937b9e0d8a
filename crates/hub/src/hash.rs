//! The names that git and git-lfs give to contents.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What a file's contents are called: the name of its blob in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContentId {
    /// The SHA-256 of a file that git-lfs keeps.
    Lfs(String),
    /// The SHA-1 of a git blob: of a header with the length, and the contents.
    Git(String),
}

impl ContentId {
    /// The id in a header or file name; `None` if it is no hash.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_hash = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match text.len() {
            64 if is_hash => Some(Self::Lfs(text.to_owned())),
            40 if is_hash => Some(Self::Git(text.to_owned())),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Lfs(hash) | Self::Git(hash) => hash,
        }
    }

    /// The hash of a file, of the same kind.
    pub(crate) fn of_file(&self, path: &Path) -> io::Result<String> {
        let mut file = File::open(path)?;
        match self {
            Self::Lfs(_) => hash(Sha256::new(), &mut file),
            Self::Git(_) => {
                let header = format!("blob {}\0", file.metadata()?.len());
                hash(Sha1::new_with_prefix(header), &mut file)
            }
        }
    }
}

/// The SHA-256 of a file.
pub(crate) fn sha256_of(path: &Path) -> io::Result<String> {
    hash(Sha256::new(), &mut File::open(path)?)
}

/// The SHA-256 of a text.
pub(crate) fn sha256_of_text(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// Takes in a file; in lower-case hexadecimal digits.
fn hash(mut hasher: impl Digest, file: &mut File) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(hex(&hasher.finalize()))
}

/// Bytes in lower-case digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_git_lfs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hello");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object hello` and `sha256sum hello`.
        let git = ContentId::parse("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        assert_eq!(git.of_file(&path).unwrap(), git.as_str());
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(sha256_of(&path).unwrap(), sha256);
        assert_eq!(ContentId::parse(sha256).unwrap(), ContentId::Lfs(sha256.to_owned()));
    }

    #[test]
    fn what_is_no_hash_is_no_id() {
        for text in ["", "../../etc/passwd", &"g".repeat(40), &"A".repeat(64), &"0".repeat(41)] {
            assert_eq!(ContentId::parse(text), None, "{text}");
        }
    }
}

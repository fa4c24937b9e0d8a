//! The pictures of a validation, as they lie in its folder.

use std::fmt;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ImageFormat, ImageReader};

/// What a picture of a validation is called: `pair-0-hint`, `pair-0-target`, `pair-0-image-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PictureName {
    pub(crate) pair_idx: usize,
    pub(crate) kind: Kind,
}

/// What a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// What the model is told.
    Hint,
    /// What it should draw.
    Target,
    /// What it draws; the index counts pictures of the same pair.
    Drawn(usize),
}

impl PictureName {
    /// The names of all pictures in a folder, pair by pair; none if there is no such folder.
    pub(crate) fn list(dir: &Path) -> Vec<Self> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<Self> =
            entries.filter_map(|entry| Self::parse(entry.file_name().to_str()?)).collect();
        names.sort_unstable();
        names
    }

    fn parse(file: &str) -> Option<Self> {
        let (pair_idx, kind) = file.strip_prefix("pair-")?.strip_suffix(".png")?.split_once('-')?;
        let kind = match kind {
            "hint" => Kind::Hint,
            "target" => Kind::Target,
            drawn => Kind::Drawn(drawn.strip_prefix("image-")?.parse().ok()?),
        };
        Some(Self { pair_idx: pair_idx.parse().ok()?, kind })
    }

    fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{self}.png"))
    }
}

impl fmt::Display for PictureName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pair_idx, kind } = self;
        match kind {
            Kind::Hint => write!(f, "pair-{pair_idx}-hint"),
            Kind::Target => write!(f, "pair-{pair_idx}-target"),
            Kind::Drawn(image_idx) => write!(f, "pair-{pair_idx}-image-{image_idx}"),
        }
    }
}

/// A PNG file and its size in pixels.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) png: Vec<u8>,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Picture {
    /// Reads a picture; `None` if it is missing or is no PNG file.
    pub(crate) fn read(dir: &Path, name: PictureName) -> Option<Self> {
        let png = fs::read(name.path(dir)).ok()?;
        let header = ImageReader::with_format(Cursor::new(&png), ImageFormat::Png);
        let (width, height) = header.into_dimensions().ok()?;
        Some(Self { png, width, height })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_other_files_are_ignored() {
        for name in ["pair-0-hint", "pair-3-target", "pair-12-image-4"] {
            let parsed = PictureName::parse(&format!("{name}.png")).expect("a name");
            assert_eq!(parsed.to_string(), name);
        }
        for other in ["grid.png", "pair-0-hint.jpg", "pair-x-hint.png", "pair-0-image-.png", "pair-0.png"] {
            assert_eq!(PictureName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_damaged_picture_is_no_picture() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("pair-0-hint.png"), b"\x89PNG\r\n\x1a\nnonsense").expect("written");
        let names = PictureName::list(dir.path());
        assert_eq!(names.len(), 1);
        assert!(Picture::read(dir.path(), names[0]).is_none());
        assert!(PictureName::list(&dir.path().join("missing")).is_empty());
    }
}

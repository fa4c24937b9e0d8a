//! What can be found in a data set.

use std::fmt;

use serde::Serialize;

use super::Misplacement;

/// Something found in a row of a data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// The row is no sample: a column, file or partner is missing, or a path leads out of the folder.
    UnusableRow {
        /// Why.
        message: String,
    },
    /// The image cannot be decoded.
    UnreadableImage {
        /// Why.
        message: String,
    },
    /// The hint cannot be decoded.
    UnreadableHint {
        /// Why.
        message: String,
    },
    /// Image and hint have different shapes.
    OtherShape {
        /// Width and height.
        image: (u32, u32),
        /// Width and height.
        hint: (u32, u32),
    },
    /// All pixels of the image are alike.
    BlankImage,
    /// All pixels of the hint are alike.
    BlankHint,
    /// The hint shows the very image.
    HintIsImage,
    /// The hint lies elsewhere than what it shows.
    Misplaced {
        /// Where.
        hint: Misplacement,
    },
    /// Image and hint are, byte for byte, those of another row.
    DuplicatePair {
        /// The first one.
        of: String,
    },
    /// The image is, byte for byte, that of another row, whose hint is another.
    DuplicateImage {
        /// The first one.
        of: String,
    },
    /// The hint is, byte for byte, that of another row, whose image is another.
    DuplicateHint {
        /// The first one.
        of: String,
    },
    /// The image looks like that of another row: a copy of another size or compression.
    LooksLike {
        /// The first one.
        of: String,
    },
    /// The hint has another size than its image, but its shape; it is resized.
    OtherSize {
        /// Width and height.
        image: (u32, u32),
        /// Width and height.
        hint: (u32, u32),
    },
    /// A caption says nothing.
    EmptyCaption,
    /// A caption is longer than the text encoder reads.
    LongCaption {
        /// Tokens that are left out.
        n_cut: usize,
    },
}

impl Finding {
    /// Whether training is harmed by it; else it is worth knowing.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        match self {
            Self::UnusableRow { .. }
            | Self::UnreadableImage { .. }
            | Self::UnreadableHint { .. }
            | Self::OtherShape { .. }
            | Self::BlankImage
            | Self::BlankHint
            | Self::HintIsImage
            | Self::Misplaced { .. }
            | Self::DuplicatePair { .. } => true,
            Self::DuplicateImage { .. }
            | Self::DuplicateHint { .. }
            | Self::LooksLike { .. }
            | Self::OtherSize { .. }
            | Self::EmptyCaption
            | Self::LongCaption { .. } => false,
        }
    }

    /// What findings of this kind have in common, for a table.
    #[must_use]
    pub fn title(&self) -> &'static str {
        match self {
            Self::UnusableRow { .. } => "rows that are no sample",
            Self::UnreadableImage { .. } => "images that cannot be read",
            Self::UnreadableHint { .. } => "hints that cannot be read",
            Self::OtherShape { .. } => "hints of another shape than their image",
            Self::BlankImage => "blank images",
            Self::BlankHint => "blank hints",
            Self::HintIsImage => "hints that are their image",
            Self::Misplaced { .. } => "hints that lie elsewhere",
            Self::DuplicatePair { .. } => "pairs that are there already",
            Self::DuplicateImage { .. } => "images that are there already, with another hint",
            Self::DuplicateHint { .. } => "hints that are there already, with another image",
            Self::LooksLike { .. } => "images that look like another",
            Self::OtherSize { .. } => "hints of another size than their image",
            Self::EmptyCaption => "empty captions",
            Self::LongCaption { .. } => "captions that are cut",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnusableRow { message } => f.write_str(message),
            Self::UnreadableImage { message } => write!(f, "image: {message}"),
            Self::UnreadableHint { message } => write!(f, "hint: {message}"),
            Self::OtherShape { image, hint } | Self::OtherSize { image, hint } => {
                write!(f, "the image is {}x{} px and its hint {}x{} px", image.0, image.1, hint.0, hint.1)
            }
            Self::BlankImage => f.write_str("the image is blank"),
            Self::BlankHint => f.write_str("the hint is blank"),
            Self::HintIsImage => f.write_str("the hint is the image"),
            Self::Misplaced { hint } => write!(f, "the hint is {hint}"),
            Self::DuplicatePair { of } => write!(f, "the pair of {of}"),
            Self::DuplicateImage { of } => write!(f, "the image of {of}"),
            Self::DuplicateHint { of } => write!(f, "the hint of {of}"),
            Self::LooksLike { of } => write!(f, "looks like {of}"),
            Self::EmptyCaption => f.write_str("the caption is empty"),
            Self::LongCaption { n_cut } => write!(f, "tokens of the caption that are cut off: {n_cut}"),
        }
    }
}

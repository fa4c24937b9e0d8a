//! What to do about what is wrong with a data set.

use super::{DataError, PathFault};
use crate::hints::HintMaker;

impl DataError {
    /// What the user can do about it, if there is something to say beyond the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Row { source, .. } => match source.as_ref() {
                Self::Decode { .. } | Self::DecoderPanicked { .. } => {
                    "png, jpeg, webp, bmp, tiff and gif are read; replace the file or remove its row"
                }
                Self::MissingFile { .. } => "restore the file or remove its row",
                source => return source.hint(),
            },
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "check the path; it starts at the current folder"
            }
            Self::MissingColumn { flag, column, columns } => {
                return Some(match near_name(column, columns) {
                    Some(near) => format!("did you mean `--{flag} {near}`?"),
                    None => format!("give one of those columns as `--{flag}`"),
                });
            }
            Self::InvalidSide { value, max } => {
                let below = (value / 8 * 8).clamp(8, *max);
                let above = value.div_ceil(8).saturating_mul(8).clamp(8, *max);
                return Some(if below == above {
                    format!("use {below}")
                } else {
                    format!("use {below} or {above}")
                });
            }
            Self::UnknownLayout { .. } => {
                "a data set is a folder with `metadata.jsonl`, `.csv` or `.parquet` (also in `train/`), with fill50k's \
                 `prompt.json`, with Parquet files, webdataset tar archives or what `save_to_disk` wrote, with two \
                 folders `images` and `conditioning_images` of equally named files and `.txt` captions, or one of these \
                 files itself; images and hints in two places are given as `--train_data_dir` and \
                 `--conditioning_data_dir`"
            }
            Self::AmbiguousLayout { .. } => "keep one of them, or point to a folder that has only one",
            Self::UnknownHint { name } => {
                let names =
                    HintMaker::FORMS.map(|form| form.split([':', '[']).next().unwrap_or(form).to_owned());
                return near_name(name, &names).map(|near| format!("did you mean `{near}`?"));
            }
            Self::UnknownMask { .. } => "masks are any, rectangles, strokes and outpaint",
            Self::TooFewSamples { .. } => "lower `--max_train_samples` or leave it out",
            Self::InvalidJson { .. } => {
                r#"a row looks like {"file_name": "images/0.png", "conditioning_image_file_name": "hints/0.png", "text": "a circle"}"#
            }
            Self::UnsafePath { fault: PathFault::LinkOutside, .. } => {
                "copy the files into the data set's folder, or point to the folder that holds them"
            }
            Self::UnsafePath { .. } => "paths are relative to the metadata file and stay below its folder",
            Self::Unpaired { without_caption, .. } if !without_caption.is_empty() => {
                "the caption of `image/0.png` is the text file `image/0.txt`; an empty file is an empty caption"
            }
            Self::Unpaired { .. } => "an image and its hint have the same name up to the last dot",
            Self::AspectMismatch { .. } => {
                "make the hint from the very image it belongs to; if the image is rotated by an EXIF tag, the hint \
                 must be rotated too"
            }
            Self::Decode { .. } | Self::DecoderPanicked { .. } => {
                "png, jpeg, webp, bmp, tiff and gif are read"
            }
            Self::TooManyLeftOut { .. } => {
                "`pyrograph data check` lists all that is wrong; `--max_bad_samples` sets how many may be left out"
            }
            Self::UnknownSplit { .. } => "name one of them as `--dataset_split`",
            Self::UnknownConfig { .. } => "name one of them as `--dataset_config_name`, or leave it out",
            Self::DamagedTable { .. } => "copy or download the file again",
            Self::FewerRows { .. } | Self::Changed { .. } => {
                "leave the files of a data set alone while they are trained on"
            }
            Self::CursorOutOfRange { .. } => "resume with the data set and the batch size of the checkpoint",
            Self::OutputExists { .. } => "give another name",
            Self::OutputNotEmpty { .. } => "give a folder that does not exist yet",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn near_name<'a>(wanted: &str, names: &'a [String]) -> Option<&'a String> {
    names
        .iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name)
}

//! Looks at every row of a data set before it is trained on, and says what is wrong with it. Nothing is changed.

mod alignment;
mod fault;
mod likeness;
mod sheet;
mod stats;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::RgbImage;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde::Serialize;

use self::likeness::Print;
use crate::content::Content;
use crate::decode::EncodedPicture;
use crate::error::DataError;
use crate::geometry::Side;
use crate::quarantine::Quarantine;
use crate::resize::{Interpolation, resize};
use crate::source::{Sample, row_name};
use crate::transform::have_one_shape;

pub use alignment::Misplacement;
pub use fault::Finding;
pub use stats::DataStats;

/// A picture is blank if no channel differs by more than so many levels.
const BLANK_LEVELS: u8 = 2;
/// A pixel is grey if its channels differ by no more.
const GREY_LEVELS: u8 = 4;

/// How captions are measured.
#[derive(Clone, Copy)]
pub struct Ruler<'a> {
    /// `tokens` or `words`.
    pub unit: &'static str,
    /// The length of a caption in that unit.
    pub length: &'a (dyn Fn(&str) -> usize + Sync),
    /// What is beyond is not read, if that is known.
    pub limit: Option<usize>,
}

/// How a data set is checked.
#[derive(Clone, Copy)]
pub struct CheckOptions<'a> {
    /// Whether hints are read; else they are made of the images, and there are none to check.
    pub has_hints: bool,
    /// Image and hint are compared with the shorter side no longer than this: the resolution of the training.
    pub side: Side,
    /// How captions are measured.
    pub ruler: Ruler<'a>,
    /// Told how many rows are done.
    pub on_progress: &'a (dyn Fn(usize) + Sync),
}

/// What was found in a data set.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// Rows that were looked at.
    pub n_rows: usize,
    /// Rows with a fault.
    pub n_faulty: usize,
    /// What was found in which rows, in their order.
    pub rows: Vec<CheckedRow>,
    /// The share of images without colours.
    pub grey_share: f64,
    /// How long captions are.
    pub captions: CaptionLengths,
}

/// A row with a finding.
#[derive(Debug, Clone, Serialize)]
pub struct CheckedRow {
    /// Counted from 0.
    pub row: usize,
    /// The sample's id, or file and line of a row that is no sample.
    pub name: String,
    /// All of them.
    pub findings: Vec<Finding>,
}

/// How long captions are.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CaptionLengths {
    /// `tokens`, or `words` if no tokenizer was at hand.
    pub unit: &'static str,
    /// Captions of all samples.
    pub n_captions: usize,
    /// Those that say nothing.
    pub n_empty: usize,
    /// Over all captions.
    pub mean: f64,
    /// The longest.
    pub max: usize,
    /// Captions that are cut off, if it is known where.
    pub n_cut: Option<usize>,
}

impl CheckReport {
    /// The faulty rows, each with its first fault.
    #[must_use]
    pub fn quarantine(&self) -> Quarantine {
        let mut quarantine = Quarantine::default();
        for row in &self.rows {
            if let Some(fault) = row.findings.iter().find(|finding| finding.is_fault()) {
                quarantine.add(row.name.clone(), fault.to_string());
            }
        }
        quarantine
    }

    /// Findings by their titles, faults first, with the names of their rows.
    #[must_use]
    pub fn by_title(&self) -> Vec<(&'static str, Vec<(&str, &Finding)>)> {
        let mut found: BTreeMap<(bool, &'static str), Vec<(&str, &Finding)>> = BTreeMap::new();
        for row in &self.rows {
            for finding in &row.findings {
                let key = (!finding.is_fault(), finding.title());
                found.entry(key).or_default().push((&row.name, finding));
            }
        }
        found.into_iter().map(|((_, title), rows)| (title, rows)).collect()
    }
}

/// Decodes the pictures of all rows with all threads and looks for faults in them and in captions.
///
/// `dir` is the data set's folder, within which rows that are no samples are named.
#[must_use]
pub fn check(rows: &[Result<Sample, DataError>], dir: &Path, options: &CheckOptions<'_>) -> CheckReport {
    let n_done = AtomicUsize::new(0);
    let measured: Vec<Measured> = rows
        .par_iter()
        .map(|row| {
            let measured = match row {
                Ok(sample) => Measured::of(sample, dir, options),
                Err(error) => Measured {
                    findings: vec![Finding::UnusableRow { message: told(error, dir) }],
                    ..Measured::default()
                },
            };
            (options.on_progress)(n_done.fetch_add(1, Ordering::Relaxed) + 1);
            measured
        })
        .collect();
    let names: Vec<String> = rows.iter().map(|row| row_name(row, dir)).collect();
    let captions = caption_lengths(rows, options.ruler);
    let images = || measured.iter().filter_map(|measured| measured.image.as_ref());
    let grey_share = share(images().filter(|image| image.is_grey).count(), images().count());
    let mut findings: Vec<Vec<Finding>> = measured.iter().map(|measured| measured.findings.clone()).collect();
    for (row, finding) in repeated(&measured, &names) {
        findings[row].push(finding);
    }
    let checked = findings.into_iter().zip(names).enumerate();
    let checked: Vec<CheckedRow> = checked
        .filter(|(_, (findings, _))| !findings.is_empty())
        .map(|(row, (findings, name))| CheckedRow { row, name, findings })
        .collect();
    let n_faulty = checked.iter().filter(|row| row.findings.iter().any(Finding::is_fault)).count();
    CheckReport { n_rows: rows.len(), n_faulty, rows: checked, grey_share, captions }
}

/// Draws a contact sheet of at most `n_pairs` rows: those with faults first, in a red frame, then rows without. Each is the
/// image, its hint, and the hint in red on the image.
#[must_use]
pub fn contact_sheet(
    rows: &[Result<Sample, DataError>],
    report: &CheckReport,
    has_hints: bool,
    n_pairs: usize,
) -> RgbImage {
    let faulty: Vec<usize> = report
        .rows
        .iter()
        .filter(|row| row.findings.iter().any(Finding::is_fault))
        .map(|row| row.row)
        .filter(|row| rows[*row].is_ok())
        .collect();
    let well = (0..rows.len()).filter(|row| rows[*row].is_ok() && !faulty.contains(row));
    let n_well = n_pairs.saturating_sub(faulty.len());
    let chosen: Vec<(bool, usize)> = faulty
        .iter()
        .map(|row| (true, *row))
        .take(n_pairs)
        .chain(well.take(n_well).map(|row| (false, row)))
        .collect();
    let pictures = |row: &usize| {
        let Ok(sample) = &rows[*row] else { return Vec::new() };
        let thumbnail =
            |content: &Content| content.decode_rgb8().ok().map(|picture| sheet::thumbnail(&picture));
        let image = thumbnail(&sample.image);
        let hint = if has_hints { thumbnail(&sample.hint) } else { None };
        let both = image.as_ref().zip(hint.as_ref()).map(|(image, hint)| sheet::overlaid(image, hint));
        [image, hint, both].into_iter().flatten().collect()
    };
    let pairs: Vec<(bool, Vec<RgbImage>)> =
        chosen.par_iter().map(|(is_faulty, row)| (*is_faulty, pictures(row))).collect();
    sheet::sheet(&pairs)
}

/// What is known of a row.
#[derive(Debug, Default)]
struct Measured {
    image: Option<ImageFacts>,
    hint_hash: Option<[u8; 32]>,
    findings: Vec<Finding>,
}

#[derive(Debug)]
struct ImageFacts {
    hash: [u8; 32],
    print: Print,
    is_grey: bool,
}

impl Measured {
    fn of(sample: &Sample, dir: &Path, options: &CheckOptions<'_>) -> Self {
        let mut measured = Self::default();
        measured.read_captions(sample, options.ruler);
        let image = match decoded(&sample.image, dir) {
            Ok((hash, image)) => {
                let (print, is_grey) = (Print::of(&image), is_grey(&image));
                measured.image = Some(ImageFacts { hash, print, is_grey });
                Some(image)
            }
            Err(message) => {
                measured.findings.push(Finding::UnreadableImage { message });
                None
            }
        };
        if image.as_ref().is_some_and(is_blank) {
            measured.findings.push(Finding::BlankImage);
        }
        if options.has_hints {
            match decoded(&sample.hint, dir) {
                Ok((hash, hint)) => {
                    measured.hint_hash = Some(hash);
                    measured.compare(image.as_ref(), &hint, options.side);
                }
                Err(message) => measured.findings.push(Finding::UnreadableHint { message }),
            }
        }
        measured
    }

    fn read_captions(&mut self, sample: &Sample, ruler: Ruler<'_>) {
        if sample.captions.iter().any(|caption| caption.trim().is_empty()) {
            self.findings.push(Finding::EmptyCaption);
        }
        let longest = sample.captions.iter().map(|caption| (ruler.length)(caption)).max().unwrap_or(0);
        let n_cut = ruler.limit.map_or(0, |limit| longest.saturating_sub(limit));
        if n_cut > 0 {
            self.findings.push(Finding::LongCaption { n_cut });
        }
    }

    fn compare(&mut self, image: Option<&RgbImage>, hint: &RgbImage, side: Side) {
        let is_hint_blank = is_blank(hint);
        if is_hint_blank {
            self.findings.push(Finding::BlankHint);
        }
        let Some(image) = image else { return };
        let (image_size, hint_size) = (image.dimensions(), hint.dimensions());
        if !have_one_shape(image_size, hint_size) {
            self.findings.push(Finding::OtherShape { image: image_size, hint: hint_size });
            return;
        }
        if image_size != hint_size {
            self.findings.push(Finding::OtherSize { image: image_size, hint: hint_size });
        }
        if is_hint_blank || is_blank(image) {
            return;
        }
        if image == hint {
            self.findings.push(Finding::HintIsImage);
            return;
        }
        let (width, height) = compared_size(image_size, side);
        let [image, hint] =
            [image, hint].map(|picture| resize(picture, width, height, Interpolation::Bilinear));
        if let Some(hint) = alignment::misplacement(&image, &hint) {
            self.findings.push(Finding::Misplaced { hint });
        }
    }
}

/// The image's own size, or with the shorter side as long as that of the training.
fn compared_size((width, height): (u32, u32), side: Side) -> (u32, u32) {
    let shorter = width.min(height);
    if shorter <= side.pixels() {
        return (width, height);
    }
    let scaled = |length: u32| {
        let scaled = u64::from(length) * u64::from(side.pixels()) / u64::from(shorter);
        u32::try_from(scaled).unwrap_or(u32::MAX)
    };
    (scaled(width), scaled(height))
}

/// The hash of a picture's file, and its pixels.
fn decoded(content: &Content, dir: &Path) -> Result<([u8; 32], RgbImage), String> {
    let decoded = || {
        let file = EncodedPicture::read(content)?;
        Ok((*blake3::hash(file.bytes()).as_bytes(), file.decode()?))
    };
    decoded().map_err(|error: DataError| told(&error, dir))
}

fn is_blank(picture: &RgbImage) -> bool {
    let Some(first) = picture.pixels().next() else { return true };
    let (mut least, mut most) = (first.0, first.0);
    for pixel in picture.pixels() {
        for channel in 0..3 {
            least[channel] = least[channel].min(pixel.0[channel]);
            most[channel] = most[channel].max(pixel.0[channel]);
        }
    }
    (0..3).all(|channel| most[channel] - least[channel] <= BLANK_LEVELS)
}

fn is_grey(picture: &RgbImage) -> bool {
    let range = |[red, green, blue]: [u8; 3]| red.max(green).max(blue) - red.min(green).min(blue);
    picture.pixels().all(|pixel| range(pixel.0) <= GREY_LEVELS)
}

/// Rows whose files, or what they look like, were there before.
fn repeated(measured: &[Measured], names: &[String]) -> Vec<(usize, Finding)> {
    let mut found = Vec::new();
    let (mut images, mut hints, mut pairs) = (HashMap::new(), HashMap::new(), HashMap::new());
    let mut prints = Vec::new();
    for (row, Measured { image, hint_hash, .. }) in measured.iter().enumerate() {
        let Some(image) = image else { continue };
        let of = |first: usize| names[first].clone();
        let first_pair = *pairs.entry((image.hash, *hint_hash)).or_insert(row);
        if first_pair != row {
            found.push((row, Finding::DuplicatePair { of: of(first_pair) }));
            continue;
        }
        let first_image = *images.entry(image.hash).or_insert(row);
        if first_image != row {
            found.push((row, Finding::DuplicateImage { of: of(first_image) }));
        } else {
            prints.push((row, image.print.clone()));
        }
        if let Some(hash) = hint_hash {
            let first_hint = *hints.entry(*hash).or_insert(row);
            if first_hint != row {
                found.push((row, Finding::DuplicateHint { of: of(first_hint) }));
            }
        }
    }
    let alike = likeness::alike(&prints).into_iter();
    found.extend(alike.map(|(row, first)| (row, Finding::LooksLike { of: names[first].clone() })));
    found
}

fn caption_lengths(rows: &[Result<Sample, DataError>], ruler: Ruler<'_>) -> CaptionLengths {
    let captions: Vec<&String> = rows.iter().flatten().flat_map(|sample| &sample.captions).collect();
    let lengths: Vec<usize> = captions.par_iter().map(|caption| (ruler.length)(caption)).collect();
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 tokens")]
    let mean = lengths.iter().sum::<usize>() as f64 / lengths.len().max(1) as f64;
    CaptionLengths {
        unit: ruler.unit,
        n_captions: captions.len(),
        n_empty: captions.iter().filter(|caption| caption.trim().is_empty()).count(),
        mean,
        max: lengths.iter().copied().max().unwrap_or(0),
        n_cut: ruler.limit.map(|limit| lengths.iter().filter(|length| **length > limit).count()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 rows")]
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// An error with its causes, with paths from the data set's folder on. The row is told beside.
fn told(error: &DataError, dir: &Path) -> String {
    let error = match error {
        DataError::Row { source, .. } => source,
        error => error,
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    let within = format!("{}/", dir.display());
    text.replace(&within, "")
}

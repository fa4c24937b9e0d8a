//! The validation pictures of a run, few enough for one page and each of them once.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::picture::{Kind, Picture, PictureName};
use crate::run::Run;

/// What a page can hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Validations on the page.
    pub(crate) n_frames: usize,
    /// Rows on the page.
    pub(crate) n_rows: usize,
    /// Bytes of all PNG files together.
    pub(crate) bytes: usize,
}

/// Pages of this size still open at once on a phone.
pub(crate) const LIMITS: Limits = Limits { n_frames: 40, n_rows: 12, bytes: 24_000_000 };

/// The pictures of a page; a cell names its picture by its place in `pictures`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Gallery {
    /// `data:` addresses.
    pub(crate) pictures: Vec<String>,
    /// One for each validation that is shown, in the order of steps.
    pub(crate) frames: Vec<Frame>,
    #[serde(skip)]
    pub(crate) rows: Vec<Row>,
    /// Validations of the run, shown or not.
    #[serde(skip)]
    pub(crate) n_validations: usize,
    /// Rows that did not fit.
    #[serde(skip)]
    pub(crate) n_rows_left_out: usize,
}

/// One validation.
#[derive(Debug, Serialize)]
pub(crate) struct Frame {
    /// Optimizer steps made.
    pub(crate) step: u64,
    /// One for each row.
    pub(crate) cells: Vec<Cell>,
}

/// The pictures of one row at one validation.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) hint: Option<usize>,
    pub(crate) target: Option<usize>,
    pub(crate) drawn: Option<usize>,
}

/// What stays the same in a row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) pair_idx: usize,
    pub(crate) image_idx: usize,
    pub(crate) prompt: Option<String>,
    /// Width and height in pixels.
    pub(crate) size: (u32, u32),
}

impl Gallery {
    /// Reads the pictures of a run's validations; what is missing or damaged is left out.
    ///
    /// The first and the last validation are always kept; of those between, as many as fit, evenly chosen.
    pub(crate) fn read(run_dir: &Path, run: &Run, limits: Limits) -> Self {
        let steps: Vec<u64> =
            run.validations.keys().copied().filter(|step| !list(run_dir, *step).is_empty()).collect();
        let mut n_frames = limits.n_frames.min(steps.len());
        loop {
            let (gallery, bytes) = Self::of_steps(run_dir, run, &steps, n_frames, limits.n_rows);
            if bytes <= limits.bytes || n_frames <= 2 {
                return gallery;
            }
            n_frames = (n_frames * limits.bytes / bytes).clamp(2, n_frames - 1);
        }
    }

    fn of_steps(run_dir: &Path, run: &Run, steps: &[u64], n_frames: usize, n_rows: usize) -> (Self, usize) {
        let mut album = Album::default();
        let chosen: Vec<u64> = even_choice(steps.len(), n_frames).map(|idx| steps[idx]).collect();
        let names: BTreeSet<(usize, usize)> = chosen
            .iter()
            .flat_map(|step| list(run_dir, *step))
            .filter_map(|name| match name.kind {
                Kind::Drawn(image_idx) => Some((name.pair_idx, image_idx)),
                Kind::Hint | Kind::Target => None,
            })
            .collect();
        let prompts = run.validations.values().rev().map(|validation| &validation.prompts);
        let prompts = prompts.into_iter().find(|prompts| !prompts.is_empty());
        let mut rows: Vec<Row> = names
            .iter()
            .take(n_rows)
            .map(|&(pair_idx, image_idx)| Row {
                pair_idx,
                image_idx,
                prompt: prompts.and_then(|prompts| prompts.get(pair_idx).cloned()),
                size: (1, 1),
            })
            .collect();
        let mut frames = Vec::with_capacity(chosen.len());
        for step in chosen {
            let dir = folder(run_dir, step);
            let mut cells = Vec::with_capacity(rows.len());
            for row in &mut rows {
                let mut add = |kind| {
                    let picture = Picture::read(&dir, PictureName { pair_idx: row.pair_idx, kind })?;
                    row.size = (picture.width, picture.height);
                    Some(album.add(picture.png))
                };
                cells.push(Cell {
                    hint: add(Kind::Hint),
                    target: add(Kind::Target),
                    drawn: add(Kind::Drawn(row.image_idx)),
                });
            }
            frames.push(Frame { step, cells });
        }
        let gallery = Self {
            pictures: album.addresses,
            frames,
            n_validations: steps.len(),
            n_rows_left_out: names.len() - rows.len(),
            rows,
        };
        (gallery, album.bytes)
    }

    /// Whether any validation has a picture to compare with.
    pub(crate) fn has_targets(&self) -> bool {
        self.frames.iter().flat_map(|frame| &frame.cells).any(|cell| cell.target.is_some())
    }
}

/// Pictures, each of them once.
#[derive(Default)]
struct Album {
    places: HashMap<Vec<u8>, usize>,
    addresses: Vec<String>,
    bytes: usize,
}

impl Album {
    fn add(&mut self, png: Vec<u8>) -> usize {
        *self.places.entry(png).or_insert_with_key(|png| {
            self.bytes += png.len();
            self.addresses.push(format!("data:image/png;base64,{}", STANDARD.encode(png)));
            self.addresses.len() - 1
        })
    }
}

/// A run that was moved still has its pictures, so their folder follows from the run's and not from the record.
fn folder(run_dir: &Path, step: u64) -> PathBuf {
    run_dir.join("validation").join(format!("step-{step:06}"))
}

fn list(run_dir: &Path, step: u64) -> Vec<PictureName> {
    PictureName::list(&folder(run_dir, step))
}

/// At most `n` of the numbers below `len`, evenly spaced, with the first and the last.
fn even_choice(len: usize, n: usize) -> impl Iterator<Item = usize> {
    let n = n.min(len);
    (0..n).map(move |idx| if n == 1 { len - 1 } else { idx * (len - 1) / (n - 1) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::{Rgb, RgbImage};

    use super::*;
    use crate::record::Record;

    /// A run with one pair, whose hint never changes, and a noisy picture at each of some steps.
    fn run(n_validations: u64) -> (tempfile::TempDir, Run) {
        let dir = tempfile::tempdir().expect("a folder");
        let mut records = Vec::new();
        for step in 0..n_validations {
            let folder = folder(dir.path(), step);
            fs::create_dir_all(&folder).expect("a folder");
            let shade = u8::try_from(step).expect("few steps");
            for (name, color) in [("hint", [0, 0, 0]), ("image-0", [255, shade, 0])] {
                let picture = RgbImage::from_pixel(8, 4, Rgb(color));
                picture.save(folder.join(format!("pair-0-{name}.png"))).expect("written");
            }
            let line = format!("{{\"event\":\"validation\",\"step\":{step},\"prompts\":[\"a cat\"]}}");
            records.extend(Record::parse(line.as_bytes()));
        }
        (dir, Run::from_records(records))
    }

    #[test]
    fn a_picture_that_never_changes_is_held_once() {
        let (dir, run) = run(5);
        let gallery = Gallery::read(dir.path(), &run, LIMITS);
        assert_eq!((gallery.frames.len(), gallery.pictures.len()), (5, 6));
        assert!(gallery.frames.iter().all(|frame| frame.cells[0].hint == gallery.frames[0].cells[0].hint));
        assert_eq!(gallery.rows[0].prompt.as_deref(), Some("a cat"));
        assert_eq!(gallery.rows[0].size, (8, 4));
    }

    #[test]
    fn too_many_validations_keep_the_first_the_last_and_some_between() {
        let (dir, run) = run(30);
        let steps = |limits| -> Vec<u64> {
            Gallery::read(dir.path(), &run, limits).frames.iter().map(|frame| frame.step).collect()
        };
        assert_eq!(steps(Limits { n_frames: 4, ..LIMITS }), [0, 9, 19, 29]);
        assert_eq!(steps(Limits { bytes: 0, ..LIMITS }), [0, 29]);
        let some = steps(Limits { bytes: 700, ..LIMITS });
        assert!(some.len() > 2 && some.len() < 30 && some.ends_with(&[29]), "{some:?}");
    }

    #[test]
    fn even_choices_have_both_ends() {
        let choice = |len, n| even_choice(len, n).collect::<Vec<_>>();
        assert_eq!(choice(0, 40), [0; 0]);
        assert_eq!(choice(1, 40), [0]);
        assert_eq!(choice(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(choice(101, 3), [0, 50, 100]);
    }

    #[test]
    fn a_validation_whose_pictures_are_gone_is_left_out() {
        let (dir, run) = run(3);
        fs::remove_dir_all(folder(dir.path(), 1)).expect("removed");
        fs::write(folder(dir.path(), 2).join("pair-0-image-0.png"), b"half").expect("written");
        let gallery = Gallery::read(dir.path(), &run, LIMITS);
        assert_eq!(gallery.frames.iter().map(|frame| frame.step).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(gallery.frames[1].cells[0].drawn, None);
    }
}

//! What is in a data set, by numbers.

use std::collections::HashMap;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde::Serialize;

use super::{CaptionLengths, Ruler, caption_lengths};
use crate::buckets::{Buckets, dimensions};
use crate::error::DataError;
use crate::geometry::Side;
use crate::source::Sample;

/// Shapes as photographers name them: width, height.
const SHAPES: [(u32, u32); 13] = [
    (1, 3),
    (9, 21),
    (1, 2),
    (9, 16),
    (2, 3),
    (3, 4),
    (1, 1),
    (4, 3),
    (3, 2),
    (16, 9),
    (2, 1),
    (21, 9),
    (3, 1),
];
/// Captions are counted by so many units of their length.
const LENGTH_STEP: usize = 10;
/// The most frequent words that are kept.
const N_WORDS: usize = 50;

/// Numbers of a data set. Lists have what is most frequent first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataStats {
    /// Rows that are samples.
    pub n_samples: usize,
    /// Rows that are not, and images whose size cannot be read.
    pub n_unusable: usize,
    /// Images of each size.
    pub sizes: Vec<(String, usize)>,
    /// Images nearest to each common shape, from high to wide.
    pub shapes: Vec<(String, usize)>,
    /// Images in each aspect bucket, by width.
    pub buckets: Vec<(String, usize)>,
    /// Lengths of captions.
    pub captions: CaptionLengths,
    /// Captions of about each length, short ones first.
    pub caption_lengths: Vec<(String, usize)>,
    /// Words of captions in lower case, of at least four letters.
    pub words: Vec<(String, usize)>,
}

impl DataStats {
    /// Counts; of images only headers are read.
    #[must_use]
    pub fn of(rows: &[Result<Sample, DataError>], resolution: Side, ruler: Ruler<'_>) -> Self {
        let samples: Vec<&Sample> = rows.iter().flatten().collect();
        let sizes: Vec<(u32, u32)> =
            samples.par_iter().filter_map(|sample| dimensions(&sample.image).ok()).collect();
        let buckets = Buckets::new(resolution, Buckets::usual_step(resolution));
        let nearest = |(width, height): (u32, u32)| {
            let shape = |(width, height): (u32, u32)| (f64::from(width) / f64::from(height.max(1))).ln();
            let off = |place: &usize| (shape(SHAPES[*place]) - shape((width.max(1), height))).abs();
            (0..SHAPES.len()).min_by(|left, right| off(left).total_cmp(&off(right))).unwrap_or(0)
        };
        let captions: Vec<&String> = samples.iter().flat_map(|sample| &sample.captions).collect();
        let words =
            captions.iter().flat_map(|caption| caption.split(|letter: char| !letter.is_alphanumeric()));
        let words = words.filter(|word| word.chars().count() >= 4).map(str::to_lowercase);
        let mut words = by_count(words);
        words.truncate(N_WORDS);
        Self {
            n_samples: samples.len(),
            n_unusable: rows.len() - sizes.len(),
            sizes: by_count(sizes.iter().map(|(width, height)| format!("{width}x{height}"))),
            shapes: in_order(sizes.iter().map(|size| nearest(*size)), |place| {
                let (width, height) = SHAPES[place];
                format!("{width} : {height}")
            }),
            buckets: in_order(sizes.iter().map(|size| buckets.nearest(*size)), |size| size.to_string()),
            captions: caption_lengths(rows, ruler),
            caption_lengths: in_order(
                captions.iter().map(|caption| (ruler.length)(caption) / LENGTH_STEP),
                |step| format!("{} to {}", step * LENGTH_STEP, step * LENGTH_STEP + LENGTH_STEP - 1),
            ),
            words,
        }
    }
}

fn counts<T: std::hash::Hash + Eq>(items: impl Iterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

/// The most frequent first, equals by name.
fn by_count(items: impl Iterator<Item = String>) -> Vec<(String, usize)> {
    let mut counts: Vec<(String, usize)> = counts(items).into_iter().collect();
    counts.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
    counts
}

fn in_order<T: std::hash::Hash + Ord>(
    items: impl Iterator<Item = T>,
    name: impl Fn(T) -> String,
) -> Vec<(String, usize)> {
    let mut counts: Vec<(T, usize)> = counts(items).into_iter().collect();
    counts.sort();
    counts.into_iter().map(|(item, count)| (name(item), count)).collect()
}

//! The fill50k task, drawn: white outline of a circle -> filled circle on a coloured background.
//!
//! It is the smallest task that shows whether a ControlNet learns: the hint says where, the caption says which
//! colours, neither says both.

use std::fs;
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

use image::{Rgb, RgbImage};
use rand_chacha::rand_core::Rng;

use crate::colors::COLORS;
use crate::error::DataError;
use crate::picture::{save_png, to_byte};
use crate::random::{self, Purpose};
use crate::transform::Side;

/// Circle and background differ by at least this in RGB (Euclidean, of 441), so that the circle can be seen.
const MIN_COLOR_DISTANCE: f64 = 96.0;
/// The radius as a share of the side.
const RADIUS: (f64, f64) = (1.0 / 9.0, 3.0 / 8.0);
/// The centre stays this many radii away from the edges: a few circles touch or leave the picture.
const MIN_CENTER_RADII: f64 = 0.8;

/// What to generate.
#[derive(Debug, Clone, Copy)]
pub struct Circles {
    /// The number of samples. More of the same seed and side begin with the same pictures.
    pub count: NonZeroUsize,
    /// Width and height of the pictures.
    pub side: Side,
    /// Equal seeds give equal files.
    pub seed: u64,
}

/// Writes `out/train/` with `metadata.jsonl`, `images/00000.png`, ... and `conditioning_images/00000.png`, ...
///
/// Everything is made in a folder beside `out` and renamed at the end, so `out` is complete or not there.
///
/// # Errors
/// [`DataError::OutputNotEmpty`], and what the file system refuses.
pub fn generate_circles(circles: &Circles, out: &Path) -> Result<(), DataError> {
    let is_free = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => fs::symlink_metadata(out).is_err(),
    };
    if !is_free {
        return Err(DataError::OutputNotEmpty { path: out.to_owned() });
    }
    let out = &std::path::absolute(out).map_err(cannot_write(out))?;
    let partial = partial_path(out);
    if let Some(parent) = out.parent() {
        fs::create_dir_all(parent).map_err(cannot_write(parent))?;
    }
    // Fails if it is there: whatever is removed below was made by this call.
    fs::create_dir(&partial).map_err(cannot_write(&partial))?;
    let result = write(circles, &partial).and_then(|()| {
        // An empty folder at the place is only in the way on some systems.
        let _ = fs::remove_dir(out);
        fs::rename(&partial, out).map_err(cannot_write(out))
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

/// A name of its own beside `out`, so that the rename does not cross file systems.
fn partial_path(out: &Path) -> PathBuf {
    let mut name = out.components().as_path().to_owned().into_os_string();
    name.push(format!(".partial-{}", std::process::id()));
    name.into()
}

fn cannot_write(path: &Path) -> impl FnOnce(std::io::Error) -> DataError {
    move |source| DataError::Write { path: path.to_owned(), source }
}

fn write(circles: &Circles, out: &Path) -> Result<(), DataError> {
    let train = out.join("train");
    for folder in ["images", "conditioning_images"] {
        let folder = train.join(folder);
        fs::create_dir_all(&folder).map_err(cannot_write(&folder))?;
    }
    let n_threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        let draw_share = |first: usize| {
            let train = &train;
            move || {
                (first..circles.count.get()).step_by(n_threads).try_for_each(|index| {
                    let circle = Circle::new(circles.seed, index, circles.side);
                    save_png(&circle.image(circles.side), &train.join(image_name(index)))?;
                    save_png(&circle.hint(circles.side), &train.join(hint_name(index)))
                })
            }
        };
        let threads: Vec<_> = (0..n_threads).map(|first| scope.spawn(draw_share(first))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("drawing a circle does not panic"))
    })?;

    let metadata = train.join("metadata.jsonl");
    let mut file = BufWriter::new(fs::File::create(&metadata).map_err(cannot_write(&metadata))?);
    for index in 0..circles.count.get() {
        let row = serde_json::json!({
            "file_name": image_name(index),
            "conditioning_image_file_name": hint_name(index),
            "text": Circle::new(circles.seed, index, circles.side).caption(),
        });
        writeln!(file, "{row}").map_err(cannot_write(&metadata))?;
    }
    file.flush().map_err(cannot_write(&metadata))
}

fn image_name(index: usize) -> String {
    format!("images/{index:05}.png")
}

fn hint_name(index: usize) -> String {
    format!("conditioning_images/{index:05}.png")
}

/// One sample: lengths in pixels, colours as places in [`COLORS`].
struct Circle {
    center: (f64, f64),
    radius: f64,
    color: usize,
    background: usize,
}

impl Circle {
    fn new(seed: u64, index: usize, side: Side) -> Self {
        let mut rng = random::rng(seed, index as u64, "", Purpose::Circle);
        let side = f64::from(side.pixels());
        let mut between = |low: f64, high: f64| low + (high - low) * random::unit(&mut rng);
        let radius = side * between(RADIUS.0, RADIUS.1);
        let margin = MIN_CENTER_RADII * radius;
        let center = (between(margin, side - margin), between(margin, side - margin));
        let (color, background) = distinct_colors(&mut rng);
        Self { center, radius, color, background }
    }

    /// "pale golden rod circle with old lace background"
    fn caption(&self) -> String {
        format!("{} circle with {} background", COLORS[self.color].0, COLORS[self.background].0)
    }

    /// The filled circle on its background.
    fn image(&self, side: Side) -> RgbImage {
        let (color, background) = (COLORS[self.color].1, COLORS[self.background].1);
        self.draw(side, |coverage| {
            let blend = |channel: usize| {
                let (inside, outside) = (f64::from(color[channel]), f64::from(background[channel]));
                to_byte((outside + (inside - outside) * coverage(self.radius)) / 255.0)
            };
            Rgb([blend(0), blend(1), blend(2)])
        })
    }

    /// The white outline on black, 1 to 3 px wide.
    fn hint(&self, side: Side) -> RgbImage {
        let width = (f64::from(side.pixels()) / 64.0).clamp(1.0, 3.0);
        self.draw(side, |coverage| Rgb([to_byte(coverage(self.radius) - coverage(self.radius - width)); 3]))
    }

    /// Colours each pixel by the share of it that discs of given radii around the centre cover.
    fn draw(&self, side: Side, color: impl Fn(&dyn Fn(f64) -> f64) -> Rgb<u8>) -> RgbImage {
        RgbImage::from_fn(side.pixels(), side.pixels(), |x, y| {
            let distance = (f64::from(x) + 0.5 - self.center.0).hypot(f64::from(y) + 0.5 - self.center.1);
            // The edge is as good as straight within a pixel, so its distance is the share.
            color(&|radius| (radius - distance + 0.5).clamp(0.0, 1.0))
        })
    }
}

fn distinct_colors(rng: &mut impl Rng) -> (usize, usize) {
    loop {
        let (first, second) = (random::below(rng, COLORS.len()), random::below(rng, COLORS.len()));
        if color_distance(COLORS[first].1, COLORS[second].1) >= MIN_COLOR_DISTANCE {
            return (first, second);
        }
    }
}

fn color_distance(left: [u8; 3], right: [u8; 3]) -> f64 {
    left.iter().zip(right).map(|(left, right)| f64::from(left.abs_diff(right)).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Columns, Dataset, Layout};

    fn circles(count: usize) -> Circles {
        Circles { count: NonZeroUsize::new(count).unwrap(), side: Side::try_from(64).unwrap(), seed: 3 }
    }

    #[test]
    fn generated_folder_is_a_data_set() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("circles");
        generate_circles(&circles(5), &out).unwrap();
        let dataset = Dataset::open(&out, &Columns::default()).unwrap();
        assert_eq!((dataset.layout(), dataset.samples().len()), (Layout::ImageFolder, 5));
        let caption = &dataset.samples()[0].captions[0];
        assert!(caption.contains(" circle with ") && caption.ends_with(" background"), "{caption}");
        let left_over = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left_over, 1, "nothing is left beside the output");
    }

    #[test]
    fn larger_count_begins_with_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let (few, many) = (dir.path().join("few"), dir.path().join("many"));
        generate_circles(&circles(2), &few).unwrap();
        generate_circles(&circles(4), &many).unwrap();
        let read = |folder: &Path, name: &str| fs::read(folder.join("train").join(name)).unwrap();
        for name in ["images/00001.png", "conditioning_images/00001.png"] {
            assert_eq!(read(&few, name), read(&many, name));
        }
        assert!(read(&many, "metadata.jsonl").starts_with(&read(&few, "metadata.jsonl")));
    }

    #[test]
    fn folder_with_content_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine.txt"), "keep").unwrap();
        let error = generate_circles(&circles(1), dir.path()).unwrap_err();
        assert!(matches!(error, DataError::OutputNotEmpty { .. }));
        assert_eq!(fs::read(dir.path().join("mine.txt")).unwrap(), b"keep");
    }

    #[test]
    fn outline_is_the_edge_of_the_filled_circle() {
        let side = Side::try_from(128).unwrap();
        for index in 0..20 {
            let circle = Circle::new(0, index, side);
            let (image, hint) = (circle.image(side), circle.hint(side));
            let (color, background) = (COLORS[circle.color].1, COLORS[circle.background].1);
            assert!(color_distance(color, background) >= MIN_COLOR_DISTANCE);
            for (x, y, pixel) in image.enumerate_pixels() {
                let (dx, dy) = (f64::from(x) + 0.5 - circle.center.0, f64::from(y) + 0.5 - circle.center.1);
                let outside = dx.hypot(dy) - circle.radius;
                let lightness = hint.get_pixel(x, y).0[0];
                match outside {
                    _ if outside > 1.0 => assert_eq!((pixel.0, lightness), (background, 0)),
                    _ if outside < -3.0 => assert_eq!((pixel.0, lightness), (color, 0)),
                    _ if (-1.4..-0.6).contains(&outside) => assert_eq!((pixel.0, lightness), (color, 255)),
                    _ => {}
                }
            }
        }
    }
}

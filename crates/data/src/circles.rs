//! The fill50k task, drawn: white outline of a circle -> filled circle on a coloured background.
//!
//! It is the smallest task that shows whether a ControlNet learns: the hint says where, the caption says which
//! colours, neither says both.

use std::fs;
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;

use crate::colors::Palette;
use crate::error::DataError;
use crate::geometry::Side;
use crate::new_folder::{cannot_write, write_new_folder};
use crate::picture::save_png;
use crate::random::{self, Purpose};
use crate::shapes::{Figure, Ground, Scene, SceneOptions};

/// What to generate.
#[derive(Debug, Clone, Copy)]
pub struct Circles {
    /// The number of samples. More of the same seed and side begin with the same pictures.
    pub count: NonZeroUsize,
    /// Width and height of the pictures.
    pub side: Side,
    /// The colours; those of fill50k are [`Palette::Css`].
    pub palette: Palette,
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
    write_new_folder(out, |folder| write(circles, folder))
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
                    let scene = scene(circles, index);
                    save_png(&scene.picture(circles.side), &train.join(image_name(index)))?;
                    save_png(&scene.hint(circles.side), &train.join(hint_name(index)))
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
            "text": scene(circles, index).caption(),
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

/// The scene of one sample: a circle on a plain ground, as in fill50k.
fn scene(circles: &Circles, index: usize) -> Scene {
    let options = SceneOptions {
        figures: &[Figure::Circle],
        grounds: &[Ground::Plain],
        palette: circles.palette,
        ..SceneOptions::default()
    };
    Scene::choose(&mut random::rng(circles.seed, index as u64, "", Purpose::Circle), &options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Columns, Dataset, Layout};

    fn circles(count: usize) -> Circles {
        let (count, side) = (NonZeroUsize::new(count).unwrap(), Side::try_from(64).unwrap());
        Circles { count, side, palette: Palette::Css, seed: 3 }
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
        let circles = Circles { side: Side::try_from(128).unwrap(), ..circles(20) };
        for index in 0..20 {
            let scene = scene(&circles, index);
            let (image, hint) = (scene.picture(circles.side), scene.hint(circles.side));
            let (center, radius) = ((128.0 * scene.center.0, 128.0 * scene.center.1), 128.0 * scene.radius);
            for (x, y, pixel) in image.enumerate_pixels() {
                let (dx, dy) = (f64::from(x) + 0.5 - center.0, f64::from(y) + 0.5 - center.1);
                let outside = dx.hypot(dy) - radius;
                let lightness = hint.get_pixel(x, y).0[0];
                match outside {
                    _ if outside > 1.0 => assert_eq!((pixel.0, lightness), (scene.ground_rgb(), 0)),
                    _ if outside < -3.0 => assert_eq!((pixel.0, lightness), (scene.figure_rgb(), 0)),
                    _ if (-1.4..-0.6).contains(&outside) => {
                        assert_eq!((pixel.0, lightness), (scene.figure_rgb(), 255));
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn circles_of_a_seed_never_change() {
        let captions: Vec<String> = (0..3).map(|index| scene(&circles(3), index).caption()).collect();
        assert_eq!(
            captions,
            [
                "orchid circle with olive drab background",
                "snow circle with medium sea green background",
                "white smoke circle with teal background"
            ]
        );
    }
}

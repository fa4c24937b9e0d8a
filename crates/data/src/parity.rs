//! Parity with Pillow: the cases of kind `images` that `tests/reference/make_goldens.py` writes.

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::Deserialize;

use crate::decode::decode_rgb8;
use crate::geometry::{Geometry, Side, Size};
use crate::picture::rgb_from_unit;
use crate::resize::Interpolation;
use crate::transform::load_hint_for_inference;

#[derive(Deserialize)]
struct Case {
    source: String,
    /// In levels of 255.
    tolerance: u8,
    #[serde(flatten)]
    operation: Operation,
}

#[derive(Deserialize)]
#[serde(tag = "operation", rename_all = "lowercase")]
enum Operation {
    Train { side: Side, interpolation: Interpolation },
    Inference { size: Option<(Side, Side)> },
}

/// The committed cases and, if `PYROGRAPH_PARITY_DIR` is set, those below it.
#[expect(clippy::disallowed_methods, reason = "a test may read the environment")]
fn case_folders(kind: &str) -> Vec<PathBuf> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/parity");
    let extra = std::env::var_os("PYROGRAPH_PARITY_DIR").map(PathBuf::from);
    let mut folders: Vec<PathBuf> = std::iter::once(committed)
        .chain(extra)
        .filter_map(|root| fs::read_dir(root.join(kind)).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    folders
}

fn run(folder: &Path, case: &Case) -> RgbImage {
    let source = folder.join(&case.source);
    match case.operation {
        Operation::Train { side, interpolation } => {
            let image = decode_rgb8(&source).unwrap();
            Geometry::new(image.width(), image.height(), Size::square(side))
                .unwrap()
                .apply(&image, interpolation)
        }
        Operation::Inference { size } => {
            let hint = load_hint_for_inference(&source, size).unwrap();
            rgb_from_unit(&hint.hint_unit, hint.width, hint.height).unwrap()
        }
    }
}

#[test]
fn every_pixel_is_within_the_tolerance_of_pillow() {
    let folders = case_folders("images");
    assert!(folders.len() >= 30, "the image cases are missing");
    for folder in folders {
        let name = folder.display();
        let case: Case = serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap();
        compare(&name.to_string(), &run(&folder, &case), &folder.join("expected.png"), case.tolerance);
    }
}

fn compare(name: &str, actual: &RgbImage, expected: &Path, tolerance: u8) {
    let expected = image::open(expected).unwrap().into_rgb8();
    assert_eq!(actual.dimensions(), expected.dimensions(), "{name}: size");
    let differences =
        actual.as_raw().iter().zip(expected.as_raw()).map(|(left, right)| left.abs_diff(*right));
    let worst = differences.max().unwrap();
    assert!(worst <= tolerance, "{name}: off by {worst}/255, tolerance {tolerance}/255");
}

#[derive(Deserialize)]
struct DecodeCase {
    source: String,
    /// In levels of 255.
    tolerance: u8,
}

#[test]
fn files_of_every_kind_are_decoded_as_datasets_and_pillow_do() {
    let folders = case_folders("decode");
    assert!(folders.len() >= 27, "the decode cases are missing");
    for folder in folders {
        let case: DecodeCase = serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap();
        let name = folder.display().to_string();
        let decoded =
            decode_rgb8(&folder.join(&case.source)).unwrap_or_else(|error| panic!("{name}: {error}"));
        compare(&name, &decoded, &folder.join("expected.png"), case.tolerance);
    }
}

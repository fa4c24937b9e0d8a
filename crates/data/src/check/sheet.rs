//! A contact sheet: pairs side by side, those with a fault in a red frame.

use image::imageops::replace;
use image::{Rgb, RgbImage};

use crate::picture::luma;
use crate::resize::{Interpolation, resize};

/// The longer side of a picture on the sheet.
const CELL: u32 = 144;
const FRAME: u32 = 4;
const GAP: u32 = 8;
const RED: Rgb<u8> = Rgb([220, 30, 40]);
const GREY: Rgb<u8> = Rgb([190; 3]);
const WHITE: Rgb<u8> = Rgb([255; 3]);
/// Pairs in a row.
const N_COLUMNS: usize = 3;

/// A picture as it is shown.
pub(super) fn thumbnail(picture: &RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    let longer = width.max(height).max(1);
    let shrunk = |length: u32| (length * CELL / longer).max(1);
    resize(picture, shrunk(width), shrunk(height), Interpolation::Bilinear)
}

/// The image with the hint's bright parts in red on it, which shows whether they lie right.
pub(super) fn overlaid(image: &RgbImage, hint: &RgbImage) -> RgbImage {
    let hint = resize(hint, image.width(), image.height(), Interpolation::Bilinear);
    let mut overlaid = image.clone();
    for (pixel, hint) in overlaid.pixels_mut().zip(hint.pixels()) {
        let grey = u16::from(luma(pixel.0)) / 2 + 64;
        let red = u16::from(luma(hint.0));
        let mixed = |to: u16| u8::try_from((grey * (255 - red) + to * red) / 255).unwrap_or(u8::MAX);
        *pixel = Rgb([mixed(255), mixed(20), mixed(40)]);
    }
    overlaid
}

/// Draws pairs in the given order, row by row; each is whether it has a fault, and its pictures.
pub(super) fn sheet(pairs: &[(bool, Vec<RgbImage>)]) -> RgbImage {
    let n_cells = pairs.iter().map(|(_, pictures)| pictures.len()).max().unwrap_or(1);
    let length = |count: usize, each: u32| u32::try_from(count).unwrap_or(u32::MAX).saturating_mul(each);
    let pair_width = length(n_cells, CELL + FRAME) + FRAME;
    let pair_height = CELL + 2 * FRAME;
    let n_rows = pairs.len().div_ceil(N_COLUMNS);
    let (width, height) =
        (length(N_COLUMNS, pair_width + GAP) + GAP, length(n_rows, pair_height + GAP) + GAP);
    let mut sheet = RgbImage::from_pixel(width, height, WHITE);
    for (index, (is_faulty, pictures)) in pairs.iter().enumerate() {
        let left = GAP + length(index % N_COLUMNS, pair_width + GAP);
        let top = GAP + length(index / N_COLUMNS, pair_height + GAP);
        let frame = RgbImage::from_pixel(pair_width, pair_height, if *is_faulty { RED } else { GREY });
        replace(&mut sheet, &frame, left.into(), top.into());
        for cell in 0..n_cells {
            let cell_left = left + FRAME + length(cell, CELL + FRAME);
            replace(
                &mut sheet,
                &RgbImage::from_pixel(CELL, CELL, WHITE),
                cell_left.into(),
                (top + FRAME).into(),
            );
            if let Some(picture) = pictures.get(cell) {
                replace(&mut sheet, picture, cell_left.into(), (top + FRAME).into());
            }
        }
    }
    sheet
}

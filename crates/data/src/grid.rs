//! Many images in one: rows of a validation, the hint first.

use image::imageops::replace;
use image::{Rgb, RgbImage};

const PADDING: u32 = 4;
const BACKGROUND: Rgb<u8> = Rgb([255; 3]);

/// Draws rows of images into one image with white lines between them.
///
/// Every cell has the size of the largest image; smaller ones stand in their cell's upper left corner.
#[must_use]
pub fn grid(rows: &[Vec<RgbImage>]) -> RgbImage {
    let images = || rows.iter().flatten();
    let cell_width = images().map(RgbImage::width).max().unwrap_or(0) + PADDING;
    let cell_height = images().map(RgbImage::height).max().unwrap_or(0) + PADDING;
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);

    let position = |index: usize, cell: u32| PADDING + count(index) * cell;
    let (width, height) = (position(n_columns, cell_width), position(rows.len(), cell_height));
    let mut sheet = RgbImage::from_pixel(width, height, BACKGROUND);
    for (row_idx, row) in rows.iter().enumerate() {
        for (column_idx, image) in row.iter().enumerate() {
            let (left, top) = (position(column_idx, cell_width), position(row_idx, cell_height));
            replace(&mut sheet, image, left.into(), top.into());
        }
    }
    sheet
}

fn count(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 images fit the memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_in_rows_with_padding() {
        let image = |value| RgbImage::from_pixel(8, 6, Rgb([value; 3]));
        let sheet = grid(&[vec![image(10), image(20)], vec![image(30)]]);
        assert_eq!(sheet.dimensions(), (4 + 2 * 12, 4 + 2 * 10));
        let at = |x, y| sheet.get_pixel(x, y).0[0];
        assert_eq!([at(4, 4), at(16, 4), at(4, 14), at(16, 14), at(0, 0)], [10, 20, 30, 255, 255]);
    }

    #[test]
    fn grid_of_nothing_is_padding() {
        assert_eq!(grid(&[]).dimensions(), (PADDING, PADDING));
    }
}

//! RGB images to numbers, numbers to RGB images, and PNG files.

use std::path::Path;

use image::{ImageFormat, RgbImage};

use crate::error::DataError;

/// `[3, height, width]` in [0, 1]: torchvision's `ToTensor`.
#[must_use]
pub fn rgb_to_unit(image: &RgbImage) -> Vec<f32> {
    planes(image, |value| value / 255.0)
}

/// `[3, height, width]` in [-1, 1]: `ToTensor` and `Normalize([0.5], [0.5])`.
pub(crate) fn rgb_to_signed(image: &RgbImage) -> Vec<f32> {
    planes(image, |value| (value / 255.0 - 0.5) / 0.5)
}

/// `[3, height, width]`, each level of 0 to 255 as `number` gives it.
fn planes(image: &RgbImage, number: impl Fn(f32) -> f32) -> Vec<f32> {
    // Divided once for each level, not for each pixel.
    let numbers: Vec<f32> = (0..=u8::MAX).map(|level| number(level.into())).collect();
    let (pixels, _) = image.as_raw().as_chunks::<3>();
    let plane = |channel: usize| pixels.iter().map(move |pixel| pixel[channel]);
    let mut planes = Vec::with_capacity(image.as_raw().len());
    for channel in 0..3 {
        planes.extend(plane(channel).map(|level| numbers[usize::from(level)]));
    }
    planes
}

/// The lightness of a pixel: Pillow's `convert("L")`, Rec. 601 in 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "weights add up to 2^16, so the sum of bytes is one")]
pub(crate) fn luma([red, green, blue]: [u8; 3]) -> u8 {
    ((19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue) + 0x8000) >> 16) as u8
}

/// The image of `[3, height, width]` numbers in [0, 1]; numbers outside are clamped, halves rounded to even.
///
/// # Errors
/// [`DataError::PixelCount`] if there are not `3 * height * width` numbers.
///
/// Source: diffusers 0.42.1, `VaeImageProcessor.numpy_to_pil`.
pub fn rgb_from_unit(pixels_unit: &[f32], width: u32, height: u32) -> Result<RgbImage, DataError> {
    let n_pixels = width as usize * height as usize;
    if pixels_unit.len() != 3 * n_pixels {
        let (expected, found) = (3 * n_pixels, pixels_unit.len());
        return Err(DataError::PixelCount { width, height, expected, found });
    }
    let bytes = (0..n_pixels)
        .flat_map(|pixel| {
            [0, 1, 2].map(|channel| to_byte(f64::from(pixels_unit[channel * n_pixels + pixel])))
        })
        .collect();
    Ok(RgbImage::from_raw(width, height, bytes).expect("three bytes per pixel"))
}

/// A number in [0, 1] as a byte.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped; NaN becomes 0")]
pub(crate) fn to_byte(unit: f64) -> u8 {
    (unit * 255.0).round_ties_even().clamp(0.0, 255.0) as u8
}

/// The bytes of a PNG file.
#[must_use]
pub fn png_bytes(image: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).expect("memory takes every byte of an image with pixels");
    bytes.into_inner()
}

/// Writes a PNG file.
///
/// # Errors
/// [`DataError::Encode`] if the file cannot be written.
pub fn save_png(image: &RgbImage, path: &Path) -> Result<(), DataError> {
    image
        .save_with_format(path, ImageFormat::Png)
        .map_err(|source| DataError::Encode { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_way_to_numbers_and_back() {
        let image =
            RgbImage::from_fn(16, 16, |x, y| image::Rgb([x * 16 + y, x, y].map(|v| v.to_le_bytes()[0])));
        let unit = rgb_to_unit(&image);
        assert_eq!([unit[17], unit[256 + 17]], [17.0 / 255.0, 1.0 / 255.0]);
        assert_eq!(rgb_from_unit(&unit, 16, 16).unwrap(), image);
    }

    #[test]
    fn numbers_outside_the_range_are_clamped() {
        let image = rgb_from_unit(&[-0.5, 1.5, f32::NAN], 1, 1).unwrap();
        assert_eq!(image.get_pixel(0, 0).0, [0, 255, 0]);
        assert!(matches!(
            rgb_from_unit(&[0.0; 4], 1, 1),
            Err(DataError::PixelCount { expected: 3, found: 4, .. })
        ));
    }
}

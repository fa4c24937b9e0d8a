//! Pictures as tensors and back, and how alike two are.

use anyhow::Result;
use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_data::{RgbImage, rgb_from_unit, rgb_to_unit};

/// Pictures of one size in [-1, 1], `[batch, 3, height, width]`.
pub(crate) fn to_signed(pictures: &[RgbImage], device: &Device) -> Tensor<4> {
    let (width, height) = pictures[0].dimensions();
    let values: Vec<f32> = pictures.iter().flat_map(rgb_to_unit).map(|value| value * 2.0 - 1.0).collect();
    let shape = [pictures.len(), 3, height as usize, width as usize];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The other way, `[batch, 3, height, width]` in [-1, 1] or a little outside.
pub(crate) fn from_signed(image_signed: Tensor<4>) -> Result<Vec<RgbImage>> {
    let [_, _, height, width] = image_signed.dims();
    let values = (image_signed / 2.0 + 0.5).try_into_vec_as::<f32>()?;
    let (width_px, height_px) = (u32::try_from(width)?, u32::try_from(height)?);
    let pictures = values.chunks(3 * height * width);
    Ok(pictures.map(|picture| rgb_from_unit(picture, width_px, height_px)).collect::<Result<_, _>>()?)
}

/// The square of `side` pixels whose upper left corner is at `left` and `top`.
pub(crate) fn crop(picture: &RgbImage, left: u32, top: u32, side: u32) -> RgbImage {
    RgbImage::from_fn(side, side, |x, y| *picture.get_pixel(left + x, top + y))
}

/// The squared error of all bytes of two pictures, summed, and their number.
#[expect(clippy::cast_precision_loss, reason = "a picture has far fewer than 2^53 bytes")]
pub(crate) fn squared_error(left: &RgbImage, right: &RgbImage) -> (f64, f64) {
    let pairs = left.as_raw().iter().zip(right.as_raw());
    let sum = pairs.map(|(left, right)| (f64::from(*left) - f64::from(*right)).powi(2)).sum();
    (sum, left.as_raw().len() as f64)
}

/// Peak signal-to-noise ratio in dB of the mean squared error of bytes.
pub(crate) fn psnr(mean_squared_error: f64) -> f64 {
    10.0 * (255.0_f64.powi(2) / mean_squared_error).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient() -> RgbImage {
        RgbImage::from_raw(4, 3, (0..36).map(|value| value * 7).collect()).unwrap()
    }

    #[test]
    fn pictures_come_back_from_tensors() {
        let pictures = [gradient(), RgbImage::new(4, 3)];
        let tensor = to_signed(&pictures, &Device::flex());
        assert_eq!(tensor.dims(), [2, 3, 3, 4]);
        assert_eq!(from_signed(tensor).unwrap(), pictures);
    }

    #[test]
    fn a_crop_is_the_square_at_its_corner() {
        let (picture, part) = (gradient(), crop(&gradient(), 2, 1, 2));
        assert_eq!(part.dimensions(), (2, 2));
        assert_eq!(part.get_pixel(1, 0), picture.get_pixel(3, 1));
    }

    #[test]
    fn an_error_of_one_level_everywhere_is_48_decibels() {
        let (sum, count) = squared_error(
            &RgbImage::from_raw(1, 1, vec![10, 20, 30]).unwrap(),
            &RgbImage::from_raw(1, 1, vec![11, 19, 31]).unwrap(),
        );
        assert_eq!((sum, count), (3.0, 3.0));
        assert!((psnr(sum / count) - 48.1308).abs() < 1e-3);
    }
}

//! Pictures too large for one pass: sample by sample, and tile by tile.

use burn::prelude::*;
use burn::tensor::TensorData;

use crate::{AutoencoderKl, DiagonalGaussian, VaeConfig};

/// Each tile overlaps the one before by this part of its side.
///
/// Source: diffusers `AutoencoderKL.tile_overlap_factor` (0.42), 0.25.
const OVERLAP: usize = 4;

/// How much goes through the autoencoder at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passes {
    /// One sample of a batch after another (`enable_vae_slicing`). The numbers are the same.
    pub slicing: bool,
    /// Pictures larger than a tile by tiles (`enable_vae_tiling`). The numbers are others: a tile knows nothing of the
    /// rest, which is blended over where tiles overlap.
    pub tiling: Option<Tiling>,
}

/// Square tiles that overlap by a quarter of their side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Side of a tile in latents, a multiple of 4.
    latents: usize,
    pixels_per_latent: usize,
}

impl Tiling {
    /// Tiles as large as the pictures that the autoencoder was trained on, rounded down to a multiple of 4 latents.
    ///
    /// Source: diffusers `AutoencoderKL` (0.42), `tile_sample_min_size` and `tile_latent_min_size`.
    #[must_use]
    pub fn of(config: &VaeConfig) -> Self {
        let pixels_per_latent = config.pixels_per_latent();
        let quarters = config.sample_size / pixels_per_latent / OVERLAP;
        Self { latents: OVERLAP * quarters.max(1), pixels_per_latent }
    }

    /// Side of a tile in pixels.
    #[must_use]
    pub fn pixels(self) -> usize {
        self.latents * self.pixels_per_latent
    }
}

/// Tiles of one side of the autoencoder that become tiles of the other.
struct Grid {
    /// Side of the tiles that go in.
    side_in: usize,
    /// Side of the tiles that come out.
    side_out: usize,
    /// Less than that of what goes in becomes nothing.
    smallest_in: usize,
}

impl AutoencoderKl {
    /// As [`Self::encode`], so much at a time.
    ///
    /// # Shapes
    /// - image: `[batch, in_channels, height, width]`, with tiling multiples of [`VaeConfig::pixels_per_latent`]
    ///
    /// Source: diffusers `AutoencoderKL._tiled_encode` (0.42).
    #[must_use]
    pub fn encode_in(&self, passes: Passes, image_signed: Tensor<4>) -> DiagonalGaussian {
        DiagonalGaussian::from_moments(by_samples(passes, image_signed, |image| match passes.tiling {
            None => self.moments(image),
            Some(tiling) => {
                let grid = Grid {
                    side_in: tiling.pixels(),
                    side_out: tiling.latents,
                    smallest_in: tiling.pixels_per_latent,
                };
                grid.pass(image, |tile| self.moments(tile))
            }
        }))
    }

    /// As [`Self::decode`], so much at a time.
    ///
    /// Source: diffusers `AutoencoderKL.tiled_decode` (0.42).
    #[must_use]
    pub fn decode_in(&self, passes: Passes, sample: Tensor<4>) -> Tensor<4> {
        by_samples(passes, sample, |sample| match passes.tiling {
            None => self.decode(sample),
            Some(tiling) => {
                let grid = Grid { side_in: tiling.latents, side_out: tiling.pixels(), smallest_in: 1 };
                grid.pass(sample, |tile| self.decode(tile))
            }
        })
    }
}

fn by_samples(passes: Passes, batch: Tensor<4>, pass: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let [n_samples, ..] = batch.dims();
    if !passes.slicing || n_samples < 2 {
        return pass(batch);
    }
    let one = |idx| pass(batch.clone().narrow(0, idx, 1));
    Tensor::cat((0..n_samples).map(one).collect(), 0)
}

impl Grid {
    /// All tiles, row by row; of the finished ones only the row above is held beside the result.
    fn pass(&self, whole: Tensor<4>, pass: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let Self { side_in, side_out, .. } = *self;
        let [.., height, width] = whole.dims();
        if height <= side_in && width <= side_in {
            return pass(whole);
        }
        let blended_rows = side_out / OVERLAP;
        let kept = side_out - blended_rows;
        let mut above: Vec<Tensor<4>> = Vec::new();
        let mut finished = Vec::new();
        for (top, n_rows) in self.places(height) {
            let mut row: Vec<Tensor<4>> = Vec::new();
            for (column_idx, (left, n_columns)) in self.places(width).enumerate() {
                let mut tile = pass(whole.clone().narrow(2, top, n_rows).narrow(3, left, n_columns));
                if let Some(above) = above.get(column_idx) {
                    tile = blended(above, tile, 2, blended_rows);
                }
                if let Some(before) = row.last() {
                    tile = blended(before, tile, 3, blended_rows);
                }
                row.push(tile);
            }
            let kept_of = |tile: &Tensor<4>| {
                let [.., height, width] = tile.dims();
                tile.clone().narrow(2, 0, height.min(kept)).narrow(3, 0, width.min(kept))
            };
            finished.push(Tensor::cat(row.iter().map(kept_of).collect(), 3));
            above = row;
        }
        Tensor::cat(finished, 2)
    }

    /// Where tiles begin along a side, and how long they are.
    fn places(&self, side: usize) -> impl Iterator<Item = (usize, usize)> {
        let (side_in, smallest_in) = (self.side_in, self.smallest_in);
        let starts = (0..side).step_by(side_in - side_in / OVERLAP);
        starts.map(move |start| (start, side_in.min(side - start))).filter(move |(_, n)| *n >= smallest_in)
    }
}

/// A tile that begins as the end of the one before it and becomes itself.
///
/// Source: diffusers `AutoencoderKL.blend_v` and `blend_h` (0.42).
fn blended(before: &Tensor<4>, tile: Tensor<4>, dim: usize, extent: usize) -> Tensor<4> {
    let (n_before, n_here) = (before.dims()[dim], tile.dims()[dim]);
    let extent = extent.min(n_before).min(n_here);
    if extent == 0 {
        return tile;
    }
    let weights = |weight_of: fn(f64) -> f64| {
        let mut shape = [1; 4];
        shape[dim] = extent;
        #[expect(clippy::cast_precision_loss, reason = "a tile has far fewer than 2^53 rows")]
        let weights = (0..extent).map(|idx| weight_of(idx as f64 / extent as f64)).collect();
        Tensor::<4>::from_data(TensorData::new::<f64, _>(weights, shape).convert::<f32>(), &tile.device())
            .cast(tile.dtype())
    };
    let end = before.clone().narrow(dim, n_before - extent, extent);
    let start = tile.clone().narrow(dim, 0, extent);
    let mixed = end * weights(|part| 1.0 - part) + start * weights(|part| part);
    if extent == n_here {
        return mixed;
    }
    Tensor::cat(vec![mixed, tile.narrow(dim, extent, n_here - extent)], dim)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    fn small() -> VaeConfig {
        VaeConfig {
            channels: vec![4, 8, 8],
            n_resnets: 1,
            norm_groups: 2,
            sample_size: 32,
            ..VaeConfig::sd15()
        }
    }

    fn largest(difference: Tensor<4>) -> f32 {
        difference.abs().max().into_scalar()
    }

    #[test]
    fn samples_one_by_one_give_the_numbers_of_the_batch() {
        let device = Device::flex();
        let vae = small().init(&device);
        let images = Tensor::random([3, 3, 16, 24], Distribution::Uniform(-1.0, 1.0), &device);
        let passes = Passes { slicing: true, tiling: None };
        let whole = vae.encode(images.clone());
        assert!(largest(whole.moments() - vae.encode_in(passes, images).moments()) < 1e-5);
        let decoded = vae.decode_in(passes, whole.mode());
        assert!(largest(vae.decode(whole.mode()) - decoded) < 1e-5);
    }

    #[test]
    fn a_picture_that_fits_a_tile_is_made_in_one_pass() {
        let device = Device::flex();
        let vae = small().init(&device);
        let sample = Tensor::random([2, 4, 8, 5], Distribution::Default, &device);
        let passes = Passes { slicing: false, tiling: Some(Tiling::of(&small())) };
        assert_eq!(vae.decode(sample.clone()).into_data(), vae.decode_in(passes, sample).into_data());
    }

    #[test]
    fn tiles_make_a_picture_of_the_whole_size_wherever_the_last_ones_end() {
        let device = Device::flex();
        let vae = small().init(&device);
        let passes = Passes { slicing: true, tiling: Some(Tiling::of(&small())) };
        for (height, width) in [(1, 9), (9, 1), (12, 13), (14, 18), (20, 8)] {
            let sample = Tensor::random([2, 4, height, width], Distribution::Default, &device);
            let image = vae.decode_in(passes, sample.clone());
            assert_eq!(image.dims(), [2, 3, 4 * height, 4 * width]);
            assert_eq!(vae.encode_in(passes, image).mode().dims(), sample.dims());
        }
    }

    #[test]
    fn tiles_are_as_large_as_the_pictures_of_the_training() {
        assert_eq!(Tiling::of(&VaeConfig::sd15()), Tiling { latents: 64, pixels_per_latent: 8 });
        assert_eq!(Tiling::of(&VaeConfig::sdxl()).pixels(), 1024);
        let odd = VaeConfig { sample_size: 100, ..VaeConfig::sd15() };
        assert_eq!(Tiling::of(&odd).pixels(), 96);
        let tiny = VaeConfig { sample_size: 1, ..VaeConfig::sd15() };
        assert_eq!(Tiling::of(&tiny).pixels(), 32);
    }

    #[test]
    fn a_tile_begins_as_the_end_of_the_one_before() {
        let device = Device::flex();
        let (before, tile) =
            (Tensor::<4>::zeros([1, 1, 1, 3], &device), Tensor::<4>::ones([1, 1, 1, 5], &device));
        let mixed = blended(&before, tile.clone(), 3, 4).try_into_vec_as::<f32>().unwrap();
        assert_eq!(mixed, [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0]);
        let mixed = blended(&before, tile, 3, 2).try_into_vec_as::<f32>().unwrap();
        assert_eq!(mixed, [0.0, 0.5, 1.0, 1.0, 1.0]);
    }
}

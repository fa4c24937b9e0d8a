//! The distribution the encoder predicts.

use burn::prelude::*;

/// A normal distribution with independent latents, the encoder's posterior.
///
/// # Shapes
/// - mean and logvar: `[batch, latent_channels, height, width]`
///
/// Source: diffusers `DiagonalGaussianDistribution` (0.42).
#[derive(Debug, Clone)]
pub struct DiagonalGaussian {
    mean: Tensor<4>,
    logvar: Tensor<4>,
}

impl DiagonalGaussian {
    /// Reads the moments, mean then logarithm of the variance; the latter is clamped to [-30, 20].
    ///
    /// # Shapes
    /// - moments: `[batch, 2 * latent_channels, height, width]`
    ///
    /// # Panics
    /// If the number of channels is odd.
    #[must_use]
    pub fn from_moments(moments: Tensor<4>) -> Self {
        let [_, channels, _, _] = moments.dims();
        assert!(channels % 2 == 0, "moments have a mean for each variance, got {channels} channels");
        let latent_channels = channels / 2;
        let mean = moments.clone().narrow(1, 0, latent_channels);
        let logvar = moments.narrow(1, latent_channels, latent_channels).clamp(-30.0, 20.0);
        Self { mean, logvar }
    }

    /// The moments as one tensor; [`Self::from_moments`] gives the same distribution back, bit for bit.
    ///
    /// # Shapes
    /// - output: `[batch, 2 * latent_channels, height, width]`
    #[must_use]
    pub fn moments(&self) -> Tensor<4> {
        Tensor::cat(vec![self.mean.clone(), self.logvar.clone()], 1)
    }

    /// The most likely latents: the mean.
    #[must_use]
    pub fn mode(&self) -> Tensor<4> {
        self.mean.clone()
    }

    /// Logarithm of the variance, in [-30, 20].
    #[must_use]
    pub fn logvar(&self) -> Tensor<4> {
        self.logvar.clone()
    }

    /// A draw: `mean + exp(logvar / 2) * noise`, with standard normal noise from the caller.
    ///
    /// # Shapes
    /// - noise and output: `[batch, latent_channels, height, width]`
    #[must_use]
    pub fn sample(&self, noise: Tensor<4>) -> Tensor<4> {
        self.mean.clone() + (self.logvar.clone() * 0.5).exp() * noise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extreme_variances_are_clamped_and_moments_come_back_bit_for_bit() {
        let moments = Tensor::<4>::from_floats([[[[1.5]], [[-2.0]], [[99.0]], [[-99.0]]]], &Device::flex());
        let posterior = DiagonalGaussian::from_moments(moments);
        let clamped = posterior.moments().into_data();
        assert_eq!(clamped.clone().try_into_vec::<f32>().unwrap(), [1.5, -2.0, 20.0, -30.0]);
        assert_eq!(DiagonalGaussian::from_moments(posterior.moments()).moments().into_data(), clamped);
    }

    #[test]
    fn a_draw_without_noise_is_the_mode() {
        let posterior = DiagonalGaussian::from_moments(Tensor::full([1, 4, 2, 3], 0.7, &Device::flex()));
        let drawn = posterior.sample(Tensor::zeros([1, 2, 2, 3], &Device::flex()));
        assert_eq!(drawn.into_data(), posterior.mode().into_data());
    }
}

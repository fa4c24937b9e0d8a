//! The embedding of the timestep, and of what is added to it.

use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::{DType, TensorData};
use pyrograph_kernels::{linear, silu};

use crate::{AddedConditioning, Conditioning, TimeConfig, UnetConfig};

/// Sinusoidal embedding of timesteps.
///
/// The products are rounded to f32 step by step as PyTorch does: at timestep 999 an exact frequency would
/// move the phase by 1e-4.
///
/// # Shapes
/// - output: `[batch, dim]`, one row per timestep
///
/// Source: diffusers `get_timestep_embedding` (0.42); Vaswani et al. 2017, section 3.5.
#[expect(clippy::cast_possible_truncation, reason = "f32 is the reference's precision")]
pub(crate) fn sinusoidal(timesteps: &[f32], dim: usize, config: TimeConfig, device: &Device) -> Tensor<2> {
    let half = dim / 2;
    let denominator = (half as f64 - config.freq_shift) as f32;
    let frequencies: Vec<f32> = (0..half)
        .map(|i| (-10_000.0_f64.ln()) as f32 * i as f32 / denominator)
        .map(|exponent| f64::from(exponent).exp() as f32)
        .collect();
    let mut rows = Vec::with_capacity(timesteps.len() * dim);
    for &timestep in timesteps {
        let phases = || frequencies.iter().map(|frequency| f64::from(timestep * frequency));
        let sin = phases().map(|phase| phase.sin() as f32);
        let cos = phases().map(|phase| phase.cos() as f32);
        if config.flip_sin_to_cos {
            rows.extend(cos.chain(sin));
        } else {
            rows.extend(sin.chain(cos));
        }
        rows.extend(std::iter::repeat_n(0.0, dim % 2));
    }
    Tensor::from_data(TensorData::new(rows, [timesteps.len(), dim]), device)
}

/// How timesteps, and what SDXL is told beside, become the inputs of their perceptrons.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeProjection {
    config: TimeConfig,
    dim: usize,
    size_dim: Option<usize>,
    guidance_dim: Option<usize>,
}

/// The inputs of the perceptrons, in f32.
#[derive(Debug, Clone)]
pub(crate) struct TimeFeatures {
    /// `[batch, channels of the first stage]`
    timesteps: Tensor<2>,
    /// `[batch, TextTimeConfig::input_dim]`
    added: Option<Tensor<2>>,
    /// `[batch, UnetConfig::guidance_dim]`
    guidance: Option<Tensor<2>>,
}

impl TimeProjection {
    pub(crate) fn new(config: &UnetConfig) -> Self {
        let size_dim = config.added.map(|added| added.size_dim);
        let dim = config.stages[0].channels;
        Self { config: config.time, dim, size_dim, guidance_dim: config.guidance_dim }
    }

    /// # Panics
    /// If what SDXL is told beside is not there, or is there for another model.
    pub(crate) fn forward(&self, timesteps: &[f32], conditioning: &Conditioning) -> TimeFeatures {
        let device = conditioning.context.device();
        let added = match (self.size_dim, &conditioning.added) {
            (Some(size_dim), Some(added)) => Some(self.added(added, size_dim, &device)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => panic!("a conditioning of another model"),
        };
        let guidance = self.guidance_dim.zip(conditioning.guidance_scale);
        let guidance = guidance.map(|(dim, scale)| guidance_features(scale, dim, timesteps.len(), &device));
        TimeFeatures { timesteps: sinusoidal(timesteps, self.dim, self.config, &device), added, guidance }
    }

    /// Source: diffusers `UNet2DConditionModel.get_aug_embed` (0.42).
    fn added(&self, added: &AddedConditioning, size_dim: usize, device: &Device) -> Tensor<2> {
        let numbers: Vec<f32> = added.sizes.iter().flat_map(|size| size.numbers()).collect();
        let n_samples = i32::try_from(added.sizes.len()).expect("a batch fits into memory");
        let sizes = sinusoidal(&numbers, size_dim, self.config, device).reshape([n_samples, -1]);
        Tensor::cat(vec![added.text_embeds.clone().cast(DType::F32), sizes], 1)
    }
}

/// Source: diffusers `StableDiffusionControlNetPipeline.get_guidance_scale_embedding` (0.42).
#[expect(clippy::cast_possible_truncation, reason = "f32 is the reference's precision")]
fn guidance_features(guidance_scale: f64, dim: usize, n_samples: usize, device: &Device) -> Tensor<2> {
    let config = TimeConfig { flip_sin_to_cos: false, freq_shift: 1.0 };
    sinusoidal(&vec![(guidance_scale - 1.0) as f32 * 1000.0; n_samples], dim, config, device)
}

impl TimeFeatures {
    /// The embedding that every residual block is given, `[batch, time_dim]`.
    pub(crate) fn embed(
        self,
        time_embedding: &TimestepEmbedding,
        add_embedding: Option<&TimestepEmbedding>,
    ) -> Tensor<2> {
        let told = time_embedding.cond_proj.as_ref().zip(self.guidance);
        let timesteps = match told {
            Some((cond_proj, guidance)) => self.timesteps + linear(cond_proj, guidance),
            None => self.timesteps,
        };
        let time = time_embedding.forward(timesteps);
        match add_embedding.zip(self.added) {
            Some((embedding, added)) => time + embedding.forward(added),
            None => time,
        }
    }
}

/// The two-layer perceptron after the sinusoidal embedding.
///
/// # Shapes
/// - input: `[batch, d_input]`
/// - output: `[batch, time_dim]`
///
/// Source: diffusers `TimestepEmbedding` (0.42).
#[derive(Module, Debug)]
pub(crate) struct TimestepEmbedding {
    cond_proj: Option<Linear>,
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    pub(crate) fn new(d_input: usize, time_dim: usize, device: &Device) -> Self {
        Self {
            cond_proj: None,
            linear_1: LinearConfig::new(d_input, time_dim).init(device),
            linear_2: LinearConfig::new(time_dim, time_dim).init(device),
        }
    }

    /// The same for a model that is told the guidance scale.
    pub(crate) fn with_guidance(self, config: &UnetConfig, device: &Device) -> Self {
        let d_output = config.stages[0].channels;
        let cond_proj = config
            .guidance_dim
            .map(|guidance_dim| LinearConfig::new(guidance_dim, d_output).with_bias(false).init(device));
        Self { cond_proj, ..self }
    }

    /// The same for a ControlNet, which is not told.
    pub(crate) fn without_guidance(self) -> Self {
        Self { cond_proj: None, ..self }
    }

    /// That of what SDXL is told beside the prompt.
    pub(crate) fn added(config: &UnetConfig, device: &Device) -> Option<Self> {
        config.added.map(|added| Self::new(added.input_dim(), config.time_dim(), device))
    }

    pub(crate) fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        linear(&self.linear_2, silu(linear(&self.linear_1, features)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestep_zero_is_all_cosines() {
        let config = TimeConfig { flip_sin_to_cos: true, freq_shift: 0.0 };
        let row = sinusoidal(&[0.0], 6, config, &Device::flex()).try_into_vec_as::<f32>().expect("f32");
        assert_eq!(row, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn odd_widths_end_in_zero() {
        let config = TimeConfig { flip_sin_to_cos: false, freq_shift: 1.0 };
        let embedded = sinusoidal(&[3.0, 4.0], 5, config, &Device::flex());
        assert_eq!(embedded.dims(), [2, 5]);
        let last = embedded.narrow(1, 4, 1).try_into_vec_as::<f32>().expect("f32");
        assert_eq!(last, [0.0, 0.0]);
    }
}

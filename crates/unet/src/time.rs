//! The embedding of the timestep.

use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_kernels::{linear, silu};

use crate::TimeConfig;

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

/// The two-layer perceptron after the sinusoidal embedding.
///
/// # Shapes
/// - input: `[batch, sinusoidal dim]`
/// - output: `[batch, time_dim]`
///
/// Source: diffusers `TimestepEmbedding` (0.42).
#[derive(Module, Debug)]
pub(crate) struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    pub(crate) fn new(d_input: usize, time_dim: usize, device: &Device) -> Self {
        Self {
            linear_1: LinearConfig::new(d_input, time_dim).init(device),
            linear_2: LinearConfig::new(time_dim, time_dim).init(device),
        }
    }

    pub(crate) fn forward(&self, sinusoidal: Tensor<2>) -> Tensor<2> {
        linear(&self.linear_2, silu(linear(&self.linear_1, sinusoidal)))
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

//! Samplers: from noise to latents in a few steps.

mod ddim;
mod timesteps;
mod unipc;

use std::fmt;
use std::str::FromStr;

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::config::{Choice, DdimConfig, UniPcConfig};
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;

pub use ddim::{Ddim, VarianceNoise};
pub use unipc::UniPc;

/// Which sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SamplerKind {
    /// DDIM (Song et al. 2020).
    Ddim,
    /// UniPC (Zhao et al. 2023).
    UniPc,
}

impl Choice for SamplerKind {
    const KEY: &'static str = "sampler";
    const NAMES: &'static [(&'static str, Self)] = &[("ddim", Self::Ddim), ("unipc", Self::UniPc)];
}

impl FromStr for SamplerKind {
    type Err = DiffusionError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::from_name(name)
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A sampler for a fixed number of steps.
///
/// ```
/// use pyrograph_diffusion::{Sampler, SamplerKind, SchedulerJson};
///
/// let json: SchedulerJson = r#"{"beta_schedule": "scaled_linear", "clip_sample": false}"#.parse()?;
/// let sampler = Sampler::from_config(SamplerKind::UniPc, &json, 4)?;
/// assert_eq!(sampler.timesteps(), [999, 749, 500, 250]);
/// # Ok::<(), pyrograph_diffusion::DiffusionError>(())
/// ```
#[derive(Debug, Clone)]
pub enum Sampler {
    /// DDIM without fresh noise.
    Ddim(Ddim),
    /// UniPC.
    UniPc(Box<UniPc>),
}

impl Sampler {
    /// Makes the sampler that diffusers' `from_config` of that class and `set_timesteps(n_steps)` would make.
    ///
    /// # Errors
    /// If the config holds an unsupported value or invalid betas, or does not allow this number of steps.
    pub fn from_config(
        kind: SamplerKind,
        json: &SchedulerJson,
        n_steps: usize,
    ) -> Result<Self, DiffusionError> {
        Ok(match kind {
            SamplerKind::Ddim => Self::Ddim(Ddim::new(&DdimConfig::try_from(json)?, n_steps)?),
            SamplerKind::UniPc => Self::UniPc(Box::new(UniPc::new(&UniPcConfig::try_from(json)?, n_steps)?)),
        })
    }

    /// The timestep of each step, falling; what the network is told.
    #[must_use]
    pub fn timesteps(&self) -> &[usize] {
        match self {
            Self::Ddim(sampler) => sampler.timesteps(),
            Self::UniPc(sampler) => sampler.timesteps(),
        }
    }

    /// Standard deviation of the noise to start from.
    #[must_use]
    pub fn init_noise_sigma(&self) -> f64 {
        // Both samplers preserve the variance.
        1.0
    }

    /// One step: the latents at the next timestep, or the clean latents after the last one.
    ///
    /// `model_output` is the network's prediction for `sample` at `timesteps()[step_idx]`. Steps of one image
    /// follow each other; any other `step_idx` begins a new image there.
    ///
    /// # Shapes
    /// - `model_output`, `sample` and output: `[batch, channels, height, width]`; the output is f32
    ///
    /// # Panics
    /// If `step_idx` is not below the number of timesteps.
    #[must_use]
    pub fn step(&mut self, model_output: Tensor<4>, step_idx: usize, sample: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Ddim(sampler) => sampler.step(model_output, step_idx, sample, None),
            Self::UniPc(sampler) => sampler.step(model_output, step_idx, sample),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampler_names_are_the_same_in_serde_display_and_parsing() {
        for kind in [SamplerKind::Ddim, SamplerKind::UniPc] {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
            assert_eq!(kind.to_string().parse::<SamplerKind>().unwrap(), kind);
        }
        assert_eq!(
            "euler".parse::<SamplerKind>().unwrap_err().to_string(),
            "unsupported `sampler` = `euler`; supported: ddim, unipc"
        );
    }

    #[test]
    fn impossible_numbers_of_steps_are_errors() {
        for kind in [SamplerKind::Ddim, SamplerKind::UniPc] {
            for n_steps in [0, 1001] {
                assert!(matches!(
                    Sampler::from_config(kind, &SchedulerJson::default(), n_steps),
                    Err(DiffusionError::StepCount { .. })
                ));
            }
        }
    }

    #[test]
    fn every_number_of_steps_either_works_or_is_an_error() {
        for (spacing, offset) in [("leading", 0), ("leading", 1), ("linspace", 0), ("trailing", 0)] {
            let json = SchedulerJson {
                num_train_timesteps: Some(50),
                timestep_spacing: Some(spacing.to_owned()),
                steps_offset: Some(offset),
                ..Default::default()
            };
            for kind in [SamplerKind::Ddim, SamplerKind::UniPc] {
                for n_steps in 1..=50 {
                    if let Ok(sampler) = Sampler::from_config(kind, &json, n_steps) {
                        assert_eq!(sampler.timesteps().len(), n_steps);
                        assert!(sampler.timesteps()[0] < 50);
                        assert!(sampler.timesteps().is_sorted_by(|left, right| left > right));
                    } else {
                        assert!(n_steps > 25, "{kind} {spacing}+{offset} refuses {n_steps} steps");
                    }
                }
            }
        }
    }
}

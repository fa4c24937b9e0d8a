//! Samplers: from noise to latents in a few steps.

mod ddim;
mod ddpm;
mod dpm;
mod euler;
mod heun;
mod lcm;
mod lms;
mod pndm;
mod sigmas;
mod timesteps;
mod unipc;

use std::fmt;
use std::str::FromStr;

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use self::ddpm::Ddpm;
use self::dpm::DpmPlusPlus;
use self::euler::Euler;
use self::heun::Heun;
use self::lcm::Lcm;
use self::lms::Lms;
use self::pndm::Pndm;
use crate::config::{Choice, DdimConfig, UniPcConfig};
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;

pub use ddim::{Ddim, VarianceNoise};
pub use unipc::UniPc;

/// Which sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerKind {
    /// DDIM (Song et al. 2020).
    Ddim,
    /// DDPM (Ho et al. 2020), with fresh noise in each step.
    Ddpm,
    /// DPM-Solver++ (Lu et al. 2022), multistep: "DPM++ 2M".
    #[serde(rename = "dpmpp-2m")]
    DpmPp2m,
    /// The same for the stochastic equation: "DPM++ 2M SDE".
    #[serde(rename = "dpmpp-2m-sde")]
    DpmPp2mSde,
    /// Euler's method (Karras et al. 2022).
    Euler,
    /// Euler's method with fresh noise in each step: "Euler a".
    EulerA,
    /// Heun's method (Karras et al. 2022); nearly two calls of the network for each step.
    Heun,
    /// Latent consistency models (Luo et al. 2023); for models distilled for it.
    Lcm,
    /// A linear multistep method.
    Lms,
    /// PNDM (Liu et al. 2022) without Runge-Kutta steps: "PLMS".
    Pndm,
    /// UniPC (Zhao et al. 2023).
    #[serde(rename = "unipc")]
    UniPc,
}

impl SamplerKind {
    /// Every sampler.
    pub const ALL: [Self; 11] = [
        Self::Ddim,
        Self::Ddpm,
        Self::DpmPp2m,
        Self::DpmPp2mSde,
        Self::Euler,
        Self::EulerA,
        Self::Heun,
        Self::Lcm,
        Self::Lms,
        Self::Pndm,
        Self::UniPc,
    ];

    /// The name in flags and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        Choice::name(self)
    }
}

impl Choice for SamplerKind {
    const KEY: &'static str = "sampler";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("ddim", Self::Ddim),
        ("ddpm", Self::Ddpm),
        ("dpmpp-2m", Self::DpmPp2m),
        ("dpmpp-2m-sde", Self::DpmPp2mSde),
        ("euler", Self::Euler),
        ("euler-a", Self::EulerA),
        ("heun", Self::Heun),
        ("lcm", Self::Lcm),
        ("lms", Self::Lms),
        ("pndm", Self::Pndm),
        ("unipc", Self::UniPc),
    ];
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

/// Draws standard normal noise of the latents' shape, in f32.
pub type NoiseSource<'a> = &'a mut dyn FnMut() -> Tensor<4>;

/// What a sampler does at one call of the network.
trait Solver: fmt::Debug {
    /// The timestep of each call.
    fn timesteps(&self) -> &[f64];

    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    fn scale_input(&self, sample: Tensor<4>, _call: usize) -> Tensor<4> {
        sample
    }

    fn step(
        &mut self,
        output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        noise: NoiseSource<'_>,
    ) -> Tensor<4>;
}

/// A sampler for a fixed number of steps.
///
/// ```
/// use pyrograph_diffusion::{Sampler, SamplerKind, SchedulerJson};
///
/// let json: SchedulerJson = r#"{"beta_schedule": "scaled_linear", "clip_sample": false}"#.parse()?;
/// let sampler = Sampler::from_config(SamplerKind::UniPc, &json, 4)?;
/// assert_eq!(sampler.timesteps(), [999.0, 749.0, 500.0, 250.0]);
/// # Ok::<(), pyrograph_diffusion::DiffusionError>(())
/// ```
#[derive(Debug)]
pub struct Sampler(Box<dyn Solver>);

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
        Ok(Self(match kind {
            SamplerKind::Ddim => Box::new(Ddim::new(&DdimConfig::try_from(json)?, n_steps)?),
            SamplerKind::Ddpm => Box::new(Ddpm::new(json, n_steps)?),
            SamplerKind::DpmPp2m => Box::new(DpmPlusPlus::new(json, n_steps, false)?),
            SamplerKind::DpmPp2mSde => Box::new(DpmPlusPlus::new(json, n_steps, true)?),
            SamplerKind::Euler => Box::new(Euler::new(json, n_steps)?),
            SamplerKind::EulerA => Box::new(Euler::ancestral(json, n_steps)?),
            SamplerKind::Heun => Box::new(Heun::new(json, n_steps)?),
            SamplerKind::Lcm => Box::new(Lcm::new(json, n_steps)?),
            SamplerKind::Lms => Box::new(Lms::new(json, n_steps)?),
            SamplerKind::Pndm => Box::new(Pndm::new(json, n_steps)?),
            SamplerKind::UniPc => Box::new(UniPc::new(&UniPcConfig::try_from(json)?, n_steps)?),
        }))
    }

    /// What the network is told at each call. Most samplers call it once for each step; Heun's calls it again where a step ends, and
    /// PNDM makes its second step twice. Linspace gives Euler's kin timesteps that are not whole.
    #[must_use]
    pub fn timesteps(&self) -> &[f64] {
        self.0.timesteps()
    }

    /// Standard deviation of the noise to start from.
    #[must_use]
    pub fn init_noise_sigma(&self) -> f64 {
        self.0.init_noise_sigma()
    }

    /// The sample as the network is to see it.
    ///
    /// # Panics
    /// If `call` is not below the number of timesteps.
    #[must_use]
    pub fn scale_input(&self, sample: Tensor<4>, call: usize) -> Tensor<4> {
        self.0.scale_input(sample, call)
    }

    /// The sample for the next call, or the clean latents after the last one.
    ///
    /// `model_output` is the network's prediction for the scaled `sample` at `timesteps()[call]`. Calls of one image follow each
    /// other from 0 on. `noise` is asked only by samplers that add fresh noise.
    ///
    /// # Shapes
    /// - `model_output`, `sample` and output: `[batch, channels, height, width]`; the output is f32
    ///
    /// # Panics
    /// If `call` is not below the number of timesteps.
    #[must_use]
    pub fn step(
        &mut self,
        model_output: Tensor<4>,
        call: usize,
        sample: Tensor<4>,
        noise: NoiseSource<'_>,
    ) -> Tensor<4> {
        self.0.step(model_output, call, sample, noise)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampler_names_are_the_same_in_serde_display_and_parsing() {
        for kind in SamplerKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
            assert_eq!(kind.to_string().parse::<SamplerKind>().unwrap(), kind);
        }
        assert_eq!(
            "dpm2".parse::<SamplerKind>().unwrap_err().to_string(),
            "unsupported `sampler` = `dpm2`; supported: ddim, ddpm, dpmpp-2m, dpmpp-2m-sde, euler, euler-a, heun, lcm, lms, pndm, unipc"
        );
    }

    #[test]
    fn impossible_numbers_of_steps_are_errors() {
        let json = SchedulerJson { skip_prk_steps: Some(true), ..Default::default() };
        for kind in SamplerKind::ALL {
            for n_steps in [0, 1001] {
                assert!(matches!(
                    Sampler::from_config(kind, &json, n_steps),
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
                        assert!(sampler.timesteps()[0] < 50.0);
                        assert!(sampler.timesteps().is_sorted_by(|left, right| left > right));
                    } else {
                        assert!(n_steps > 25, "{kind} {spacing}+{offset} refuses {n_steps} steps");
                    }
                }
            }
        }
    }
}

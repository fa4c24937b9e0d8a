//! Samplers: from noise to latents in a few steps.

mod ddim;
mod ddpm;
mod dpm;
mod dpm_sde;
mod euler;
mod heun;
mod lcm;
mod lms;
mod pndm;
mod sigmas;
mod timesteps;
mod unipc;

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use burn::prelude::*;
use burn::tensor::DType;
use serde::{Deserialize, Serialize};

use self::ddpm::Ddpm;
use self::dpm::DpmPlusPlus;
use self::dpm_sde::DpmSde;
use self::euler::Euler;
use self::heun::Heun;
use self::lcm::Lcm;
use self::lms::Lms;
use self::pndm::Pndm;
use crate::config::{Choice, DdimConfig, UniPcConfig};
use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;
use crate::rounding::whole_part;
use crate::schedule::NoiseLevel;

pub use ddim::{Ddim, VarianceNoise};
pub use timesteps::Steps;
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
    /// DPM-Solver++ for the stochastic equation in single steps, "DPM++ SDE"; nearly two calls of the network for each step.
    #[serde(rename = "dpmpp-sde")]
    DpmPpSde,
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
    /// PNDM (Liu et al. 2022); without Runge-Kutta steps, "PLMS", as Stable Diffusion's configs have it.
    Pndm,
    /// UniPC (Zhao et al. 2023).
    #[serde(rename = "unipc")]
    UniPc,
}

impl SamplerKind {
    /// Every sampler.
    pub const ALL: [Self; 12] = [
        Self::Ddim,
        Self::Ddpm,
        Self::DpmPp2m,
        Self::DpmPp2mSde,
        Self::DpmPpSde,
        Self::Euler,
        Self::EulerA,
        Self::Heun,
        Self::Lcm,
        Self::Lms,
        Self::Pndm,
        Self::UniPc,
    ];

    /// Whether `use_karras_sigmas` changes its steps; the others do not know of it, as in diffusers.
    #[must_use]
    pub fn knows_karras_sigmas(self) -> bool {
        use SamplerKind::{DpmPp2m, DpmPp2mSde, DpmPpSde, Euler, Heun, Lms, UniPc};
        matches!(self, DpmPp2m | DpmPp2mSde | DpmPpSde | Euler | Heun | Lms | UniPc)
    }

    /// Whether it can be told at which timesteps to sample.
    fn takes_timesteps(self) -> bool {
        matches!(self, Self::Ddpm | Self::DpmPp2m | Self::DpmPp2mSde | Self::Euler | Self::Heun | Self::Lcm)
    }

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
        ("dpmpp-sde", Self::DpmPpSde),
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

    /// Calls for each step, as far as leaving out steps is concerned.
    fn order(&self) -> usize {
        1
    }

    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// Clean latents and noise in the sample of a call; `alpha` is 1 where samples are `latents + sigma * noise`.
    fn noising(&self, call: usize) -> NoiseLevel;

    /// Forgets the calls before: another image begins.
    fn begin(&mut self) {}

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
pub struct Sampler {
    solver: Box<dyn Solver>,
    n_steps: usize,
    n_train_timesteps: usize,
    /// Those of the solver's calls that are made.
    calls: Range<usize>,
}

impl Sampler {
    /// Makes the sampler that diffusers' `from_config` of that class and `set_timesteps`, given the steps, would make.
    ///
    /// # Errors
    /// If the config holds an unsupported value or invalid betas, or does not allow these steps.
    pub fn from_config(
        kind: SamplerKind,
        json: &SchedulerJson,
        steps: impl Into<Steps>,
    ) -> Result<Self, DiffusionError> {
        let steps = &steps.into();
        if matches!(steps, Steps::At(_)) && !kind.takes_timesteps() {
            return Err(DiffusionError::TimestepsUnsupported { sampler: kind });
        }
        let n_steps = steps.count();
        let solver: Box<dyn Solver> = match kind {
            SamplerKind::Ddim => Box::new(Ddim::new(&DdimConfig::try_from(json)?, n_steps)?),
            SamplerKind::Ddpm => Box::new(Ddpm::new(json, steps)?),
            SamplerKind::DpmPp2m => Box::new(DpmPlusPlus::new(json, steps, false)?),
            SamplerKind::DpmPp2mSde => Box::new(DpmPlusPlus::new(json, steps, true)?),
            SamplerKind::DpmPpSde => Box::new(DpmSde::new(json, n_steps)?),
            SamplerKind::Euler => Box::new(Euler::new(json, steps)?),
            SamplerKind::EulerA => Box::new(Euler::ancestral(json, n_steps)?),
            SamplerKind::Heun => Box::new(Heun::new(json, steps)?),
            SamplerKind::Lcm => Box::new(Lcm::new(json, steps)?),
            SamplerKind::Lms => Box::new(Lms::new(json, n_steps)?),
            SamplerKind::Pndm => Box::new(Pndm::new(json, n_steps)?),
            SamplerKind::UniPc => Box::new(UniPc::new(&UniPcConfig::try_from(json)?, n_steps)?),
        };
        let calls = 0..solver.timesteps().len();
        Ok(Self { solver, n_steps, n_train_timesteps: json.num_train_timesteps.unwrap_or(1000), calls })
    }

    /// Leaves out the first steps, for image-to-image: the whole part of `strength * n_steps` remains. Calls and timesteps are
    /// then those of the steps that remain, and [`Self::add_noise`] at call 0 gives the sample to begin with.
    ///
    /// PNDM and LMS make something else of the first steps that remain than of the same steps of a whole way, as in diffusers.
    ///
    /// # Errors
    /// [`DiffusionError::Strength`] if `strength` is not between 0 and 1 or leaves no step.
    ///
    /// Source: diffusers 0.42 `StableDiffusionControlNetImg2ImgPipeline.get_timesteps`.
    pub fn with_strength(self, strength: f64) -> Result<Self, DiffusionError> {
        let n_steps = self.n_steps;
        let n_kept = whole_part(n_steps as f64 * strength);
        if n_kept == 0 || strength.partial_cmp(&1.0).is_none_or(Ordering::is_gt) {
            return Err(DiffusionError::Strength { strength, n_steps });
        }
        let n_skipped = (n_steps - n_kept) * self.solver.order();
        Ok(Self { calls: n_skipped..self.calls.end, ..self })
    }

    /// Leaves out the first steps, for the second of several denoisers: those of the first `start` of the training timesteps, from the noisiest
    /// on. The first sample is what another sampler with [`Self::with_denoising_end`] ended with.
    ///
    /// # Errors
    /// [`DiffusionError::Part`] if no step remains, or `start` is not in [0, 1).
    ///
    /// Source: diffusers 0.42 `StableDiffusionXLControlNetInpaintPipeline.get_timesteps`.
    pub fn with_denoising_start(self, start: f64) -> Result<Self, DiffusionError> {
        if start == 0.0 {
            return Ok(self);
        }
        let cutoff = self.cutoff(start);
        let timesteps = self.solver.timesteps();
        let mut n_kept = timesteps.iter().filter(|timestep| **timestep < cutoff).count();
        // A step of two calls is not torn.
        if self.solver.order() == 2 && n_kept.is_multiple_of(2) {
            n_kept += 1;
        }
        let calls = timesteps.len().saturating_sub(n_kept)..self.calls.end;
        self.with_calls(calls, start, 1.0)
    }

    /// Leaves out the last steps, for all but the last of several denoisers: those after the first `end` of the training timesteps.
    ///
    /// # Errors
    /// [`DiffusionError::Part`] if no step remains, or `end` is not in (0, 1].
    ///
    /// Source: diffusers 0.42 `StableDiffusionXLControlNetPipeline`, `denoising_end`.
    pub fn with_denoising_end(self, end: f64) -> Result<Self, DiffusionError> {
        if end == 1.0 {
            return Ok(self);
        }
        let cutoff = self.cutoff(end);
        let n_kept = self.timesteps().iter().filter(|timestep| **timestep >= cutoff).count();
        let calls = self.calls.start..self.calls.start + n_kept;
        self.with_calls(calls, 0.0, end)
    }

    /// The timestep where a part of the training timesteps is over.
    fn cutoff(&self, part: f64) -> f64 {
        let n_train_timesteps = self.n_train_timesteps as f64;
        (n_train_timesteps - part * n_train_timesteps).round_ties_even()
    }

    fn with_calls(self, calls: Range<usize>, start: f64, end: f64) -> Result<Self, DiffusionError> {
        if calls.is_empty() || !(0.0 <= start && start < end && end <= 1.0) {
            return Err(DiffusionError::Part { start, end });
        }
        Ok(Self { calls, ..self })
    }

    /// What the network is told at each call. Most samplers call it once for each step; Heun's calls it again where a step ends, DPM++ SDE
    /// in its midst, and PNDM makes its second step twice, or its first three with four calls each. Linspace gives Euler's kin timesteps that are not whole.
    #[must_use]
    pub fn timesteps(&self) -> &[f64] {
        &self.solver.timesteps()[self.calls.clone()]
    }

    /// Standard deviation of the noise to start from.
    #[must_use]
    pub fn init_noise_sigma(&self) -> f64 {
        self.solver.init_noise_sigma()
    }

    /// The sample of a call, made of clean latents and standard normal noise: what image-to-image begins with at call 0, and what
    /// inpainting puts back around the mask before each further one.
    ///
    /// # Shapes
    /// - `clean`, `noise` and output: `[batch, channels, height, width]`; the output is f32
    ///
    /// # Panics
    /// If `call` is not below the number of timesteps.
    ///
    /// Source: diffusers 0.42, `add_noise` of each scheduler after `set_begin_index`. Samplers that count in `sigma / alpha` add
    /// noise to unscaled latents; the others, UniPC and DPM-Solver too, scale both.
    #[must_use]
    pub fn add_noise(&self, clean: Tensor<4>, noise: Tensor<4>, call: usize) -> Tensor<4> {
        let level = self.solver.noising(self.calls.start + call);
        clean.cast(DType::F32) * level.alpha + noise.cast(DType::F32) * level.sigma
    }

    /// The sample as the network is to see it.
    ///
    /// # Panics
    /// If `call` is not below the number of timesteps.
    #[must_use]
    pub fn scale_input(&self, sample: Tensor<4>, call: usize) -> Tensor<4> {
        self.solver.scale_input(sample, self.calls.start + call)
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
        if call == 0 {
            self.solver.begin();
        }
        self.solver.step(model_output, self.calls.start + call, sample, noise)
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
            "unsupported `sampler` = `dpm2`; supported: ddim, ddpm, dpmpp-2m, dpmpp-2m-sde, dpmpp-sde, euler, euler-a, heun, lcm, lms, pndm, unipc"
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
    fn a_strength_that_leaves_no_step_or_more_than_all_is_an_error() {
        for strength in [0.0, 0.24, -0.5, 1.01, f64::NAN, f64::INFINITY] {
            let sampler = Sampler::from_config(SamplerKind::Ddim, &SchedulerJson::default(), 4).unwrap();
            assert!(matches!(
                sampler.with_strength(strength),
                Err(DiffusionError::Strength { n_steps: 4, .. })
            ));
        }
    }

    #[test]
    fn a_second_image_is_not_touched_by_the_first() {
        let device = Device::flex();
        let json = SchedulerJson { skip_prk_steps: Some(true), ..Default::default() };
        let noise = Tensor::<4>::from_floats([[[[-1.5, 0.25]]]], &device);
        for kind in SamplerKind::ALL {
            for strength in [0.6, 1.0] {
                let sampler = Sampler::from_config(kind, &json, 5).unwrap();
                let mut sampler = sampler.with_strength(strength).unwrap();
                let mut run = |start: Tensor<4>, n_calls: usize| {
                    (0..n_calls).fold(start, |latents, call| {
                        let output = sampler.scale_input(latents.clone(), call) * 0.5;
                        sampler.step(output, call, latents, &mut || noise.zeros_like())
                    })
                };
                let first = run(noise.clone(), 3);
                for n_calls in 1..=3 {
                    let _ = run(noise.clone() * 3.0, n_calls);
                    run(noise.clone(), 3).into_data().assert_eq(&first.clone().into_data(), true);
                }
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

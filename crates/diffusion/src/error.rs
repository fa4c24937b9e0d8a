//! What can be wrong with a scheduler config or a number of steps.

use crate::SamplerKind;

/// Every way in which this crate refuses an input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffusionError {
    /// The text is not a JSON object with the types that diffusers writes.
    #[error("invalid scheduler config")]
    InvalidJson {
        /// Where and why reading stopped.
        #[from]
        source: serde_json::Error,
    },

    /// A value that diffusers knows, or may come to know, and we do not support.
    #[error("unsupported `{key}` = `{value}`; supported: {supported}")]
    UnsupportedValue {
        /// The key in `scheduler_config.json`, or `sampler` for a sampler's name.
        key: &'static str,
        /// The value found.
        value: String,
        /// What may stand there.
        supported: String,
    },

    /// `trained_betas` does not have one value per training timestep.
    #[error("`trained_betas` has {found} values, but `num_train_timesteps` is {expected}")]
    TrainedBetasLength {
        /// `num_train_timesteps`.
        expected: usize,
        /// The length of `trained_betas`.
        found: usize,
    },

    /// A beta outside (0, 1) would add no noise, or noise of an imaginary size.
    #[error("beta is {beta} at timestep {timestep}, expected a value between 0 and 1")]
    InvalidBeta {
        /// The first timestep with a wrong beta.
        timestep: usize,
        /// Its beta, in f32.
        beta: f64,
    },

    /// The number of sampling steps is zero or larger than the number of training timesteps.
    #[error("cannot sample in {n_steps} steps, expected 1 to {n_train_timesteps}")]
    StepCount {
        /// The number asked for.
        n_steps: usize,
        /// `num_train_timesteps`.
        n_train_timesteps: usize,
    },

    /// Timesteps that somebody chose and that cannot be sampled at.
    #[error("cannot sample at the timesteps {timesteps:?}: they must fall, from {last_timestep} at most")]
    Timesteps {
        /// Those chosen.
        timesteps: Vec<usize>,
        /// `num_train_timesteps - 1`.
        last_timestep: usize,
    },

    /// Timesteps for a sampler that does not take them.
    #[error("the sampler {sampler} chooses its timesteps itself")]
    TimestepsUnsupported {
        /// The sampler.
        sampler: SamplerKind,
    },

    /// A part of the way that is none, or holds no step.
    #[error("no step lies between {start} and {end} of the way")]
    Part {
        /// Where it begins, 0 being pure noise.
        start: f64,
        /// Where it ends, 1 being clean latents.
        end: f64,
    },

    /// Image-to-image of this strength would make none of the steps, or more than there are.
    #[error("the strength {strength} is not above 0 and at most 1, or leaves none of {n_steps} steps")]
    Strength {
        /// The strength asked for.
        strength: f64,
        /// The number of sampling steps.
        n_steps: usize,
    },

    /// `steps_offset` moves a timestep past the end of the schedule.
    #[error(
        "`steps_offset` = {steps_offset} with {n_steps} steps asks for timestep {timestep}, \
         but the last one is {last_timestep}"
    )]
    TimestepOutOfRange {
        /// The largest timestep that the spacing gives.
        timestep: usize,
        /// `num_train_timesteps - 1`.
        last_timestep: usize,
        /// The config's `steps_offset`.
        steps_offset: usize,
        /// The number of sampling steps.
        n_steps: usize,
    },

    /// Two consecutive steps would have the same noise level, so the solver would divide by zero.
    #[error(
        "{n_steps} steps are too many for this spacing: the noise does not fall after timestep {timestep}"
    )]
    NoiseDoesNotFall {
        /// The timestep whose successor is not less noisy.
        timestep: usize,
        /// The number of sampling steps.
        n_steps: usize,
    },

    /// With zero terminal SNR, a noise prediction at the last timestep says nothing about the image.
    #[error(
        "timestep {timestep} is pure noise, which a model with `prediction_type` = `epsilon` cannot start from"
    )]
    NoSignal {
        /// The timestep without signal.
        timestep: usize,
    },
}

impl DiffusionError {
    /// What the user can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TimestepOutOfRange { .. } | Self::NoiseDoesNotFall { .. } => {
                Some("use fewer steps".to_owned())
            }
            Self::Strength { .. } => Some("use a greater strength or more steps".to_owned()),
            Self::TimestepsUnsupported { .. } => {
                Some("ddpm, dpmpp-2m, dpmpp-2m-sde, euler, heun and lcm take timesteps".to_owned())
            }
            Self::Part { .. } => {
                Some("the start lies in [0, 1), the end in (0, 1] and after the start".to_owned())
            }
            Self::NoSignal { .. } => {
                Some("set `timestep_spacing` to `leading`, which leaves out the last timestep".to_owned())
            }
            _ => None,
        }
    }
}

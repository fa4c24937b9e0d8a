//! Noise schedules, objectives and samplers; no network inside.
//!
//! [`SchedulerJson`] mirrors diffusers' `scheduler_config.json`; the typed configs are made from it.
//! [`NoiseSchedule`] adds noise and forms the training target, [`Sampler`] removes noise step by step.
//! All coefficients are computed on the host; tensors hold latents only, in f32.

mod config;
mod diffusers;
mod error;
mod objective;
mod rounding;
mod sampler;
mod schedule;

pub use config::{
    BetaSchedule, DdimConfig, FinalSigma, KarrasSigmas, PredictionType, ScheduleConfig, SolverType,
    TimestepSpacing, UniPcConfig,
};
pub use diffusers::SchedulerJson;
pub use error::DiffusionError;
pub use objective::{Distance, HuberScale, HuberSchedule, Objective, mse};
pub use sampler::{Ddim, NoiseSource, Sampler, SamplerKind, Steps, UniPc, VarianceNoise};
pub use schedule::NoiseSchedule;

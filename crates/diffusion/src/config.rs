//! Typed configs and their conversions from and to diffusers' `scheduler_config.json`.
//!
//! A missing key takes the default of the class that is *asked for*, as in diffusers' `from_config`. So the
//! config of Stable Diffusion 1.5, written by PNDM without `timestep_spacing`, means `leading` to DDIM and
//! `linspace` to UniPC.

use std::fmt;

use crate::diffusers::SchedulerJson;
use crate::error::DiffusionError;

/// Classes of diffusers whose files describe the same noise schedule under the same keys.
///
/// Source: diffusers 0.42 `KarrasDiffusionSchedulers` without EDM, which has no betas, and the distilled
/// models' LCM and TCD.
const CLASSES: [&str; 16] = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
];

/// More than any model has; a larger number in a file is a mistake, not a schedule to allocate.
const MAX_TRAIN_TIMESTEPS: usize = 1_000_000;

/// A choice that the file spells as a string.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    /// The key in the file.
    const KEY: &'static str;
    /// All spellings; the first one of a value is the one we write.
    const NAMES: &'static [(&'static str, Self)];

    fn from_name(name: &str) -> Result<Self, DiffusionError> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, choice)| *choice).ok_or_else(|| {
            let known: Vec<_> = Self::NAMES.iter().map(|(known, _)| *known).collect();
            unsupported(Self::KEY, name, known.join(", "))
        })
    }

    fn name(self) -> &'static str {
        let (name, _) =
            Self::NAMES.iter().find(|(_, choice)| *choice == self).expect("every choice has a name");
        name
    }
}

/// Variances of the forward process, `beta_t` of Ho et al. 2020.
#[derive(Debug, Clone, PartialEq)]
pub enum BetaSchedule {
    /// Evenly spaced betas.
    Linear {
        /// First beta.
        beta_start: f64,
        /// Last beta.
        beta_end: f64,
    },
    /// Evenly spaced square roots of betas, as in latent diffusion.
    ScaledLinear {
        /// First beta.
        beta_start: f64,
        /// Last beta.
        beta_end: f64,
    },
    /// Squared cosine (Nichol and Dhariwal 2021), each beta at most 0.999.
    SquaredCosCapV2,
    /// One beta per training timestep.
    Trained(Vec<f64>),
}

/// What the network predicts, and so the target of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// The velocity `alpha * noise - sigma * image` (Salimans and Ho 2022).
    VPrediction,
}

impl Choice for PredictionType {
    const KEY: &'static str = "prediction_type";
    const NAMES: &'static [(&'static str, Self)] =
        &[("epsilon", Self::Epsilon), ("v_prediction", Self::VPrediction)];
}

/// Where the sampling timesteps lie among the training timesteps (Lin et al. 2023, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestepSpacing {
    /// Multiples of a whole number, from 0 on.
    Leading,
    /// Evenly from the last timestep to the first.
    Linspace,
    /// Evenly from the last timestep, which is always included.
    Trailing,
}

impl Choice for TimestepSpacing {
    const KEY: &'static str = "timestep_spacing";
    const NAMES: &'static [(&'static str, Self)] =
        &[("leading", Self::Leading), ("linspace", Self::Linspace), ("trailing", Self::Trailing)];
}

/// `B(h)` of UniPC (Zhao et al. 2023, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SolverType {
    /// `B(h) = h`.
    Bh1,
    /// `B(h) = exp(h) - 1`.
    Bh2,
}

impl Choice for SolverType {
    const KEY: &'static str = "solver_type";
    // The last three belong to DPM-Solver and DEIS; diffusers' UniPC reads them as bh2.
    const NAMES: &'static [(&'static str, Self)] = &[
        ("bh1", Self::Bh1),
        ("bh2", Self::Bh2),
        ("midpoint", Self::Bh2),
        ("heun", Self::Bh2),
        ("logrho", Self::Bh2),
    ];
}

/// The noise level after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalSigma {
    /// No noise.
    Zero,
    /// The noise of timestep 0.
    SigmaMin,
}

impl Choice for FinalSigma {
    const KEY: &'static str = "final_sigmas_type";
    const NAMES: &'static [(&'static str, Self)] = &[("zero", Self::Zero), ("sigma_min", Self::SigmaMin)];
}

/// The noise schedule that a model was trained with.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleConfig {
    /// Number of training timesteps.
    pub n_train_timesteps: usize,
    /// The betas.
    pub beta_schedule: BetaSchedule,
    /// Whether the betas are rescaled so that the last timestep is pure noise.
    pub rescale_betas_zero_snr: bool,
    /// What the network predicts.
    pub prediction_type: PredictionType,
}

/// A DDIM sampler.
#[derive(Debug, Clone, PartialEq)]
pub struct DdimConfig {
    /// The model's noise schedule.
    pub schedule: ScheduleConfig,
    /// Where the timesteps lie.
    pub timestep_spacing: TimestepSpacing,
    /// Added to the timesteps of leading spacing.
    pub steps_offset: usize,
    /// Largest magnitude of the predicted clean image; `None` leaves it as it is, right for latents.
    pub clip_sample_range: Option<f64>,
    /// Whether the last step ends without noise (else with the noise of timestep 0).
    pub set_alpha_to_one: bool,
}

/// Between which sigmas those of Karras et al. 2022 lie; `None` is the first or last one of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct KarrasSigmas {
    /// The last sigma before the end.
    pub min: Option<f64>,
    /// The sigma to start from.
    pub max: Option<f64>,
}

/// A UniPC sampler.
#[derive(Debug, Clone, PartialEq)]
pub struct UniPcConfig {
    /// The model's noise schedule.
    pub schedule: ScheduleConfig,
    /// Where the timesteps lie.
    pub timestep_spacing: TimestepSpacing,
    /// Added to the timesteps of leading spacing.
    pub steps_offset: usize,
    /// Order of the predictor, 1 to 3.
    pub solver_order: usize,
    /// Form of `B(h)`.
    pub solver_type: SolverType,
    /// Whether the solver works on the clean image (else on the noise).
    pub predict_x0: bool,
    /// Whether the last steps fall back to lower orders.
    pub lower_order_final: bool,
    /// Indices of the steps after which the corrector is left out.
    pub disable_corrector: Vec<usize>,
    /// The noise level after the last step.
    pub final_sigma: FinalSigma,
    /// Noise levels after Karras et al. 2022 instead of those at evenly spaced timesteps.
    pub karras: Option<KarrasSigmas>,
}

impl TryFrom<&SchedulerJson> for ScheduleConfig {
    type Error = DiffusionError;

    /// Reads the noise schedule with the defaults of `DDPMScheduler`, which are those of all classes.
    fn try_from(json: &SchedulerJson) -> Result<Self, Self::Error> {
        let json = json.chosen();
        if let Some(class) = json.class_name.as_deref().filter(|class| !CLASSES.contains(class)) {
            return Err(unsupported("_class_name", class, CLASSES.join(", ")));
        }
        let n_train_timesteps = json.num_train_timesteps.unwrap_or(1000);
        if !(2..=MAX_TRAIN_TIMESTEPS).contains(&n_train_timesteps) {
            let supported = format!("2 to {MAX_TRAIN_TIMESTEPS}");
            return Err(unsupported("num_train_timesteps", n_train_timesteps, supported));
        }
        Ok(Self {
            n_train_timesteps,
            beta_schedule: beta_schedule(&json)?,
            rescale_betas_zero_snr: json.rescale_betas_zero_snr.unwrap_or(false),
            prediction_type: choice(json.prediction_type.as_deref(), PredictionType::Epsilon)?,
        })
    }
}

fn beta_schedule(json: &SchedulerJson) -> Result<BetaSchedule, DiffusionError> {
    if let Some(betas) = &json.trained_betas {
        return Ok(BetaSchedule::Trained(betas.clone()));
    }
    let beta_start = json.beta_start.unwrap_or(0.0001);
    let beta_end = json.beta_end.unwrap_or(0.02);
    match json.beta_schedule.as_deref().unwrap_or("linear") {
        "linear" => Ok(BetaSchedule::Linear { beta_start, beta_end }),
        "scaled_linear" => Ok(BetaSchedule::ScaledLinear { beta_start, beta_end }),
        "squaredcos_cap_v2" => Ok(BetaSchedule::SquaredCosCapV2),
        other => Err(unsupported("beta_schedule", other, "linear, scaled_linear, squaredcos_cap_v2")),
    }
}

impl TryFrom<&SchedulerJson> for DdimConfig {
    type Error = DiffusionError;

    /// Reads the config with the defaults of `DDIMScheduler`. Those clip: a file for latents must say
    /// `clip_sample: false`.
    fn try_from(json: &SchedulerJson) -> Result<Self, Self::Error> {
        let schedule = ScheduleConfig::try_from(json)?;
        let json = json.chosen();
        reject_true("thresholding", json.thresholding)?;
        let clip_sample_range = json.clip_sample_range.unwrap_or(1.0);
        if clip_sample_range < 0.0 {
            return Err(unsupported("clip_sample_range", clip_sample_range, "0 and above"));
        }
        Ok(Self {
            schedule,
            timestep_spacing: choice(json.timestep_spacing.as_deref(), TimestepSpacing::Leading)?,
            steps_offset: json.steps_offset.unwrap_or(0),
            clip_sample_range: json.clip_sample.unwrap_or(true).then_some(clip_sample_range),
            set_alpha_to_one: json.set_alpha_to_one.unwrap_or(true),
        })
    }
}

impl TryFrom<&SchedulerJson> for UniPcConfig {
    type Error = DiffusionError;

    /// Reads the config with the defaults of `UniPCMultistepScheduler`.
    fn try_from(json: &SchedulerJson) -> Result<Self, Self::Error> {
        let schedule = ScheduleConfig::try_from(json)?;
        let json = json.chosen();
        reject_true("thresholding", json.thresholding)?;
        reject_true("use_exponential_sigmas", json.use_exponential_sigmas)?;
        reject_true("use_beta_sigmas", json.use_beta_sigmas)?;
        reject_true("use_flow_sigmas", json.use_flow_sigmas)?;
        reject_true("use_dynamic_shifting", json.use_dynamic_shifting)?;
        reject_some("shift_terminal", json.shift_terminal.as_ref())?;
        reject_some("solver_p", json.solver_p.as_ref())?;
        let solver_order = json.solver_order.unwrap_or(2);
        if !(1..=3).contains(&solver_order) {
            return Err(unsupported("solver_order", solver_order, "1, 2, 3"));
        }
        Ok(Self {
            schedule,
            timestep_spacing: choice(json.timestep_spacing.as_deref(), TimestepSpacing::Linspace)?,
            steps_offset: json.steps_offset.unwrap_or(0),
            solver_order,
            solver_type: choice(json.solver_type.as_deref(), SolverType::Bh2)?,
            predict_x0: json.predict_x0.unwrap_or(true),
            lower_order_final: json.lower_order_final.unwrap_or(true),
            disable_corrector: json.disable_corrector.unwrap_or_default(),
            final_sigma: choice(json.final_sigmas_type.as_deref(), FinalSigma::Zero)?,
            karras: (json.use_karras_sigmas == Some(true))
                .then_some(KarrasSigmas { min: json.sigma_min, max: json.sigma_max }),
        })
    }
}

impl From<&ScheduleConfig> for SchedulerJson {
    /// Writes a `DDPMScheduler`. It does not clip, as latents have no bounds.
    fn from(config: &ScheduleConfig) -> Self {
        let (name, betas, trained_betas) = match &config.beta_schedule {
            BetaSchedule::Linear { beta_start, beta_end } => {
                (Some("linear"), Some((*beta_start, *beta_end)), None)
            }
            BetaSchedule::ScaledLinear { beta_start, beta_end } => {
                (Some("scaled_linear"), Some((*beta_start, *beta_end)), None)
            }
            BetaSchedule::SquaredCosCapV2 => (Some("squaredcos_cap_v2"), None, None),
            BetaSchedule::Trained(betas) => (None, None, Some(betas.clone())),
        };
        Self {
            class_name: Some("DDPMScheduler".to_owned()),
            num_train_timesteps: Some(config.n_train_timesteps),
            beta_schedule: name.map(str::to_owned),
            beta_start: betas.map(|(beta_start, _)| beta_start),
            beta_end: betas.map(|(_, beta_end)| beta_end),
            trained_betas,
            rescale_betas_zero_snr: Some(config.rescale_betas_zero_snr),
            prediction_type: Some(config.prediction_type.name().to_owned()),
            clip_sample: Some(false),
            ..Self::default()
        }
    }
}

impl From<&DdimConfig> for SchedulerJson {
    /// Writes a `DDIMScheduler`.
    fn from(config: &DdimConfig) -> Self {
        Self {
            class_name: Some("DDIMScheduler".to_owned()),
            timestep_spacing: Some(config.timestep_spacing.name().to_owned()),
            steps_offset: Some(config.steps_offset),
            clip_sample: Some(config.clip_sample_range.is_some()),
            clip_sample_range: config.clip_sample_range,
            set_alpha_to_one: Some(config.set_alpha_to_one),
            ..Self::from(&config.schedule)
        }
    }
}

impl From<&UniPcConfig> for SchedulerJson {
    /// Writes a `UniPCMultistepScheduler`.
    fn from(config: &UniPcConfig) -> Self {
        Self {
            class_name: Some("UniPCMultistepScheduler".to_owned()),
            timestep_spacing: Some(config.timestep_spacing.name().to_owned()),
            steps_offset: Some(config.steps_offset),
            solver_order: Some(config.solver_order),
            solver_type: Some(config.solver_type.name().to_owned()),
            predict_x0: Some(config.predict_x0),
            lower_order_final: Some(config.lower_order_final),
            disable_corrector: Some(config.disable_corrector.clone()),
            final_sigmas_type: Some(config.final_sigma.name().to_owned()),
            use_karras_sigmas: Some(config.karras.is_some()),
            sigma_min: config.karras.and_then(|sigmas| sigmas.min),
            sigma_max: config.karras.and_then(|sigmas| sigmas.max),
            clip_sample: None,
            ..Self::from(&config.schedule)
        }
    }
}

pub(crate) fn choice<C: Choice>(name: Option<&str>, default: C) -> Result<C, DiffusionError> {
    name.map_or(Ok(default), C::from_name)
}

pub(crate) fn reject_true(key: &'static str, value: Option<bool>) -> Result<(), DiffusionError> {
    if value == Some(true) { Err(unsupported(key, true, "false")) } else { Ok(()) }
}

fn reject_some(key: &'static str, value: Option<&impl fmt::Display>) -> Result<(), DiffusionError> {
    value.map_or(Ok(()), |value| Err(unsupported(key, value, "null")))
}

pub(crate) fn unsupported(
    key: &'static str,
    value: impl fmt::Display,
    supported: impl Into<String>,
) -> DiffusionError {
    DiffusionError::UnsupportedValue { key, value: value.to_string(), supported: supported.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SchedulerJson {
        text.parse().unwrap()
    }

    #[test]
    fn missing_keys_take_the_defaults_of_the_class_asked_for() {
        let pndm = parse(r#"{"_class_name": "PNDMScheduler", "steps_offset": 1, "skip_prk_steps": true}"#);
        let ddim = DdimConfig::try_from(&pndm).unwrap();
        assert_eq!(ddim.timestep_spacing, TimestepSpacing::Leading);
        assert_eq!((ddim.steps_offset, ddim.clip_sample_range, ddim.set_alpha_to_one), (1, Some(1.0), true));
        let unipc = UniPcConfig::try_from(&pndm).unwrap();
        assert_eq!(unipc.timestep_spacing, TimestepSpacing::Linspace);
        assert_eq!((unipc.solver_order, unipc.solver_type), (2, SolverType::Bh2));
    }

    #[test]
    fn a_default_recorded_as_such_does_not_reach_another_class() {
        let chosen = parse(r#"{"timestep_spacing": "leading"}"#);
        let defaulted =
            parse(r#"{"timestep_spacing": "leading", "_use_default_values": ["timestep_spacing"]}"#);
        assert_eq!(UniPcConfig::try_from(&chosen).unwrap().timestep_spacing, TimestepSpacing::Leading);
        assert_eq!(UniPcConfig::try_from(&defaulted).unwrap().timestep_spacing, TimestepSpacing::Linspace);
    }

    #[test]
    fn unsupported_values_are_named_with_their_key() {
        for (text, key, value) in [
            (r#"{"beta_schedule": "sigmoid"}"#, "beta_schedule", "sigmoid"),
            (r#"{"prediction_type": "sample"}"#, "prediction_type", "sample"),
            (r#"{"timestep_spacing": "karras"}"#, "timestep_spacing", "karras"),
            (r#"{"thresholding": true}"#, "thresholding", "true"),
            (r#"{"use_flow_sigmas": true}"#, "use_flow_sigmas", "true"),
            (r#"{"solver_type": "dopri5"}"#, "solver_type", "dopri5"),
            (r#"{"solver_order": 4}"#, "solver_order", "4"),
            (r#"{"solver_p": {"a": 1}}"#, "solver_p", r#"{"a":1}"#),
            (r#"{"shift_terminal": 0.1}"#, "shift_terminal", "0.1"),
            (r#"{"final_sigmas_type": "half"}"#, "final_sigmas_type", "half"),
            (r#"{"num_train_timesteps": 0}"#, "num_train_timesteps", "0"),
            (
                r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#,
                "_class_name",
                "FlowMatchEulerDiscreteScheduler",
            ),
        ] {
            match UniPcConfig::try_from(&parse(text)) {
                Err(DiffusionError::UnsupportedValue { key: found, value: found_value, .. }) => {
                    assert_eq!((found, found_value.as_str()), (key, value), "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn solver_types_of_other_multistep_classes_mean_bh2() {
        for name in ["midpoint", "heun", "logrho"] {
            let json = SchedulerJson { solver_type: Some(name.to_owned()), ..Default::default() };
            assert_eq!(UniPcConfig::try_from(&json).unwrap().solver_type, SolverType::Bh2);
        }
    }

    #[test]
    fn written_configs_read_back_as_they_were() {
        for beta_schedule in [
            BetaSchedule::Linear { beta_start: 0.0002, beta_end: 0.03 },
            BetaSchedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012 },
            BetaSchedule::SquaredCosCapV2,
            BetaSchedule::Trained(vec![0.1, 0.2, 0.3]),
        ] {
            let schedule = ScheduleConfig {
                n_train_timesteps: 3,
                beta_schedule,
                rescale_betas_zero_snr: true,
                prediction_type: PredictionType::VPrediction,
            };
            let ddim = DdimConfig {
                schedule: schedule.clone(),
                timestep_spacing: TimestepSpacing::Trailing,
                steps_offset: 1,
                clip_sample_range: None,
                set_alpha_to_one: false,
            };
            let unipc = UniPcConfig {
                schedule: schedule.clone(),
                timestep_spacing: TimestepSpacing::Leading,
                steps_offset: 2,
                solver_order: 3,
                solver_type: SolverType::Bh1,
                predict_x0: false,
                lower_order_final: false,
                disable_corrector: vec![0, 2],
                final_sigma: FinalSigma::SigmaMin,
                karras: Some(KarrasSigmas { min: Some(0.05), max: None }),
            };
            assert_eq!(ScheduleConfig::try_from(&SchedulerJson::from(&schedule)).unwrap(), schedule);
            assert_eq!(DdimConfig::try_from(&SchedulerJson::from(&ddim)).unwrap(), ddim);
            assert_eq!(UniPcConfig::try_from(&SchedulerJson::from(&unipc)).unwrap(), unipc);
        }
    }
}

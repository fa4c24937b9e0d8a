//! What a run makes small, as it is written down.

use pyrograph_diffusion::{Distance, HuberScale, HuberSchedule, Objective};
use serde::{Deserialize, Serialize};

use crate::choice::Choice;
use crate::plan::PlanError;
use crate::plan::require;

/// `[loss]`, which diffusers' `train_controlnet.py` does not have; the names are those of its other scripts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossSection {
    /// How far a prediction is from its target. Default: `l2`.
    pub loss_type: LossType,
    /// The scale at which `huber` and `smooth_l1` begin to take a difference for large. Default: 0.1.
    pub huber_c: f64,
    /// How that scale moves over the timesteps. Default: `snr`.
    pub huber_schedule: HuberSchedule,
    /// The signal-to-noise ratio above which a timestep counts less (min-SNR). Left out: all count alike.
    /// Diffusers' guide passes 5.
    pub snr_gamma: Option<f64>,
    /// The share of noise that is the same for all of a channel, so that bright and dark pictures are learned. Default: 0.
    pub noise_offset: f64,
    /// Rescale the noise schedule so that the last timestep is pure noise; a model that predicts velocity can learn it.
    /// Default: false, what the model's scheduler says.
    pub rescale_betas_zero_snr: bool,
    /// The share of hints replaced by a blank one, drawn for each step, in [0, 1]. Default: 0.
    pub proportion_empty_hints: f64,
    /// Add only the middle block's residual, and train no other zero convolution. Default: false; the name is that of the
    /// original ControlNet code.
    pub only_mid_control: bool,
}

impl Default for LossSection {
    fn default() -> Self {
        Self {
            loss_type: LossType::L2,
            huber_c: 0.1,
            huber_schedule: HuberSchedule::Snr,
            snr_gamma: None,
            noise_offset: 0.0,
            rescale_betas_zero_snr: false,
            proportion_empty_hints: 0.0,
            only_mid_control: false,
        }
    }
}

/// How far a prediction is from its target: `--loss_type`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// The squared difference.
    #[default]
    L2,
    /// Squared for small differences, linear for large ones.
    Huber,
    /// The absolute difference with a rounded corner.
    SmoothL1,
}

impl Choice for LossType {
    const NAMES: &'static [(&'static str, Self)] =
        &[("l2", Self::L2), ("huber", Self::Huber), ("smooth_l1", Self::SmoothL1)];
}

impl Choice for HuberSchedule {
    const NAMES: &'static [(&'static str, Self)] =
        &[("constant", Self::Constant), ("exponential", Self::Exponential), ("snr", Self::Snr)];
}

impl LossSection {
    /// The section itself, if its numbers make sense.
    pub(crate) fn checked(self) -> Result<Self, PlanError> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        if let Some(gamma) = self.snr_gamma {
            require("snr_gamma", "positive and finite", gamma, positive(gamma))?;
        }
        require("huber_c", "positive and finite", self.huber_c, positive(self.huber_c))?;
        let offset = self.noise_offset;
        require("noise_offset", "0 or more", offset, offset >= 0.0 && offset.is_finite())?;
        let share = self.proportion_empty_hints;
        require("proportion_empty_hints", "in the range [0, 1]", share, (0.0..=1.0).contains(&share))?;
        Ok(self)
    }

    /// The objective that it describes.
    #[must_use]
    pub fn objective(&self) -> Objective {
        let scale = HuberScale { c: self.huber_c, schedule: self.huber_schedule };
        let distance = match self.loss_type {
            LossType::L2 => Distance::Squared,
            LossType::Huber => Distance::Huber(scale),
            LossType::SmoothL1 => Distance::SmoothL1(scale),
        };
        Objective { distance, snr_gamma: self.snr_gamma }
    }
}

//! Flags of what training makes small.

use clap::Args;
use pyrograph_train::{HuberSchedule, LossSection, LossType};

use super::choice::named;

#[derive(Debug, Args)]
#[command(next_help_heading = "Loss")]
pub(super) struct LossArgs {
    /// How far a prediction is from its target [default: l2].
    #[arg(long, value_parser = named::<LossType>(), value_name = "TYPE")]
    loss_type: Option<LossType>,
    /// The difference above which huber and smooth_l1 are linear [default: 0.1].
    #[arg(long, value_name = "C")]
    huber_c: Option<f64>,
    /// How that moves over the timesteps [default: snr].
    #[arg(long, value_parser = named::<HuberSchedule>(), value_name = "SCHEDULE")]
    huber_schedule: Option<HuberSchedule>,
    /// Let timesteps with a higher signal-to-noise ratio than this count less (min-SNR; 5 is usual) [default: all count alike].
    #[arg(long, value_name = "GAMMA")]
    snr_gamma: Option<f64>,
    /// The share of noise that is the same for all of a channel [default: 0].
    #[arg(long, value_name = "SHARE")]
    noise_offset: Option<f64>,
    /// Rescale the noise schedule so that the last timestep is pure noise.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    rescale_betas_zero_snr: Option<bool>,
    /// The share of hints replaced by a blank one, from 0 to 1 [default: 0].
    #[arg(long, value_name = "SHARE")]
    proportion_empty_hints: Option<f64>,
    /// Add and train only the middle block's residual.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    only_mid_control: Option<bool>,
}

impl LossArgs {
    pub(super) fn apply(&self, loss: &mut LossSection) {
        super::set(&mut loss.loss_type, &self.loss_type);
        super::set(&mut loss.huber_c, &self.huber_c);
        super::set(&mut loss.huber_schedule, &self.huber_schedule);
        super::set_some(&mut loss.snr_gamma, &self.snr_gamma);
        super::set(&mut loss.noise_offset, &self.noise_offset);
        super::set(&mut loss.rescale_betas_zero_snr, &self.rescale_betas_zero_snr);
        super::set(&mut loss.proportion_empty_hints, &self.proportion_empty_hints);
        super::set(&mut loss.only_mid_control, &self.only_mid_control);
    }
}

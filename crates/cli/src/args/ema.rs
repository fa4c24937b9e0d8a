//! Flags of the average that a run ends with.

use clap::Args;
use pyrograph_train::EmaSection;

#[derive(Debug, Args)]
#[command(next_help_heading = "Average")]
pub(super) struct EmaArgs {
    /// Keep an exponential moving average of the ControlNet's weights: what is evaluated, drawn with and written in the end.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    use_ema: Option<bool>,
    /// The largest share that the average keeps at an update [default: 0.9999].
    #[arg(long, value_name = "SHARE")]
    ema_decay: Option<f64>,
    /// Updates before the average begins [default: 0].
    #[arg(long, value_name = "N")]
    ema_update_after_step: Option<u32>,
    /// Let the share rise as 1 - (1 + step / inv_gamma)^-power instead of (1 + step) / (10 + step).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    use_ema_warmup: Option<bool>,
    /// The scale of that rise, in updates [default: 1].
    #[arg(long, value_name = "N")]
    ema_inv_gamma: Option<f64>,
    /// Its power [default: 2/3].
    #[arg(long, value_name = "P")]
    ema_power: Option<f64>,
}

impl EmaArgs {
    pub(super) fn apply(&self, ema: &mut EmaSection) {
        super::set(&mut ema.use_ema, &self.use_ema);
        super::set(&mut ema.ema_decay, &self.ema_decay);
        super::set(&mut ema.ema_update_after_step, &self.ema_update_after_step);
        super::set(&mut ema.use_ema_warmup, &self.use_ema_warmup);
        super::set(&mut ema.ema_inv_gamma, &self.ema_inv_gamma);
        super::set(&mut ema.ema_power, &self.ema_power);
    }
}

//! An exponential moving average of what is trained: what a run is judged by and ends with, if that is asked for.

use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;
use pyrograph_pipeline::{load_controlnet, save_controlnet_as};
use pyrograph_unet::{ControlNet, ControlNetConfig, ControlNetJson};
use pyrograph_weights::{Disk, Pickles};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::TrainError;
use crate::checkpoint::read_json;
use crate::plan::{PlanError, require};

/// `[ema]`, which diffusers' `train_controlnet.py` does not have; names and defaults are those of its other scripts and of
/// its `EMAModel`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmaSection {
    /// Keep an average of the ControlNet's weights over the updates; evaluations, pictures, `best/` and the final
    /// ControlNet are that average. Default: false.
    pub use_ema: bool,
    /// The largest share that the average keeps at an update. Default: 0.9999.
    pub ema_decay: f64,
    /// Updates before the average begins. Default: 0.
    pub ema_update_after_step: u32,
    /// Let the share rise as `1 - (1 + step / ema_inv_gamma)^-ema_power` instead of `(1 + step) / (10 + step)`.
    /// Default: false.
    pub use_ema_warmup: bool,
    /// The scale of that rise, in updates. Default: 1.
    pub ema_inv_gamma: f64,
    /// Its power. Default: 2/3.
    pub ema_power: f64,
}

impl Default for EmaSection {
    fn default() -> Self {
        Self {
            use_ema: false,
            ema_decay: 0.9999,
            ema_update_after_step: 0,
            use_ema_warmup: false,
            ema_inv_gamma: 1.0,
            ema_power: 2.0 / 3.0,
        }
    }
}

impl EmaSection {
    /// The section itself, if its numbers make sense.
    pub(crate) fn checked(self) -> Result<Self, PlanError> {
        let Self { ema_decay: decay, ema_inv_gamma: inv_gamma, ema_power: power, .. } = self;
        let positive = |value: f64| value > 0.0 && value.is_finite();
        require("ema_decay", "in the range [0, 1]", decay, (0.0..=1.0).contains(&decay))?;
        require("ema_inv_gamma", "positive and finite", inv_gamma, positive(inv_gamma))?;
        require("ema_power", "positive and finite", power, positive(power))?;
        Ok(self)
    }

    /// The share that the average keeps at its update `step`, counted from 1.
    ///
    /// Source: diffusers `EMAModel.get_decay` (0.42).
    #[must_use]
    pub fn decay_at(&self, step: u32) -> f64 {
        let step = f64::from(step.saturating_sub(self.ema_update_after_step).saturating_sub(1));
        if step == 0.0 {
            return 0.0;
        }
        let rising = if self.use_ema_warmup {
            1.0 - (1.0 + step / self.ema_inv_gamma).powf(-self.ema_power)
        } else {
            (1.0 + step) / (10.0 + step)
        };
        rising.min(self.ema_decay)
    }
}

/// The average of a module's parameters over its updates, in f32 on the module's device.
///
/// Source: diffusers `EMAModel` (0.42).
#[derive(Debug)]
pub struct Ema<M: Module> {
    section: EmaSection,
    /// Updates that it has seen.
    steps: u32,
    /// Without autodiff.
    average: M,
}

impl<M: Module> Ema<M> {
    /// An average that begins with a module as it is.
    #[must_use]
    pub fn new(section: EmaSection, module: &M) -> Self {
        Self { section, steps: 0, average: module.valid() }
    }

    /// The average.
    #[must_use]
    pub fn average(&self) -> &M {
        &self.average
    }

    /// Takes in a module that was updated.
    #[must_use]
    pub fn updated(self, module: &M) -> Self {
        let Self { section, steps, average } = self;
        let mut values = Values(Vec::new());
        module.visit(&mut values);
        let share = 1.0 - section.decay_at(steps + 1);
        let average = average.map(&mut Approach { values: values.0.into_iter(), share });
        Self { section, steps: steps + 1, average }
    }
}

/// Flattened parameters in visiting order, without autodiff.
struct Values(Vec<Tensor<1>>);

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().inner().flatten(0, -1));
    }
}

/// Moves parameters by a share of the way to others.
struct Approach {
    values: std::vec::IntoIter<Tensor<1>>,
    share: f64,
}

impl ModuleMapper for Approach {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = self.values.next().expect("the average has the parameters of its module");
        param.map(|average| {
            let way = average.clone() - value.reshape(average.shape());
            average - way * self.share
        })
    }
}

/// How far an average is, as diffusers keeps it in the `config.json` beside the weights.
///
/// Source: diffusers `EMAModel.save_pretrained` (0.42).
#[derive(Debug, Serialize, Deserialize)]
struct EmaJson {
    decay: f64,
    min_decay: f64,
    optimization_step: u32,
    update_after_step: u32,
    use_ema_warmup: bool,
    inv_gamma: f64,
    power: f64,
}

impl Ema<ControlNet> {
    /// Writes a folder that diffusers' `EMAModel.from_pretrained` continues from, and that is a ControlNet's folder.
    pub(crate) fn save(
        &self,
        controlnet_config: &ControlNetConfig,
        dir: &Path,
        disk: &dyn Disk,
    ) -> Result<(), TrainError> {
        let EmaSection { use_ema_warmup, ema_inv_gamma: inv_gamma, ema_power: power, .. } = self.section;
        let json = EmaJson {
            decay: self.section.ema_decay,
            min_decay: 0.0,
            optimization_step: self.steps,
            update_after_step: self.section.ema_update_after_step,
            use_ema_warmup,
            inv_gamma,
            power,
        };
        let mut config = ControlNetJson::from(controlnet_config);
        if let Ok(Value::Object(entries)) = serde_json::to_value(json) {
            config.other.extend(entries);
        }
        save_controlnet_as(&self.average, &config, dir, disk).map_err(TrainError::Pipeline)
    }

    /// The average that [`Ema::save`] wrote, to continue with on a device.
    pub(crate) fn load(section: EmaSection, dir: &Path, device: &Device) -> Result<Self, TrainError> {
        let problem = |problem| TrainError::NotACheckpoint { path: dir.to_owned(), problem };
        let EmaJson { optimization_step: steps, .. } =
            read_json(&dir.join("config.json")).map_err(problem)?;
        let (average, _) =
            load_controlnet(dir, Pickles::Refused, &device.clone().inner()).map_err(TrainError::Pipeline)?;
        Ok(Self { section, steps, average })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_keeps_more_and_more_up_to_its_decay() {
        let section = EmaSection { ema_decay: 0.5, ema_update_after_step: 2, ..EmaSection::default() };
        let decays: Vec<f64> = (1..=13).map(|step| section.decay_at(step)).collect();
        assert_eq!(decays[..5], [0.0, 0.0, 0.0, 2.0 / 11.0, 3.0 / 12.0]);
        assert_eq!(decays[9..], [8.0 / 17.0, 0.5, 0.5, 0.5]);
    }

    #[test]
    fn a_warmup_with_power_one_is_the_mean_of_all_updates() {
        let section = EmaSection { use_ema_warmup: true, ema_power: 1.0, ..EmaSection::default() };
        let mean = (1..=5).fold(0.0, |mean, step| {
            let decay = section.decay_at(step);
            decay * mean + (1.0 - decay) * f64::from(step)
        });
        assert!((mean - 3.0).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn numbers_that_make_no_average_are_refused() {
        for section in [
            EmaSection { ema_decay: 1.1, ..EmaSection::default() },
            EmaSection { ema_decay: f64::NAN, ..EmaSection::default() },
            EmaSection { ema_inv_gamma: 0.0, ..EmaSection::default() },
            EmaSection { ema_power: -1.0, ..EmaSection::default() },
        ] {
            assert!(matches!(section.checked(), Err(PlanError::OutOfRange { .. })), "{section:?}");
        }
    }
}

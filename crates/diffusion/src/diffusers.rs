//! `scheduler_config.json`, spelt exactly as diffusers spells it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::DiffusionError;

/// Declares the mirror: every key is optional, because a missing key takes the default of the class that
/// *reads* the file, not of the class that wrote it.
macro_rules! scheduler_json {
    ($($(#[$doc:meta])* $key:ident: $type:ty,)*) => {
        /// `scheduler_config.json` of any diffusers scheduler for Stable Diffusion: the union of the keys of
        /// DDPM, DDIM, PNDM, Euler and UniPC. `None` is a missing key or `null`.
        ///
        /// Read it with [`str::parse`], which also takes the `-Infinity` that Python writes. The typed configs
        /// are made from it with `TryFrom`, and it is made from them with `From`.
        ///
        /// Source: diffusers 0.42 `configuration_utils.py` and `schedulers/scheduling_*.py`.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct SchedulerJson {
            /// The class that wrote the file.
            #[serde(rename = "_class_name", skip_serializing_if = "Option::is_none")]
            pub class_name: Option<String>,
            /// The version of diffusers that wrote the file.
            #[serde(rename = "_diffusers_version", skip_serializing_if = "Option::is_none")]
            pub diffusers_version: Option<String>,
            /// Keys that nobody chose: the writing class filled in its own defaults.
            #[serde(rename = "_use_default_values", skip_serializing_if = "Vec::is_empty")]
            pub use_default_values: Vec<String>,
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $key: Option<$type>,)*
            /// All other keys, kept as they are.
            #[serde(flatten)]
            pub other: Map<String, Value>,
        }

        impl SchedulerJson {
            fn forget(&mut self, key: &str) {
                match key {
                    $(stringify!($key) => self.$key = None,)*
                    _ => {}
                }
            }
        }
    };
}

scheduler_json! {
    /// Number of training timesteps.
    num_train_timesteps: usize,
    /// First beta.
    beta_start: f64,
    /// Last beta.
    beta_end: f64,
    /// How the betas go from `beta_start` to `beta_end`.
    beta_schedule: String,
    /// The betas themselves, instead of the three keys above.
    trained_betas: Vec<f64>,
    /// Whether the betas are rescaled so that the last timestep is pure noise.
    rescale_betas_zero_snr: bool,
    /// What the network predicts.
    prediction_type: String,
    /// Where the sampling timesteps lie among the training timesteps.
    timestep_spacing: String,
    /// Added to the sampling timesteps of `leading` spacing.
    steps_offset: usize,
    /// DDPM: the variance of the reverse process.
    variance_type: String,
    /// DDPM, DDIM: whether the predicted clean image is clipped.
    clip_sample: bool,
    /// DDPM, DDIM: the largest magnitude left by `clip_sample`.
    clip_sample_range: f64,
    /// DDIM, PNDM: whether the step after the last timestep has no noise at all.
    set_alpha_to_one: bool,
    /// Whether the predicted clean image is thresholded dynamically.
    thresholding: bool,
    /// The percentile of `thresholding`.
    dynamic_thresholding_ratio: f64,
    /// The largest threshold of `thresholding`.
    sample_max_value: f64,
    /// PNDM: whether the Runge-Kutta steps at the start are left out.
    skip_prk_steps: bool,
    /// Euler: how sigmas between timesteps are interpolated.
    interpolation_type: String,
    /// Euler: whether the network gets timesteps or log sigmas.
    timestep_type: String,
    /// Sigmas of Karras et al. 2022.
    use_karras_sigmas: bool,
    /// Sigmas spaced exponentially.
    use_exponential_sigmas: bool,
    /// Sigmas spaced by a beta distribution.
    use_beta_sigmas: bool,
    /// Smallest sigma of the three spacings above.
    sigma_min: f64,
    /// Largest sigma of the three spacings above.
    sigma_max: f64,
    /// The sigma after the last timestep: `zero` or `sigma_min`.
    final_sigmas_type: String,
    /// Multistep solvers: order of the predictor.
    solver_order: usize,
    /// Multistep solvers: variant of the update formula.
    solver_type: String,
    /// Multistep solvers: whether the last steps fall back to lower orders.
    lower_order_final: bool,
    /// UniPC: whether the solver works on the clean image (else on the noise).
    predict_x0: bool,
    /// UniPC: indices of the steps after which the corrector is left out.
    disable_corrector: Vec<usize>,
    /// UniPC: another scheduler as the predictor.
    solver_p: Value,
    /// UniPC: sigmas of flow matching.
    use_flow_sigmas: bool,
    /// UniPC: shift of the flow-matching sigmas.
    flow_shift: f64,
    /// UniPC: shift that depends on the resolution.
    use_dynamic_shifting: bool,
    /// UniPC: formula of the resolution's shift.
    time_shift_type: String,
    /// UniPC: last sigma of flow matching.
    shift_terminal: f64,
}

impl SchedulerJson {
    /// The config without the keys in `_use_default_values`: what was only a default of the writing class must
    /// not override the default of the reading class.
    ///
    /// Source: diffusers 0.42 `ConfigMixin.extract_init_dict`.
    pub(crate) fn chosen(&self) -> Self {
        let mut chosen = self.clone();
        for key in std::mem::take(&mut chosen.use_default_values) {
            chosen.forget(&key);
        }
        chosen
    }
}

impl FromStr for SchedulerJson {
    type Err = DiffusionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(serde_json::from_str(&without_infinities(text))?)
    }
}

/// Replaces Python's `Infinity`, `-Infinity` and `NaN` by `null`. DPM-Solver configs on the Hub hold
/// `"lambda_min_clipped": -Infinity`, which is not JSON.
fn without_infinities(text: &str) -> String {
    // Every second part of a text split at its unescaped quotes is inside a string.
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for letter in text.chars() {
        if letter == '"' && !escaped {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
        escaped = letter == '\\' && !escaped;
    }
    for outside_strings in parts.iter_mut().step_by(2) {
        *outside_strings =
            outside_strings.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null");
    }
    parts.join("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_infinities_are_read_and_strings_are_left_alone() {
        let json: SchedulerJson =
            r#"{"_class_name": "A \"NaN\" Infinity", "beta_start": 0.1, "lambda_min_clipped": -Infinity}"#
                .parse()
                .unwrap();
        assert_eq!(json.class_name.as_deref(), Some("A \"NaN\" Infinity"));
        assert_eq!(json.beta_start, Some(0.1));
        assert_eq!(json.other["lambda_min_clipped"], Value::Null);
    }

    #[test]
    fn unknown_keys_and_absent_keys_survive_a_round_trip() {
        let text = r#"{"_class_name":"PNDMScheduler","steps_offset":1,"interpolation":{"deep":[1,2]}}"#;
        let json: SchedulerJson = text.parse().unwrap();
        assert_eq!(serde_json::to_value(&json).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn values_that_were_only_defaults_are_dropped() {
        let json: SchedulerJson = r#"{"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": true,
                "_use_default_values": ["timestep_spacing", "clip_sample", "no_such_key"]}"#
            .parse()
            .unwrap();
        assert_eq!(json.chosen(), SchedulerJson { steps_offset: Some(1), ..Default::default() });
    }

    #[test]
    fn wrong_type_is_an_error() {
        assert!(matches!(
            r#"{"steps_offset": "one"}"#.parse::<SchedulerJson>(),
            Err(DiffusionError::InvalidJson { .. })
        ));
    }
}

//! What a run is: what must be the same for a resumed run to continue the one it resumes.

use std::collections::BTreeMap;
use std::fmt;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use pyrograph_data::{Crop, Data, Flip, Share};
use pyrograph_pipeline::Bundle;
use serde::{Deserialize, Serialize};

use crate::{Choice, OptimizerSection, TrainPlan};

/// Bytes of a hash that are shown and stored: enough that two of them never meet by chance.
const SHOWN_BYTES: usize = 8;

/// Weights of each tensor that a model's hash is made of.
const HASHED_WEIGHTS: usize = 64;

/// Names and values of what decides a run's numbers, as they are shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Identity(BTreeMap<String, String>);

/// A setting that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The setting.
    pub key: String,
    /// In the checkpoint.
    pub stored: String,
    /// In this run.
    pub now: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, stored, now } = self;
        write!(f, "`{key}` was {stored} and is {now}")
    }
}

impl Identity {
    /// What is known before the base model is loaded.
    pub(crate) fn new(plan: &TrainPlan, data: &Data, share: Share) -> Self {
        let n_evaluated = plan.evaluation.map_or(0, |evaluation| evaluation.n_samples.get());
        let transform = plan.data.transform;
        let steps = transform.buckets.map(|step| format!("steps of {} px", step.get()));
        let hint = transform.hint.map(|maker| maker.to_string());
        let settings = [
            ("seed", plan.seed.to_string()),
            // Of all ranks: their number may change when a run is resumed.
            ("train_batch_size", share.batch_size_of_all(plan.data.batch_size).to_string()),
            ("gradient_accumulation_steps", plan.optimizer.accumulation_steps.to_string()),
            ("optimizer", OptimizerSection::of(&plan.optimizer.algorithm).optimizer.name().to_owned()),
            ("mixed_precision", plan.precision.mixed_precision.name().to_owned()),
            ("sd_locked", plan.model.sd_locked.to_string()),
            ("aspect buckets", steps.unwrap_or_else(|| "none".to_owned())),
            ("random_crop", (transform.crop == Crop::Random).to_string()),
            ("random_flip", (transform.flip == Flip::Random).to_string()),
            ("hint", hint.unwrap_or_else(|| "read from files".to_owned())),
            ("resolution", plan.data.transform.side.get().to_string()),
            ("data set", hexadecimal(&data.fingerprint())),
            ("number of samples", data.n_samples().to_string()),
            ("num_eval_samples", n_evaluated.to_string()),
        ];
        Self(settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// Adds the base model.
    pub(crate) fn with_base(mut self, bundle: &Bundle) -> Self {
        self.0.insert("base model".to_owned(), hexadecimal(&base_fingerprint(bundle)));
        self
    }

    /// Everything of this identity that is not as it was stored.
    pub(crate) fn differences(&self, stored: &Self) -> Vec<Difference> {
        let difference = |(key, now): (&String, &String)| {
            let stored = stored.0.get(key).map_or("unknown", String::as_str);
            (stored != now).then(|| Difference {
                key: key.clone(),
                stored: stored.to_owned(),
                now: now.clone(),
            })
        };
        self.0.iter().filter_map(difference).collect()
    }
}

fn hexadecimal(hash: &[u8; 32]) -> String {
    hash[..SHOWN_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash of the frozen networks' configs and of the first weights of each tensor. All weights would take seconds for a
/// full-size model; no fine-tuning leaves all of these as they were.
fn base_fingerprint(bundle: &Bundle) -> [u8; 32] {
    struct FirstWeights(blake3::Hasher);
    impl ModuleVisitor for FirstWeights {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let n_weights = tensor.shape().num_elements();
            self.0.update(format!("{:?}\n", tensor.dims()).as_bytes());
            let first = tensor.flatten::<1>(0, -1).narrow(0, 0, n_weights.min(HASHED_WEIGHTS));
            self.0.update(first.into_data().as_bytes());
        }
    }
    let mut weights = FirstWeights(blake3::Hasher::new());
    let Bundle { unet_config, vae_config, text, .. } = bundle;
    weights.0.update(format!("{unet_config:?} {vae_config:?}\n").as_bytes());
    bundle.unet.visit(&mut weights);
    bundle.vae.visit(&mut weights);
    for encoder in text.iter() {
        weights.0.update(format!("{:?}\n", encoder.config).as_bytes());
        encoder.model().visit(&mut weights);
    }
    *weights.0.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_told_and_no_setting_that_only_the_checkpoint_knows() {
        let identity = |settings: &[(&str, &str)]| {
            Identity(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        let now = identity(&[("seed", "8"), ("resolution", "64"), ("data set", "a")]);
        let stored = identity(&[("seed", "7"), ("resolution", "64"), ("old", "1")]);
        let told: Vec<String> = now.differences(&stored).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["`data set` was unknown and is a", "`seed` was 7 and is 8"]);
    }
}

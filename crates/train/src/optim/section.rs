//! Which optimizer a run has, as it is written down.

use std::num::{NonZeroU32, NonZeroUsize};

use serde::{Deserialize, Serialize};

use super::{AdafactorConfig, AdamWConfig, LionConfig, OptimizerConfig, ProdigyConfig};
use crate::choice::Choice;
use crate::plan::{PlanError, require};

/// `[optimizer]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSection {
    /// Which optimizer. Default: `adamw`, or `adamw8bit` with the reference's `--use_8bit_adam`.
    pub optimizer: OptimizerKind,
    /// The learning rate, after warmup. Left out: 5e-6 (the reference's guide passes 1e-5); 1 for `prodigy`, which
    /// multiplies the one that it finds.
    pub learning_rate: Option<f64>,
    /// The factor on it of zero convolutions. Default: 1; the reference has no flag for it.
    pub zero_conv_lr_factor: f64,
    /// The factor on it of the hint embedding. Default: 1; the reference has no flag for it.
    pub hint_embedding_lr_factor: f64,
    /// Multiply the learning rate by `gradient_accumulation_steps * train_batch_size`. Default: false.
    pub scale_lr: bool,
    /// Micro-batches per update. Default: 1.
    pub gradient_accumulation_steps: NonZeroUsize,
    /// The decay of the mean of the gradients; of Lion, its momentum's share in an update. Default: 0.9.
    pub adam_beta1: f64,
    /// The decay of the mean of their squares; of Lion, its momentum's. Left out: 0.999; 0.99 for `lion`.
    pub adam_beta2: Option<f64>,
    /// The weight decay. Default: 1e-2.
    pub adam_weight_decay: f64,
    /// Added to the root of the second moment, but for Lion and Adafactor. Default: 1e-8.
    pub adam_epsilon: f64,
    /// The largest norm of all gradients together. Default: 1.
    pub max_grad_norm: f64,
    /// Updates in a row that may be skipped because a number is not finite; with the last of them the run goes back to its
    /// newest checkpoint and ends. Default: 10; the reference trains on with what it has.
    pub max_nonfinite_steps: NonZeroU32,
}

impl Default for OptimizerSection {
    fn default() -> Self {
        Self {
            optimizer: OptimizerKind::Adamw,
            learning_rate: None,
            zero_conv_lr_factor: 1.0,
            hint_embedding_lr_factor: 1.0,
            scale_lr: false,
            gradient_accumulation_steps: NonZeroUsize::MIN,
            adam_beta1: 0.9,
            adam_beta2: None,
            adam_weight_decay: 1e-2,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            max_nonfinite_steps: const { NonZeroU32::new(10).expect("10 is not 0") },
        }
    }
}

/// An optimizer by name: `--optimizer`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// [`AdamWConfig`].
    #[default]
    Adamw,
    /// The same with moments of 8 bits.
    Adamw8bit,
    /// [`AdafactorConfig`].
    Adafactor,
    /// [`LionConfig`].
    Lion,
    /// [`ProdigyConfig`].
    Prodigy,
}

impl Choice for OptimizerKind {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("adamw", Self::Adamw),
        ("adamw8bit", Self::Adamw8bit),
        ("adafactor", Self::Adafactor),
        ("lion", Self::Lion),
        ("prodigy", Self::Prodigy),
    ];
}

impl OptimizerSection {
    /// The optimizer with its constants.
    ///
    /// # Errors
    /// [`PlanError::OutOfRange`] for the first constant that makes no sense.
    pub(crate) fn algorithm(&self) -> Result<OptimizerConfig, PlanError> {
        let decay =
            |flag, value: f64| require(flag, "in the range [0, 1)", value, (0.0..1.0).contains(&value));
        let not_negative =
            |flag, value: f64| require(flag, "0 or more", value, value >= 0.0 && value.is_finite());
        let beta1 = decay("adam_beta1", self.adam_beta1)?;
        let usual = if self.optimizer == OptimizerKind::Lion { 0.99 } else { 0.999 };
        let beta2 = decay("adam_beta2", self.adam_beta2.unwrap_or(usual))?;
        let epsilon = not_negative("adam_epsilon", self.adam_epsilon)?;
        let weight_decay = not_negative("adam_weight_decay", self.adam_weight_decay)?;
        let adamw = AdamWConfig { beta1, beta2, epsilon, weight_decay };
        Ok(match self.optimizer {
            OptimizerKind::Adamw => OptimizerConfig::AdamW(adamw),
            OptimizerKind::Adamw8bit => OptimizerConfig::AdamW8bit(adamw),
            OptimizerKind::Adafactor => OptimizerConfig::Adafactor(AdafactorConfig { weight_decay }),
            OptimizerKind::Lion => OptimizerConfig::Lion(LionConfig { beta1, beta2, weight_decay }),
            OptimizerKind::Prodigy => {
                OptimizerConfig::Prodigy(ProdigyConfig { beta1, beta2, epsilon, weight_decay })
            }
        })
    }

    /// The learning rate as given, or the optimizer's usual one.
    pub(crate) fn base_learning_rate(&self) -> f64 {
        let usual = if self.optimizer == OptimizerKind::Prodigy { 1.0 } else { 5e-6 };
        self.learning_rate.unwrap_or(usual)
    }

    /// The section that says all of an optimizer.
    pub(crate) fn of(algorithm: &OptimizerConfig) -> Self {
        let (optimizer, [beta1, beta2, epsilon, weight_decay]) = match *algorithm {
            OptimizerConfig::AdamW(AdamWConfig { beta1, beta2, epsilon, weight_decay }) => {
                (OptimizerKind::Adamw, [Some(beta1), Some(beta2), Some(epsilon), Some(weight_decay)])
            }
            OptimizerConfig::AdamW8bit(AdamWConfig { beta1, beta2, epsilon, weight_decay }) => {
                (OptimizerKind::Adamw8bit, [Some(beta1), Some(beta2), Some(epsilon), Some(weight_decay)])
            }
            OptimizerConfig::Adafactor(AdafactorConfig { weight_decay }) => {
                (OptimizerKind::Adafactor, [None, None, None, Some(weight_decay)])
            }
            OptimizerConfig::Lion(LionConfig { beta1, beta2, weight_decay }) => {
                (OptimizerKind::Lion, [Some(beta1), Some(beta2), None, Some(weight_decay)])
            }
            OptimizerConfig::Prodigy(ProdigyConfig { beta1, beta2, epsilon, weight_decay }) => {
                (OptimizerKind::Prodigy, [Some(beta1), Some(beta2), Some(epsilon), Some(weight_decay)])
            }
        };
        let usual = Self::default();
        Self {
            optimizer,
            adam_beta1: beta1.unwrap_or(usual.adam_beta1),
            adam_beta2: beta2,
            adam_epsilon: epsilon.unwrap_or(usual.adam_epsilon),
            adam_weight_decay: weight_decay.unwrap_or(usual.adam_weight_decay),
            ..usual
        }
    }
}

//! Flags of the optimizer.

use std::num::{NonZeroU32, NonZeroUsize};

use clap::Args;
use pyrograph_train::{OptimizerKind, OptimizerSection};

use super::choice::named;
use super::{set, set_some};

#[derive(Debug, Args)]
#[command(next_help_heading = "Optimizer")]
pub(super) struct OptimizerArgs {
    /// What makes updates of gradients [default: adamw].
    #[arg(long, value_parser = named::<OptimizerKind>(), value_name = "NAME")]
    optimizer: Option<OptimizerKind>,
    /// The same as --optimizer adamw8bit: moments of 8 bits, a quarter of their memory.
    #[arg(long, conflicts_with = "optimizer")]
    use_8bit_adam: bool,
    /// The learning rate after warmup [default: 5e-6; 1 for prodigy, which finds it].
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// The factor on the learning rate of zero convolutions [default: 1].
    #[arg(long, value_name = "FACTOR")]
    zero_conv_lr_factor: Option<f64>,
    /// The factor on the learning rate of the hint embedding [default: 1].
    #[arg(long, value_name = "FACTOR")]
    hint_embedding_lr_factor: Option<f64>,
    /// Multiply the learning rate by batch size and accumulation steps.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    scale_lr: Option<bool>,
    /// Micro-batches per update [default: 1].
    #[arg(long, value_name = "N")]
    gradient_accumulation_steps: Option<NonZeroUsize>,
    /// The decay of the mean of the gradients [default: 0.9].
    #[arg(long, value_name = "B1")]
    adam_beta1: Option<f64>,
    /// The decay of the mean of their squares; of lion, its momentum's [default: 0.999; 0.99 for lion].
    #[arg(long, value_name = "B2")]
    adam_beta2: Option<f64>,
    /// The weight decay [default: 1e-2].
    #[arg(long, value_name = "DECAY")]
    adam_weight_decay: Option<f64>,
    /// Added to the root of the second moment [default: 1e-8].
    #[arg(long, value_name = "EPS")]
    adam_epsilon: Option<f64>,
    /// The largest norm of all gradients together [default: 1].
    #[arg(long, value_name = "NORM")]
    max_grad_norm: Option<f64>,
    /// Updates in a row that may be skipped because a number is not finite, before the run ends [default: 10].
    #[arg(long, value_name = "N")]
    max_nonfinite_steps: Option<NonZeroU32>,
}

impl OptimizerArgs {
    pub(super) fn gives_optimizer(&self) -> bool {
        self.optimizer.is_some() || self.use_8bit_adam
    }

    pub(super) fn gives_accumulation(&self) -> bool {
        self.gradient_accumulation_steps.is_some()
    }

    pub(super) fn apply(&self, optimizer: &mut OptimizerSection) {
        set(&mut optimizer.optimizer, &self.optimizer);
        if self.use_8bit_adam {
            optimizer.optimizer = OptimizerKind::Adamw8bit;
        }
        set_some(&mut optimizer.learning_rate, &self.learning_rate);
        set(&mut optimizer.zero_conv_lr_factor, &self.zero_conv_lr_factor);
        set(&mut optimizer.hint_embedding_lr_factor, &self.hint_embedding_lr_factor);
        set(&mut optimizer.scale_lr, &self.scale_lr);
        set(&mut optimizer.gradient_accumulation_steps, &self.gradient_accumulation_steps);
        set(&mut optimizer.adam_beta1, &self.adam_beta1);
        set_some(&mut optimizer.adam_beta2, &self.adam_beta2);
        set(&mut optimizer.adam_weight_decay, &self.adam_weight_decay);
        set(&mut optimizer.adam_epsilon, &self.adam_epsilon);
        set(&mut optimizer.max_grad_norm, &self.max_grad_norm);
        set(&mut optimizer.max_nonfinite_steps, &self.max_nonfinite_steps);
    }
}

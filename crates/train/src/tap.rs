//! A tap on a training step.

use std::fmt::Debug;

use burn::prelude::*;

use crate::optim::Gradients;

/// Sees what a step computes with, and may change it: for experiments, and to find out what a run does when numbers go
/// wrong. Nothing is tapped unless a program asks for it.
pub trait Tap: Debug {
    /// A micro-batch before it is used.
    fn batch(&mut self, batch: Tapped<'_>) {
        let _ = batch;
    }

    /// The sum of a step's gradients before they are clipped.
    fn gradients(&mut self, step: u64, gradients: Gradients) -> Gradients {
        let _ = step;
        gradients
    }
}

/// A micro-batch on its way to the networks.
#[derive(Debug)]
pub struct Tapped<'a> {
    /// Optimizer steps made.
    pub step: u64,
    /// Micro-batches made.
    pub micro_step: u64,
    /// The samples' ids.
    pub ids: &'a [String],
    /// Mean and logarithm of the variance of the latents, `[batch, 2 * latent_channels, height, width]`.
    pub moments: &'a mut Tensor<4>,
    /// In [0, 1], `[batch, 3, height, width]`.
    pub hint: &'a mut Tensor<4>,
    /// Prompt embeddings, `[batch, tokens, context_dim]`.
    pub context: &'a mut Tensor<3>,
}

//! Where the time of a step goes.

use std::ops::AddAssign;
use std::time::Instant;

use burn::prelude::*;
use serde::Serialize;

/// The parts of a training step, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Data,
    Encode,
    Unet,
    ControlNet,
    Backward,
    Optimizer,
}

/// Seconds of each part of a training step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PhaseSeconds {
    /// Waiting for decoded images.
    pub data: f64,
    /// VAE and text encoder, or what they have encoded before; moving the batch to the device; drawing noise.
    pub encode: f64,
    /// The frozen UNet's forward pass, and the loss.
    pub unet: f64,
    /// The ControlNet's forward pass.
    pub controlnet: f64,
    /// The backward pass, with what it computes a second time.
    pub backward: f64,
    /// Clipping and the update.
    pub optimizer: f64,
}

impl PhaseSeconds {
    /// The whole step.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.data + self.encode + self.unet + self.controlnet + self.backward + self.optimizer
    }

    fn of(&mut self, phase: Phase) -> &mut f64 {
        match phase {
            Phase::Data => &mut self.data,
            Phase::Encode => &mut self.encode,
            Phase::Unet => &mut self.unet,
            Phase::ControlNet => &mut self.controlnet,
            Phase::Backward => &mut self.backward,
            Phase::Optimizer => &mut self.optimizer,
        }
    }
}

/// Tells the time of each phase, if it runs; at rest it costs nothing.
///
/// A running one waits for the device at the end of each phase, which a step that nobody watches never does.
#[derive(Debug)]
pub(crate) struct Stopwatch(Option<Running>);

#[derive(Debug)]
struct Running {
    device: Device,
    since: Instant,
    seconds: PhaseSeconds,
}

impl Stopwatch {
    pub(crate) fn at_rest() -> Self {
        Self(None)
    }

    pub(crate) fn running(device: &Device) -> Self {
        let device = device.clone();
        Self(Some(Running { device, since: Instant::now(), seconds: PhaseSeconds::default() }))
    }

    /// Counts the time since the last call to `phase`.
    pub(crate) fn lap(&mut self, phase: Phase) {
        if let Some(running) = &mut self.0 {
            // A device that has failed fails again where its numbers are read.
            let _ = running.device.sync();
            let now = Instant::now();
            running.seconds.of(phase).add_assign((now - running.since).as_secs_f64());
            running.since = now;
        }
    }

    /// The seconds since the last call, by phase; starts again.
    pub(crate) fn take(&mut self) -> PhaseSeconds {
        self.0.as_mut().map_or_else(PhaseSeconds::default, |running| std::mem::take(&mut running.seconds))
    }
}

//! The memory plan: what a run will hold, told from configs before a weight is read.
//!
//! Parameters, gradients and the optimizer's state are counted exactly. Activations are counted by what each operation
//! keeps ([`activations`]). The few constants are named here, and `docs/memory.md` has what was measured beside.

mod activations;
mod bytes;
mod fit;
mod needs;
mod size;

use std::fmt;

use serde::Serialize;

use self::needs::Needs;
use crate::plan::TrainPlan;

pub use bytes::Bytes;
pub use fit::{Fit, Fitted, Knob, fit};
pub use size::RunSize;

/// Where the device keeps its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceMemory {
    /// In main memory: the CPU.
    Main,
    /// In its own: a GPU.
    Own,
}

/// What something is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holding {
    /// Weights.
    Parameters,
    /// Of the ControlNet's weights; of two micro-batches where gradients are accumulated.
    Gradients,
    /// What the optimizer remembers.
    Optimizer,
    /// Of one micro-batch.
    Activations,
    /// Latents, prompts and pictures in main memory.
    Caches,
    /// The program itself, in main memory.
    Program,
}

impl Holding {
    fn name(self) -> &'static str {
        match self {
            Self::Parameters => "parameters",
            Self::Gradients => "gradients",
            Self::Optimizer => "optimizer",
            Self::Activations => "activations",
            Self::Caches => "caches",
            Self::Program => "program",
        }
    }

    fn is_in_main_memory(self) -> bool {
        matches!(self, Self::Caches | Self::Program)
    }

    /// On the device, from the first step to the last.
    fn is_all_the_time(self) -> bool {
        matches!(self, Self::Parameters | Self::Optimizer)
    }
}

/// One line of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it is held for.
    pub holding: Holding,
    /// Which, and what decides its size.
    pub what: String,
    /// The most it takes.
    pub bytes: u64,
}

/// What a run does at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Weights are read, in f32 whatever they become.
    Loading,
    /// Pictures and prompts become latents and embeddings.
    Encoding,
    /// A micro-batch's loss and gradients.
    Backward,
    /// Gradients become an update.
    Update,
    /// Held-out samples are predicted and pictures drawn.
    Validation,
    /// The optimizer's state is copied and written.
    Saving,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Encoding => "encoding",
            Self::Backward => "forward and backward",
            Self::Update => "update",
            Self::Validation => "validation",
            Self::Saving => "saving a checkpoint",
        }
    }
}

/// The most that is held in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PhasePeak {
    /// The phase.
    pub phase: Phase,
    /// On the device; with what else is in main memory if that is the device's.
    pub bytes: u64,
}

/// What a run will hold in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Budget {
    /// Where the device's tensors are.
    pub device_memory: DeviceMemory,
    /// Everything that is held, each at its largest; they are not all at their largest together.
    pub items: Vec<Item>,
    /// The run's phases.
    pub phases: Vec<PhasePeak>,
    /// The device's largest phase.
    pub device_bytes: u64,
    /// Main memory; the same if it is the device's.
    pub main_bytes: u64,
}

impl Budget {
    /// The budget of a plan.
    #[must_use]
    pub fn new(run: &RunSize, plan: &TrainPlan, device_memory: DeviceMemory) -> Self {
        let needs = Needs::new(run, plan);
        let items = needs.items();
        let held = |is_held: fn(Holding) -> bool| -> u64 {
            items.iter().filter(|item| is_held(item.holding)).map(|item| item.bytes).sum()
        };
        let main = held(Holding::is_in_main_memory);
        let (beside, copied) = match device_memory {
            DeviceMemory::Main => (main, needs.optimizer),
            DeviceMemory::Own => (0, 0),
        };
        // Prompts are encoded before there are gradients.
        let with_text_encoders = beside + held(Holding::is_all_the_time);
        let training = with_text_encoders - needs.freed;
        let between_micro_batches = training + needs.accumulated;
        let phases = vec![
            PhasePeak { phase: Phase::Loading, bytes: beside + needs.loading },
            PhasePeak {
                phase: Phase::Encoding,
                bytes: with_text_encoders.max(between_micro_batches + needs.encoding),
            },
            PhasePeak { phase: Phase::Backward, bytes: between_micro_batches + needs.step.with_gradients },
            PhasePeak { phase: Phase::Update, bytes: training + needs.gradients + needs.updating },
            PhasePeak { phase: Phase::Validation, bytes: training + needs.validation },
            PhasePeak { phase: Phase::Saving, bytes: training + copied },
        ];
        let device_bytes = phases.iter().map(|peak| peak.bytes).max().unwrap_or(0);
        let main_bytes = match device_memory {
            DeviceMemory::Main => device_bytes,
            // A checkpoint is copied out of the device.
            DeviceMemory::Own => main + needs.saved + needs.optimizer,
        };
        Self { device_memory, items, phases, device_bytes, main_bytes }
    }

    /// The largest of some phases.
    #[must_use]
    pub fn peak_of(&self, is_among: impl Fn(Phase) -> bool) -> u64 {
        self.phases.iter().filter(|peak| is_among(peak.phase)).map(|peak| peak.bytes).max().unwrap_or(0)
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_own = self.device_memory == DeviceMemory::Own;
        for Item { holding, what, bytes } in &self.items {
            let place = if in_own && !holding.is_in_main_memory() { "device" } else { "main" };
            let place = if in_own { format!("{place:<7} ") } else { String::new() };
            writeln!(f, "{place}{:<12} {what:<42} {:>10}", holding.name(), Bytes(*bytes).to_string())?;
        }
        for PhasePeak { phase, bytes } in &self.phases {
            let place = if in_own { "device  " } else { "" };
            writeln!(
                f,
                "{place}{:<12} {:<42} {:>10}",
                "peak while",
                phase.name(),
                Bytes(*bytes).to_string()
            )?;
        }
        if in_own {
            writeln!(f, "device memory needed: {}", Bytes(self.device_bytes))?;
        }
        write!(f, "main memory needed: {}", Bytes(self.main_bytes))
    }
}

#[cfg(test)]
mod tests;

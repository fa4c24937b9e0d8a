//! ControlNet training: plan, step, loop, checkpoints, validation, events.
//!
//! A [`TrainConfig`] says what a run should be, a [`TrainPlan`] is one that can be started, a [`Trainer`] runs it and
//! tells an [`Observer`]. Read `trainer.rs` first: it is the loop, and calls everything else in order.

mod batch;
mod bench;
mod best;
mod budget;
mod checkpoint;
mod choice;
mod config;
mod ema;
mod encode;
mod error;
mod evaluate;
mod events;
mod fidelity;
mod group;
mod identity;
mod left_out;
mod lock;
mod loss;
mod loss_scale;
mod lr;
mod memory;
mod metrics;
mod nonfinite;
mod objective;
mod optim;
mod plan;
mod precision;
mod quarantine;
mod sizes;
mod stop;
mod stopwatch;
mod tap;
mod took_hold;
mod trainee;
mod trainer;
mod validate;
mod window;

pub use bench::Measurement;
pub use budget::{
    Budget, Bytes, DeviceMemory, Fit, Fitted, Holding, Item, Knob, Phase as BudgetPhase, PhasePeak, RunSize,
    fit,
};
pub use checkpoint::{Checkpoint, CheckpointInfo, Condition, Position, Thoroughness, list_checkpoints};
pub use choice::Choice;
pub use config::{
    CacheKind, CacheSection, CheckpointSection, DataSection, EvaluationSection, MemorySection, ModelSection,
    ReportSection, ReportTo, RunSection, ScheduleSection, TrainConfig, ValidationSection,
};
pub use ema::{Ema, EmaSection};
pub use encode::CacheUse;
pub use error::TrainError;
pub use events::{Banner, Evaluation, Event, Observer, Progress, TimestepBin, ZeroConv};
pub use fidelity::{Fidelity, FidelityOptions, FidelityScores, measure_fidelity};
pub use group::{Group, GroupError, ThreadGroup};
pub use identity::Difference;
pub use lr::{LrSchedule, LrScheduler, StepRules};
pub use nonfinite::{NonFinite, Skipped, Suspect};
pub use objective::{LossSection, LossType};
pub use optim::{
    AdafactorConfig, AdamWConfig, Gradients, LionConfig, Optimizer, OptimizerConfig, OptimizerKind,
    OptimizerSection, ProdigyConfig,
};
pub use plan::{
    CachePlan, CheckpointPlan, ControlNetSource, DataPlan, EvaluationPlan, Length, ModelPlan, OptimizerPlan,
    PlanError, ResumeFrom, TrainPlan, ValidationPair, ValidationPlan,
};
pub use precision::{Compute, MixedPrecision, PrecisionSection};
pub use pyrograph_diffusion::HuberSchedule;
pub use sizes::SizeConditioning;
pub use stop::Stop;
pub use stopwatch::PhaseSeconds;
pub use tap::{Tap, Tapped};
pub use trainer::{Attempt, Replay, ReplayedBatch, ReplayedSample, RunEnd, Trainer};

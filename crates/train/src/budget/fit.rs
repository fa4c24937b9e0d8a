//! Which settings make a run fit, at the least cost.

use std::cmp::Ordering;
use std::num::NonZeroUsize;

use super::{Budget, DeviceMemory, RunSize};
use crate::choice::Choice;
use crate::optim::OptimizerConfig;
use crate::plan::TrainPlan;
use crate::precision::{MixedPrecision, PrecisionSection};

/// Twice the forward pass of blocks: measured for SD 1.5 at 512 px, batch 4.
const CHECKPOINTING_TIME: f64 = 1.13;
/// Half the micro-batch: between 1.11 and 1.23 for the tiny base.
const HALVING_TIME: f64 = 1.15;
/// Frozen weights in 16 bits take the same time, but are not the same weights: not without need.
const HALF_PRECISION_TIME: f64 = 1.01;

/// A setting that can be changed to make a run fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knob {
    /// `--mixed_precision`.
    Precision,
    /// `--gradient_checkpointing`.
    Checkpointing,
    /// `--train_batch_size` and `--gradient_accumulation_steps`, whose product stays.
    MicroBatch,
    /// `--optimizer`.
    Optimizer,
}

/// In the order in which their flags are told.
const KNOBS: [Knob; 4] = [Knob::Precision, Knob::Checkpointing, Knob::MicroBatch, Knob::Optimizer];

/// What a run must fit, and what may be changed for it.
#[derive(Debug, Clone, Copy)]
pub struct Fit<'a> {
    /// The device's memory.
    pub limit_bytes: u64,
    /// What stays as it is.
    pub pinned: &'a [Knob],
    /// The formats to use instead of f32, if the device has any.
    pub half: Option<PrecisionSection>,
}

/// A plan with its budget and the flags that make it of the plan it was.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Fitted {
    /// The plan.
    pub plan: TrainPlan,
    /// What it takes.
    pub budget: Budget,
    /// As they can be typed.
    pub flags: Vec<String>,
}

/// The cheapest plan that fits: a step as fast as can be, and 8-bit moments only if nothing else is enough, since they
/// alone change what an update is.
///
/// The other settings change the gradients by roundings at most. All of their combinations are tried, because what
/// one saves depends on the others: accumulation, for one, holds the gradients twice.
///
/// # Errors
/// The plan that takes least, if that does not fit.
pub fn fit(
    run: &RunSize,
    plan: &TrainPlan,
    device_memory: DeviceMemory,
    options: Fit<'_>,
) -> Result<Fitted, Box<Fitted>> {
    let mut candidates = candidates(plan, options);
    candidates.sort_by(Candidate::compare_cost);
    let fitted = candidates.into_iter().map(|Candidate { plan, flags, .. }| {
        let budget = Budget::new(run, &plan, device_memory);
        Fitted { plan, budget, flags }
    });
    let mut smallest: Option<Fitted> = None;
    for fitted in fitted {
        let bytes = fitted.budget.device_bytes;
        if bytes <= options.limit_bytes {
            return Ok(fitted);
        }
        // The first of equals is the cheapest.
        if smallest.as_ref().is_none_or(|smallest| bytes < smallest.budget.device_bytes) {
            smallest = Some(fitted);
        }
    }
    Err(Box::new(smallest.expect("the plan itself is a candidate")))
}

/// The plan with all combinations of what may be changed, and itself.
fn candidates(plan: &TrainPlan, options: Fit<'_>) -> Vec<Candidate> {
    let unchanged = Candidate { plan: plan.clone(), flags: Vec::new(), changes_updates: false, time: 1.0 };
    let mut candidates = vec![unchanged];
    for knob in KNOBS.into_iter().filter(|knob| !options.pinned.contains(knob)) {
        let changed: Vec<Candidate> =
            candidates.iter().flat_map(|candidate| candidate.turned(knob, options)).collect();
        candidates.extend(changed);
    }
    candidates
}

/// A plan, the flags that make it, and what that costs.
#[derive(Debug, Clone)]
struct Candidate {
    plan: TrainPlan,
    flags: Vec<String>,
    /// Whether updates become others.
    changes_updates: bool,
    /// A step's time in that of the plan as it was.
    time: f64,
}

impl Candidate {
    fn compare_cost(&self, other: &Self) -> Ordering {
        self.changes_updates.cmp(&other.changes_updates).then(self.time.total_cmp(&other.time))
    }

    /// The same with another setting, once for each value that takes less memory.
    fn turned(&self, knob: Knob, options: Fit<'_>) -> Vec<Self> {
        match knob {
            Knob::Precision => options.half.and_then(|half| self.in_half(half)).into_iter().collect(),
            Knob::Checkpointing => self.checkpointed().into_iter().collect(),
            Knob::MicroBatch => self.in_smaller_micro_batches(),
            Knob::Optimizer => self.with_8bit_moments().into_iter().collect(),
        }
    }

    fn in_half(&self, half: PrecisionSection) -> Option<Self> {
        let mut changed = self.clone();
        let precision = &mut changed.plan.precision;
        if precision.mixed_precision != MixedPrecision::No {
            return None;
        }
        precision.mixed_precision = half.mixed_precision;
        precision.compute = precision.compute.or(half.compute);
        changed.flags.push(format!("--mixed_precision={}", half.mixed_precision.name()));
        changed.time *= HALF_PRECISION_TIME;
        Some(changed)
    }

    fn checkpointed(&self) -> Option<Self> {
        let mut changed = self.clone();
        if changed.plan.memory.gradient_checkpointing {
            return None;
        }
        changed.plan.memory.gradient_checkpointing = true;
        changed.flags.push("--gradient_checkpointing".to_owned());
        changed.time *= CHECKPOINTING_TIME;
        Some(changed)
    }

    /// Each micro-batch in parts of equal size, so that an update is of the same samples.
    fn in_smaller_micro_batches(&self) -> Vec<Self> {
        let (batch_size, accumulation_steps) =
            (self.plan.data.batch_size, self.plan.optimizer.accumulation_steps);
        // Larger ones fit nowhere.
        let smaller = 1..batch_size.get().min(1 << 20);
        let smaller = smaller.filter(|size| batch_size.get().is_multiple_of(*size));
        let in_parts = |size: NonZeroUsize| {
            let mut changed = self.clone();
            let n_parts = batch_size.get() / size;
            let accumulation_steps = accumulation_steps.saturating_mul(NonZeroUsize::new(n_parts)?);
            changed.plan.data.batch_size = size;
            changed.plan.optimizer.accumulation_steps = accumulation_steps;
            changed.flags.push(format!("--train_batch_size={size}"));
            changed.flags.push(format!("--gradient_accumulation_steps={accumulation_steps}"));
            #[expect(clippy::cast_precision_loss, reason = "a batch size is small")]
            let halvings = (n_parts as f64).log2();
            changed.time *= HALVING_TIME.powf(halvings);
            Some(changed)
        };
        smaller.filter_map(NonZeroUsize::new).filter_map(in_parts).collect()
    }

    fn with_8bit_moments(&self) -> Option<Self> {
        let mut changed = self.clone();
        let OptimizerConfig::AdamW(config) = changed.plan.optimizer.algorithm else { return None };
        changed.plan.optimizer.algorithm = OptimizerConfig::AdamW8bit(config);
        changed.flags.push("--optimizer=adamw8bit".to_owned());
        changed.changes_updates = true;
        Some(changed)
    }
}

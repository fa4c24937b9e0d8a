//! `pyrograph plan`, and the check of memory at the start of `train`.

use std::io::Write;

use pyrograph_train::{
    Budget, Bytes, Compute, DeviceMemory, Fit, Fitted, MixedPrecision, PrecisionSection, RunSize, TrainError,
    TrainPlan, fit,
};
use serde_json::json;
use sysinfo::{CGroupLimits, MemoryRefreshKind, RefreshKind, System};

use super::train::{plan_of, print_config};
use crate::args::{Limit, OutputArgs, PlanArgs, TrainArgs, UsageError};
use crate::backend;

/// A prediction is good to 15 %, so a run that leaves less may be too large.
const SAFE_PERCENT: u64 = 85;

pub(crate) fn plan(args: &PlanArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let (plan, names) = plan_of(&args.train, output)?;
    let planned = Planned::new(&args.train, plan)?;
    if args.train.print_config {
        return print_config(planned.accepted()?.0, &names);
    }
    let text = if args.json { planned.json() + "\n" } else { planned.text() };
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(TrainError::io("standard output".as_ref()))?;
    planned.accepted()?;
    Ok(())
}

/// A plan with what it takes and whether there is so much.
pub(super) struct Planned {
    plan: TrainPlan,
    pub(super) budget: Budget,
    /// Flags that were chosen to make it fit.
    pub(super) flags: Vec<String>,
    limit: Option<Limit>,
    refusal: Option<UsageError>,
}

impl Planned {
    /// Makes the plan fit if that is asked for, and finds out whether it does.
    pub(super) fn new(args: &TrainArgs, plan: TrainPlan) -> anyhow::Result<Self> {
        let run = RunSize::read(&plan, &backend::device())?;
        let device_memory = backend::DEVICE_MEMORY;
        let budget = Budget::new(&run, &plan, device_memory);
        let limit = args.fit.map(Limit::Fit).or_else(|| available().map(Limit::Free));
        let needed = Bytes(budget.device_bytes);
        let planned = Self { plan, budget, flags: Vec::new(), limit, refusal: None };
        let Some(limit) = limit.filter(|limit| needed > limit.bytes()) else { return Ok(planned) };

        let pinned = args.pinned();
        let options = Fit { limit_bytes: limit.bytes().0, pinned: &pinned, half: half_precision()? };
        match (fit(&run, &planned.plan, device_memory, options), limit) {
            (Ok(Fitted { plan, budget, flags, .. }), Limit::Fit(_)) => {
                Ok(Self { plan, budget, flags, ..planned })
            }
            (fitted, _) => {
                let nearest = fitted.unwrap_or_else(|smallest| *smallest);
                let (flags, flags_need) = (nearest.flags.join(" "), Bytes(nearest.budget.device_bytes));
                let refusal = UsageError::TooLarge { needed, limit, flags, flags_need };
                Ok(Self { refusal: Some(refusal), ..planned })
            }
        }
    }

    /// The plan and its budget, with a warning if it leaves little.
    ///
    /// # Errors
    /// If it is too large.
    pub(super) fn accepted(self) -> Result<(TrainPlan, Budget), UsageError> {
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        let needed = self.budget.device_bytes;
        if let Some(Bytes(free)) = available().filter(|free| needed > free.0 / 100 * SAFE_PERCENT) {
            tracing::warn!("the run takes about {} of the {} that are free", Bytes(needed), Bytes(free));
        }
        Ok((self.plan, self.budget))
    }

    fn json(&self) -> String {
        let fits = self.refusal.is_none();
        let limit_bytes = self.limit.map(|limit| limit.bytes().0);
        json!({ "fits": fits, "limit_bytes": limit_bytes, "flags": self.flags, "budget": self.budget })
            .to_string()
    }

    fn text(&self) -> String {
        let flags = self.flags.join(" ");
        let chosen = if flags.is_empty() { flags } else { format!("chosen to fit: {flags}\n") };
        format!("{}\n{chosen}", self.budget)
    }
}

/// The main memory that is free, if that is where the device keeps its tensors. GPUs do not tell.
fn available() -> Option<Bytes> {
    if backend::DEVICE_MEMORY == DeviceMemory::Own {
        return None;
    }
    let refresh = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(refresh);
    let free = system.available_memory();
    // A container may have less than its machine. What it calls free is without the files that it has read, which make room.
    let of_container = |limits: CGroupLimits| limits.total_memory.saturating_sub(limits.rss);
    let free = system.cgroup_limits().map_or(free, |limits| free.min(of_container(limits)));
    (free > 0).then_some(Bytes(free))
}

/// Formats of 16 bits for the frozen models, if the device has them.
fn half_precision() -> anyhow::Result<Option<PrecisionSection>> {
    let compute = if backend::IS_FAST_IN_HALF_PRECISION { Compute::Half } else { Compute::F32 };
    let section = PrecisionSection { mixed_precision: MixedPrecision::Bf16, compute: Some(compute) };
    let has_it = backend::require_precision(&backend::open()?, section.precision()).is_ok();
    Ok(has_it.then_some(section))
}

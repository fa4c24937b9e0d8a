//! Flags of what is traded for less memory.

use clap::Args;
use pyrograph_train::{Compute, MemorySection, MixedPrecision, PrecisionSection};

use super::choice::named;
use crate::backend;

#[derive(Debug, Args)]
#[command(next_help_heading = "Memory")]
pub(super) struct MemoryArgs {
    /// The format of the frozen models, and on a GPU of what is computed with them; the ControlNet's weights stay in
    /// 32 bits [default: no].
    #[arg(long, value_parser = named::<MixedPrecision>(), value_name = "FORMAT")]
    mixed_precision: Option<MixedPrecision>,
    /// With a half-precision format, what activations are computed in [default: f32 on the CPU, else half].
    #[arg(long, value_parser = named::<Compute>(), value_name = "FORMAT")]
    compute: Option<Compute>,
    /// Keep only the input of each block, and run the block a second time in the backward pass: less memory, more time.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    gradient_checkpointing: Option<bool>,
}

impl MemoryArgs {
    pub(super) fn gives_precision(&self) -> bool {
        self.mixed_precision.is_some() || self.compute.is_some()
    }

    pub(super) fn gives_checkpointing(&self) -> bool {
        self.gradient_checkpointing.is_some()
    }

    /// Replaces what was given, and says where the backend computes.
    pub(super) fn apply(&self, precision: &mut PrecisionSection, memory: &mut MemorySection) {
        super::set(&mut precision.mixed_precision, &self.mixed_precision);
        super::set_some(&mut precision.compute, &self.compute);
        super::set(&mut memory.gradient_checkpointing, &self.gradient_checkpointing);
        let is_half = precision.mixed_precision != MixedPrecision::No;
        if is_half && !backend::IS_FAST_IN_HALF_PRECISION {
            precision.compute.get_or_insert(Compute::F32);
        }
    }
}

//! In which number formats a run keeps and computes what.

use burn::tensor::DType;
use pyrograph_pipeline::Precision;
use serde::{Deserialize, Serialize};

use crate::choice::Choice;

/// `[precision]`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrecisionSection {
    /// The format of the frozen models' weights and of what is computed with them; the ControlNet's own weights,
    /// gradients and moments are in f32 in any case. Default: `no`, as the reference.
    pub mixed_precision: MixedPrecision,
    /// Whether activations have that format, too. Left out: `half`, but the command line says `f32` on the CPU, which
    /// computes in half precision slower than in f32.
    pub compute: Option<Compute>,
}

/// A floating-point format of 16 bits, or none: `--mixed_precision`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixedPrecision {
    /// 32 bits.
    #[default]
    No,
    /// IEEE half precision: 11 bits of precision, numbers up to 65504.
    Fp16,
    /// bfloat16: 8 bits of precision, the range of f32.
    Bf16,
}

impl Choice for MixedPrecision {
    const NAMES: &'static [(&'static str, Self)] =
        &[("no", Self::No), ("fp16", Self::Fp16), ("bf16", Self::Bf16)];
}

impl MixedPrecision {
    fn dtype(self) -> DType {
        match self {
            Self::No => DType::F32,
            Self::Fp16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// What activations are computed in: `--compute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// 32 bits, whatever the weights have.
    F32,
    /// The weights' format.
    Half,
}

impl Choice for Compute {
    const NAMES: &'static [(&'static str, Self)] = &[("f32", Self::F32), ("half", Self::Half)];
}

impl PrecisionSection {
    /// What it says of the networks.
    #[must_use]
    pub fn precision(self) -> Precision {
        let weights = self.mixed_precision.dtype();
        let compute = match self.compute {
            Some(Compute::F32) => DType::F32,
            Some(Compute::Half) | None => weights,
        };
        Precision { weights, compute }
    }
}

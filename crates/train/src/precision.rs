//! In which number formats a run keeps and computes what.

use std::str::FromStr;

use burn::tensor::DType;
use pyrograph_pipeline::Precision;
use serde::{Deserialize, Serialize};

use crate::plan::PlanError;

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

impl MixedPrecision {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::No, Self::Fp16, Self::Bf16];

    /// The name in files and flags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
        }
    }

    fn dtype(self) -> DType {
        match self {
            Self::No => DType::F32,
            Self::Fp16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl FromStr for MixedPrecision {
    type Err = PlanError;

    fn from_str(name: &str) -> Result<Self, PlanError> {
        let known = Self::ALL.into_iter().find(|precision| precision.name() == name);
        let expected = &["no", "fp16", "bf16"];
        known.ok_or_else(|| PlanError::UnknownPrecision { name: name.to_owned(), expected })
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

impl Compute {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::F32, Self::Half];

    /// The name in files and flags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Half => "half",
        }
    }
}

impl FromStr for Compute {
    type Err = PlanError;

    fn from_str(name: &str) -> Result<Self, PlanError> {
        let known = Self::ALL.into_iter().find(|compute| compute.name() == name);
        known.ok_or_else(|| PlanError::UnknownPrecision { name: name.to_owned(), expected: &["f32", "half"] })
    }
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

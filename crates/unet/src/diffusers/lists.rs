//! Values of `config.json` that may be one for all levels or a list.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;
use crate::{Stage, TransformerDepth};

/// A value for all levels, or one for each; or for the transformers of one level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerStage<T> {
    /// The same everywhere.
    All(T),
    /// Finest level first, or the first that is run.
    Each(Vec<T>),
}

impl<T: Clone + PartialEq> PerStage<T> {
    pub(super) fn expand(&self, key: &'static str, n_stages: usize) -> Result<Vec<T>, ConfigError> {
        match self {
            Self::All(value) => Ok(vec![value.clone(); n_stages]),
            Self::Each(values) if values.len() == n_stages => Ok(values.clone()),
            Self::Each(values) => {
                Err(ConfigError::UnequalLengths { key, expected: n_stages, found: values.len() })
            }
        }
    }

    pub(super) fn collapse(values: impl Iterator<Item = T>) -> Self {
        let values: Vec<T> = values.collect();
        match values.split_first() {
            Some((first, rest)) if rest.iter().all(|value| value == first) => Self::All(first.clone()),
            _ => Self::Each(values),
        }
    }
}

impl PerStage<usize> {
    /// Every number in it.
    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> {
        match self {
            Self::All(number) => std::slice::from_ref(number),
            Self::Each(numbers) => numbers.as_slice(),
        }
        .iter()
        .copied()
    }
}

/// `transformer_layers_per_block`: a number for all levels, or for each level one, or one for each of its transformers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TransformerLayers {
    /// The same everywhere.
    All(usize),
    /// Finest level first; in `reverse_transformer_layers_per_block`, coarsest first.
    Each(Vec<PerStage<usize>>),
}

impl TransformerLayers {
    pub(super) const KEY: &'static str = "transformer_layers_per_block";
    pub(super) const REVERSE_KEY: &'static str = "reverse_transformer_layers_per_block";

    /// Every number in it.
    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> {
        let (all, each) = match self {
            Self::All(number) => (Some(*number), &[] as &[PerStage<usize>]),
            Self::Each(levels) => (None, levels.as_slice()),
        };
        all.into_iter().chain(each.iter().flat_map(PerStage::numbers))
    }

    /// One entry for each level, finest first. Those of the way up are listed by a UNet alone, which needs them if they
    /// do not follow from those of the way down.
    pub(super) fn depths(
        &self,
        n_resnets: &[usize],
        up: Option<&[PerStage<usize>]>,
    ) -> Result<Vec<TransformerDepth>, ConfigError> {
        let n_stages = n_resnets.len();
        let down = match self {
            Self::All(n_blocks) => vec![PerStage::All(*n_blocks); n_stages],
            Self::Each(down) => down.clone(),
        };
        for (key, found) in [(Self::KEY, down.len()), (Self::REVERSE_KEY, up.map_or(n_stages, <[_]>::len))] {
            if found != n_stages {
                return Err(ConfigError::UnequalLengths { key, expected: n_stages, found });
            }
        }
        let mut depths = Vec::with_capacity(n_stages);
        for (stage_idx, (down, &n_resnets)) in down.into_iter().zip(n_resnets).enumerate() {
            let up = up.map(|up| &up[n_stages - 1 - stage_idx]);
            depths.push(match (down, up) {
                (PerStage::All(down), None) => TransformerDepth::Same(down),
                (PerStage::All(down), Some(&PerStage::All(up))) if down == up => TransformerDepth::Same(down),
                (down, Some(up)) => TransformerDepth::Each {
                    down: Self::of_level(Self::KEY, &down, n_resnets)?,
                    up: Self::of_level(Self::REVERSE_KEY, up, n_resnets + 1)?,
                },
                (PerStage::Each(_), None) => {
                    return Err(ConfigError::Unsupported {
                        key: Self::REVERSE_KEY,
                        found: "null".to_owned(),
                        supported: "a list beside lists in `transformer_layers_per_block`",
                    });
                }
            });
        }
        Ok(depths)
    }

    fn of_level(
        key: &'static str,
        layers: &PerStage<usize>,
        expected: usize,
    ) -> Result<Vec<usize>, ConfigError> {
        match layers {
            PerStage::All(n_blocks) => Ok(vec![*n_blocks; expected]),
            PerStage::Each(each) if each.len() == expected => Ok(each.clone()),
            PerStage::Each(each) => Err(ConfigError::TransformerCount { key, expected, found: each.len() }),
        }
    }

    pub(super) fn down(stages: &[Stage]) -> Self {
        let of_level = |stage: &Stage| match &stage.depth {
            TransformerDepth::Same(n_blocks) => PerStage::All(*n_blocks),
            TransformerDepth::Each { down, .. } => PerStage::Each(down.clone()),
        };
        match PerStage::collapse(stages.iter().map(of_level)) {
            PerStage::All(PerStage::All(n_blocks)) => Self::All(n_blocks),
            _ => Self::Each(stages.iter().map(of_level).collect()),
        }
    }

    /// Those of the way up, if they do not follow from those of the way down.
    pub(super) fn up(stages: &[Stage]) -> Option<Vec<PerStage<usize>>> {
        let of_level = |stage: &Stage| match &stage.depth {
            TransformerDepth::Same(n_blocks) => PerStage::All(*n_blocks),
            TransformerDepth::Each { up, .. } => PerStage::Each(up.clone()),
        };
        let is_uneven = stages.iter().any(|stage| matches!(stage.depth, TransformerDepth::Each { .. }));
        is_uneven.then(|| stages.iter().rev().map(of_level).collect())
    }
}

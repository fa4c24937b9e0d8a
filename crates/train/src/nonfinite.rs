//! Steps that are not made because a number in them is not finite.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where the first number that is not finite was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// In a sample's latents: its picture is one that the VAE cannot encode, or the cache was poisoned.
    Latents,
    /// In a sample's prompt embedding.
    Prompt,
    /// In the loss of a micro-batch.
    Loss,
    /// In the gradients, while every loss was finite.
    Gradient,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Latents => "latents",
            Self::Prompt => "prompt embedding",
            Self::Loss => "loss",
            Self::Gradient => "gradient",
        })
    }
}

/// A sample that may be to blame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// [`Sample::id`](pyrograph_data::Sample::id).
    pub id: String,
    /// The timestep that was drawn for it.
    pub timestep: usize,
}

/// A step that was not made: parameters and optimizer are as before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Optimizer steps made.
    pub step: u64,
    /// What was not finite.
    pub found: NonFinite,
    /// The samples that it was found in; of a loss all of its micro-batch, of a gradient all of the step.
    pub samples: Vec<Suspect>,
    /// Steps skipped since one was made, this one included.
    pub n_in_a_row: u32,
    /// Steps skipped in the whole run.
    pub n_skipped: u64,
}

/// How many steps a run has skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Skips {
    pub(crate) n_in_a_row: u32,
    pub(crate) n_skipped: u64,
    /// Evaluations that said nothing.
    #[serde(default)]
    pub(crate) n_evaluations: u64,
}

/// Samples that an error message names, at most.
const SHOWN: usize = 10;

/// The samples of some skipped steps, each once.
pub(crate) fn listed(skipped: &[Skipped]) -> String {
    let mut ids: Vec<&str> = Vec::new();
    for suspect in skipped.iter().flat_map(|skipped| &skipped.samples) {
        if !ids.contains(&suspect.id.as_str()) {
            ids.push(&suspect.id);
        }
    }
    shortened(&ids)
}

/// Samples with their timesteps.
pub(crate) fn listed_with_timesteps(suspects: &[Suspect]) -> String {
    let told = suspects.iter().map(|Suspect { id, timestep }| format!("{id} at timestep {timestep}"));
    shortened(&told.collect::<Vec<_>>())
}

fn shortened<S: AsRef<str> + std::borrow::Borrow<str>>(ids: &[S]) -> String {
    let shown = ids[..ids.len().min(SHOWN)].join(", ");
    if ids.len() > SHOWN { format!("{shown} and {} more", ids.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_samples_names_each_once_and_ends_somewhere() {
        let skipped = |ids: &[usize]| Skipped {
            step: 0,
            found: NonFinite::Loss,
            samples: ids.iter().map(|id| Suspect { id: format!("s{id}"), timestep: 1 }).collect(),
            n_in_a_row: 1,
            n_skipped: 1,
        };
        assert_eq!(listed(&[skipped(&[2, 1]), skipped(&[1, 3])]), "s2, s1, s3");
        let many: Vec<usize> = (0..12).collect();
        assert!(listed(&[skipped(&many)]).ends_with("s9 and 2 more"));
    }
}

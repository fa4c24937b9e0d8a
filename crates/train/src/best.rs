//! The best ControlNet of a run: `best/` in the output folder.

use std::path::{Path, PathBuf};

use pyrograph_weights::Disk;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::checkpoint::{SavedResult, save_sealed};
use crate::events::Evaluation;

const FOLDER: &str = "best";

/// Which evaluation was the best so far. The folder keeps it as `best.json`, beside the ControlNet in diffusers' layout
/// and a manifest as that of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    step: u64,
    control_gap: f64,
    loss: f64,
}

impl Best {
    /// The evaluation as the new best, if it is better: it has the larger control gap, or the same gap and less loss.
    ///
    /// The gap decides because it is what the ControlNet adds; the loss hardly moves with it.
    pub(crate) fn beaten_by(best: Option<Self>, evaluation: &Evaluation) -> Option<Self> {
        let Evaluation { step, control_gap, loss, .. } = *evaluation;
        let is_better = best.is_none_or(|best| {
            control_gap > best.control_gap || control_gap == best.control_gap && loss < best.loss
        });
        is_better.then_some(Self { step, control_gap, loss })
    }

    /// The best so far, unless its folder is gone or in another output folder.
    pub(crate) fn still_there(best: Option<Self>, output_dir: &Path) -> Option<Self> {
        best.filter(|_| output_dir.join(FOLDER).is_dir())
    }

    /// Writes the folder beside the old one and takes its place; returns its path.
    pub(crate) fn save(
        &self,
        disk: &dyn Disk,
        output_dir: &Path,
        result: &SavedResult<'_>,
    ) -> Result<PathBuf, TrainError> {
        save_sealed(disk, output_dir, FOLDER, result, ("best.json", self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(step: u64, control_gap: f64, loss: f64) -> Evaluation {
        Evaluation {
            step,
            n_samples: 2,
            is_held_out: true,
            loss,
            bins: Vec::new(),
            shuffled_loss: loss + control_gap,
            control_gap,
            control_gap_error: 0.0,
            zero_convs: Vec::new(),
        }
    }

    #[test]
    fn the_larger_gap_wins_and_of_equal_gaps_the_smaller_loss() {
        let runs = [(100, -0.1, 0.5), (200, 0.2, 0.9), (300, 0.1, 0.1), (400, 0.2, 0.8), (500, 0.2, 0.8)];
        let mut best = None;
        let mut steps = Vec::new();
        for (step, control_gap, loss) in runs {
            if let Some(better) = Best::beaten_by(best, &evaluation(step, control_gap, loss)) {
                best = Some(better);
                steps.push(better.step);
            }
        }
        assert_eq!(steps, [100, 200, 400]);
    }
}

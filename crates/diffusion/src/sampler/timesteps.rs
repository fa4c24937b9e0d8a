//! Where the sampling timesteps lie among the training timesteps.

use crate::config::{TimestepSpacing, unsupported};
use crate::error::DiffusionError;
use crate::rounding::round_to_timestep;

/// Which steps a sampler makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steps {
    /// So many, spaced as the config says.
    Count(usize),
    /// One at each of these training timesteps, which fall.
    At(Vec<usize>),
}

impl From<usize> for Steps {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl Steps {
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            Self::At(timesteps) => timesteps.len(),
        }
    }

    /// For a sampler that chooses noise levels, and with them where the steps are.
    pub(super) fn check_not_chosen(&self) -> Result<(), DiffusionError> {
        match self {
            Self::Count(_) => Ok(()),
            Self::At(_) => Err(unsupported("use_karras_sigmas", true, "false, where timesteps are given")),
        }
    }

    /// Those given, or those of the grid.
    ///
    /// # Errors
    /// As [`Grid::points`], or if those given do not fall, or are no training timesteps.
    pub(super) fn timesteps(&self, grid: Grid) -> Result<Vec<usize>, DiffusionError> {
        match self {
            Self::Count(_) => grid.timesteps(),
            Self::At(timesteps) => checked(timesteps, grid.n_train_timesteps),
        }
    }

    /// The same, but those of a linspace grid lie between the training timesteps.
    ///
    /// # Errors
    /// As [`Self::timesteps`].
    pub(super) fn points(&self, grid: Grid) -> Result<Vec<f64>, DiffusionError> {
        match self {
            Self::Count(_) => grid.points(),
            Self::At(_) => Ok(self.timesteps(grid)?.into_iter().map(|timestep| timestep as f64).collect()),
        }
    }
}

/// Timesteps that somebody chose.
///
/// # Errors
/// If there are none, they do not fall, or are no training timesteps.
pub(super) fn checked(timesteps: &[usize], n_train_timesteps: usize) -> Result<Vec<usize>, DiffusionError> {
    let falls = timesteps.is_sorted_by(|left, right| left > right);
    if falls && timesteps.first().is_some_and(|first| *first < n_train_timesteps) {
        Ok(timesteps.to_vec())
    } else {
        let last_timestep = n_train_timesteps - 1;
        Err(DiffusionError::Timesteps { timesteps: timesteps.to_vec(), last_timestep })
    }
}

/// A grid of training timesteps to sample on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) spacing: TimestepSpacing,
    /// Points of the leading and linspace grids: `n_steps` for DDIM; one more, left out again, for UniPC.
    pub(super) n_points: usize,
    pub(super) n_steps: usize,
    pub(super) n_train_timesteps: usize,
    pub(super) steps_offset: usize,
}

impl Grid {
    /// The `n_steps` timesteps, from the noisiest on.
    ///
    /// # Errors
    /// As [`Self::points`].
    pub(super) fn timesteps(self) -> Result<Vec<usize>, DiffusionError> {
        Ok(self.points()?.into_iter().map(round_to_timestep).collect())
    }

    /// As [`Self::timesteps`], but those of linspace lie between the training timesteps.
    ///
    /// Source: Lin et al. 2023, table 2; diffusers 0.42 `set_timesteps`, with numpy's order of operations so that
    /// halves round alike. For some numbers of steps above 60 diffusers' trailing list has one entry more, -1, by
    /// a rounding error; ours never has.
    ///
    /// # Errors
    /// If there are no steps, more than training timesteps, or one of them lies past the last training timestep.
    pub(super) fn points(self) -> Result<Vec<f64>, DiffusionError> {
        let Self { spacing, n_points, n_steps, n_train_timesteps, steps_offset } = self;
        if !(1..=n_train_timesteps).contains(&n_steps) {
            return Err(DiffusionError::StepCount { n_steps, n_train_timesteps });
        }
        let points_falling = (0..n_points).rev().take(n_steps);
        let points: Vec<f64> = match spacing {
            TimestepSpacing::Leading => {
                let stride = n_train_timesteps / n_points;
                points_falling.map(|i| (i * stride).saturating_add(steps_offset) as f64).collect()
            }
            TimestepSpacing::Linspace => {
                let n_gaps = n_points.saturating_sub(1).max(1);
                let stride = (n_train_timesteps - 1) as f64 / n_gaps as f64;
                points_falling.map(|i| i as f64 * stride).collect()
            }
            TimestepSpacing::Trailing => {
                // numpy's arange multiplies the difference of its first two values.
                let end = n_train_timesteps as f64;
                let stride = (end - end / n_steps as f64) - end;
                (0..n_steps).map(|i| (end + i as f64 * stride).round_ties_even() - 1.0).collect()
            }
        };
        let last_timestep = n_train_timesteps - 1;
        match points.first().copied().map(round_to_timestep) {
            Some(timestep) if timestep > last_timestep => {
                Err(DiffusionError::TimestepOutOfRange { timestep, last_timestep, steps_offset, n_steps })
            }
            _ => Ok(points),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timesteps(spacing: TimestepSpacing, n_points: usize, steps_offset: usize) -> Vec<usize> {
        Grid { spacing, n_points, n_steps: 4, n_train_timesteps: 1000, steps_offset }.timesteps().unwrap()
    }

    #[test]
    fn spacings_follow_table_2() {
        assert_eq!(timesteps(TimestepSpacing::Leading, 4, 1), [751, 501, 251, 1]);
        assert_eq!(timesteps(TimestepSpacing::Leading, 5, 1), [801, 601, 401, 201]);
        assert_eq!(timesteps(TimestepSpacing::Linspace, 4, 1), [999, 666, 333, 0]);
        assert_eq!(timesteps(TimestepSpacing::Linspace, 5, 1), [999, 749, 500, 250]);
        assert_eq!(timesteps(TimestepSpacing::Trailing, 4, 1), [999, 749, 499, 249]);
    }

    #[test]
    fn an_offset_past_the_end_is_an_error() {
        let grid = Grid {
            spacing: TimestepSpacing::Leading,
            n_points: 1000,
            n_steps: 1000,
            n_train_timesteps: 1000,
            steps_offset: 1,
        };
        assert!(matches!(grid.timesteps(), Err(DiffusionError::TimestepOutOfRange { timestep: 1000, .. })));
    }

    #[test]
    fn trailing_always_has_as_many_timesteps_as_steps() {
        for n_steps in 1..=1000 {
            let grid = Grid {
                spacing: TimestepSpacing::Trailing,
                n_points: n_steps,
                n_steps,
                n_train_timesteps: 1000,
                steps_offset: 0,
            };
            assert_eq!(grid.timesteps().unwrap().len(), n_steps);
        }
    }
}

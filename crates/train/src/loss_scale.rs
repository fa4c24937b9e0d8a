//! Dynamic loss scaling: gradients of fp16 activations would be rounded to zero if the loss were not scaled up.

use serde::{Deserialize, Serialize};

/// The factor on the loss, which doubles as long as nothing overflows and halves when something does.
///
/// Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2; the constants are those of
/// `torch.amp.GradScaler` (2.15).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct LossScale {
    factor: f32,
    /// Steps made since it was last changed.
    n_steps: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { factor: 65536.0, n_steps: 0 }
    }
}

impl LossScale {
    const GROWTH_INTERVAL: u32 = 2000;

    /// The factor.
    pub(crate) fn factor(self) -> f32 {
        self.factor
    }

    /// A step was made.
    pub(crate) fn step_made(&mut self) {
        self.n_steps += 1;
        if self.n_steps == Self::GROWTH_INTERVAL {
            *self = Self { factor: self.factor * 2.0, n_steps: 0 };
        }
    }

    /// Gradients overflowed. Returns false if the scale is not to blame, since there is none.
    pub(crate) fn overflowed(&mut self) -> bool {
        if self.factor <= 1.0 {
            return false;
        }
        *self = Self { factor: self.factor / 2.0, n_steps: 0 };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_at_an_overflow_and_doubles_after_two_thousand_steps_without() {
        let mut scale = LossScale::default();
        assert!(scale.overflowed());
        (0..1999).for_each(|_| scale.step_made());
        assert_eq!(scale.factor(), 32768.0);
        scale.step_made();
        assert_eq!(scale.factor(), 65536.0);
        (0..1999).for_each(|_| scale.step_made());
        assert!(scale.overflowed());
        scale.step_made();
        assert_eq!(scale.factor(), 32768.0, "an overflow begins the count anew");
    }

    #[test]
    fn without_a_scale_an_overflow_is_a_fault() {
        let mut scale = LossScale::default();
        assert_eq!((0..100).filter(|_| scale.overflowed()).count(), 16);
        assert_eq!(scale.factor(), 1.0);
    }
}

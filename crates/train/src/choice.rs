//! Choices by name.

use std::fmt::Debug;

/// A choice among few, with the same names in preset files and flags.
pub trait Choice: Copy + Eq + Debug + 'static {
    /// Every choice with its name.
    const NAMES: &'static [(&'static str, Self)];

    /// The name of a choice.
    #[must_use]
    fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(_, choice)| *choice == self);
        found.expect("every choice has a name").0
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::{CacheKind, Compute, HuberSchedule, LossType, MixedPrecision, OptimizerKind, ReportTo};

    fn check<T: Choice + Serialize>() {
        for (name, choice) in T::NAMES {
            assert_eq!(serde_json::to_value(choice).expect("a name"), *name);
            assert_eq!(choice.name(), *name);
        }
    }

    #[test]
    fn files_and_flags_have_the_same_names() {
        check::<CacheKind>();
        check::<Compute>();
        check::<HuberSchedule>();
        check::<LossType>();
        check::<MixedPrecision>();
        check::<OptimizerKind>();
        check::<ReportTo>();
    }
}

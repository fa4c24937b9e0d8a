//! How a run is asked to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::TrainError;

/// A wish to stop that many can share: a signal handler raises it, a run looks at it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks everybody who looks at it to stop; there is no way back.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for a signal handler, which may do no more than to raise it.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// # Errors
    /// [`TrainError::Stopped`] if it was asked for.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        if self.is_requested() { Err(TrainError::Stopped) } else { Ok(()) }
    }
}

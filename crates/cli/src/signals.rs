//! Ctrl-C, SIGTERM, and the SIGUSR1 that schedulers can send ahead of it: stop in order; once more: stop now.

use std::thread;

use anyhow::Context;
use pyrograph_train::Stop;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// `mpirun` hands on the last one; for the others it ends its processes by itself, after a second.
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGUSR1];

/// From now on the first signal raises the returned wish to stop, and the second ends the process at once, with the
/// exit code that a shell gives to one killed by it. What is being saved then is not there, or whole.
pub(crate) fn stop_on_signals() -> anyhow::Result<Stop> {
    let stop = Stop::default();
    for signal in SIGNALS {
        // In this order: the second signal finds the flag raised by the first.
        flag::register_conditional_shutdown(signal, 128 + signal, stop.flag())
            .and_then(|_| flag::register(signal, stop.flag()))
            .context("cannot listen to signals")?;
    }
    // Handlers may not print, and the step in hand can take long: somebody has to say that they were heard.
    let mut signals = Signals::new(SIGNALS).context("cannot listen to signals")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if signals.forever().next().is_some() {
                tracing::warn!("stopping: what was trained is saved first; once more to stop at once");
            }
        })
        .context("cannot listen to signals")?;
    Ok(stop)
}

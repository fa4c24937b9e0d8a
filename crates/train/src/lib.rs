//! ControlNet training: plan, step, loop, checkpoints, validation, events.

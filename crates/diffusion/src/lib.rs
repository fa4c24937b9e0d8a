//! Noise schedules, objectives and samplers; no network inside.

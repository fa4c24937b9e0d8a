//! Number conversions that lose something on purpose, each in one place.

/// Rounds to the nearest f32, kept as f64. One f64 operation followed by this equals the f32 operation.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
pub(crate) fn round_to_f32(value: f64) -> f64 {
    f64::from(value as f32)
}

/// The whole part; a negative value becomes 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates at 0")]
pub(crate) fn whole_part(value: f64) -> usize {
    value as usize
}

/// Rounds half to even, as numpy does; a negative value becomes 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates at 0")]
pub(crate) fn round_to_timestep(value: f64) -> usize {
    value.round_ties_even() as usize
}

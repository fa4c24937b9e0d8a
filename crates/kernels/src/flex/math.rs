//! Elementary functions that the compiler can turn into vector instructions, unlike calls of the C library.

/// The exponential function within 1e-7 of its value, for arguments up to 88 either way; beyond, the value
/// at that end.
///
/// Source: Cephes `expf` (Moshier 1989): powers of two by the exponent's bits, the rest by a polynomial.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the published coefficients")]
pub(super) fn exp(value: f32) -> f32 {
    // Adding it rounds to an integer, which is then in the lowest bits.
    const ROUNDER: f32 = 12_582_912.0;
    let value = value.clamp(-87.0, 88.0);
    let shifted = value * std::f32::consts::LOG2_E + ROUNDER;
    let power = shifted - ROUNDER;
    // ln 2 in two parts, the first of which has few bits, so that the product is exact.
    let rest = value - power * 0.693_359_375 + power * 2.121_944_4e-4;
    let series = 1.987_569_15e-4;
    let series = series * rest + 1.398_199_95e-3;
    let series = series * rest + 8.333_451_9e-3;
    let series = series * rest + 4.166_579_6e-2;
    let series = series * rest + 1.666_666_55e-1;
    let series = series * rest + 0.5;
    let series = series * rest * rest + rest + 1.0;
    f32::from_bits(series.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `1 / (1 + exp(-value))`.
#[inline(always)]
pub(super) fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + exp(-value))
}

/// `value * sigmoid(value)`.
#[inline(always)]
pub(super) fn silu(value: f32) -> f32 {
    value * sigmoid(value)
}

/// The derivative of [`silu`].
#[inline(always)]
pub(super) fn silu_derivative(value: f32) -> f32 {
    let sigmoid = sigmoid(value);
    sigmoid * (1.0 + value * (1.0 - sigmoid))
}

/// The normal distribution: the share of values below `value`, within 1e-7.
///
/// Source: Abramowitz and Stegun 1964, formula 7.1.26 for the error function.
#[inline(always)]
pub(super) fn normal_distribution(value: f32) -> f32 {
    let distance = value.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let part = 1.0 / (1.0 + 0.327_591_1 * distance);
    let series = 1.061_405_4 * part - 1.453_152;
    let series = series * part + 1.421_413_7;
    let series = series * part - 0.284_496_74;
    let series = series * part + 0.254_829_6;
    let beyond = 0.5 * series * part * exp(-distance * distance);
    if value < 0.0 { beyond } else { 1.0 - beyond }
}

/// The density of the normal distribution.
#[inline(always)]
pub(super) fn normal_density(value: f32) -> f32 {
    0.398_942_3 * exp(-0.5 * value * value)
}

/// Lanes of the sums below: enough to keep the adders of any processor busy.
const LANES: usize = 64;

/// The sum of `term(i)` for `i` below `len`, in an order that only `len` decides.
#[inline(always)]
pub(super) fn sum(len: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    for index in whole..len {
        lanes[index - whole] += term(index);
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_a_few_roundings() {
        for index in -8_700_i16..=8_800 {
            let value = f32::from(index) / 100.0;
            let exact = f64::from(value).exp();
            let error = (f64::from(exp(value)) - exact).abs() / exact;
            assert!(error < 1.2e-7, "exp({value}): relative error {error}");
        }
    }

    #[test]
    fn far_arguments_saturate() {
        assert_eq!(sigmoid(1e30), 1.0);
        assert!(sigmoid(-1e30) < 1e-37);
        assert_eq!(silu(1e30), 1e30);
        assert!(silu(f32::NAN).is_nan() && silu_derivative(f32::NAN).is_nan());
    }
}

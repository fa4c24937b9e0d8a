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

/// The normal distribution, which is the share of values below `value`, within 1e-7, and its density there.
///
/// Source: Abramowitz and Stegun 1964, formula 7.1.26 for the error function.
#[inline(always)]
pub(super) fn normal(value: f32) -> (f32, f32) {
    let distance = value.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let part = 1.0 / (1.0 + 0.327_591_1 * distance);
    let series = 1.061_405_4 * part - 1.453_152;
    let series = series * part + 1.421_413_7;
    let series = series * part - 0.284_496_74;
    let series = series * part + 0.254_829_6;
    let bell = exp(-distance * distance);
    let beyond = 0.5 * series * part * bell;
    (if value < 0.0 { beyond } else { 1.0 - beyond }, 0.398_942_3 * bell)
}

/// Lanes of the sums below: enough to keep the adders of any processor busy.
const LANES: usize = 64;

/// The sums of `N` terms over slices of one length, in an order that only the length decides.
#[inline(always)]
pub(super) fn sums<const I: usize, const N: usize>(
    inputs: [&[f32]; I],
    terms: impl Fn([f32; I]) -> [f32; N],
) -> [f32; N] {
    let mut lanes = [[0.0_f32; LANES]; N];
    let chunks = inputs.map(|input| input.as_chunks::<LANES>());
    let n_chunks = chunks[0].0.len();
    for chunk in 0..n_chunks {
        let values = chunks.map(|(whole, _)| &whole[chunk]);
        for lane in 0..LANES {
            let terms = terms(values.map(|values| values[lane]));
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                lanes[lane] += term;
            }
        }
    }
    for lane in 0..inputs[0].len() - n_chunks * LANES {
        let terms = terms(chunks.map(|(_, rest)| rest[lane]));
        for (lanes, term) in lanes.iter_mut().zip(terms) {
            lanes[lane] += term;
        }
    }
    lanes.map(|mut lanes| {
        // By halves, which are vectors; one after another each would wait for the one before.
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        lanes[0]
    })
}

/// The sum of the values of a slice.
#[inline(always)]
pub(super) fn sum(values: &[f32]) -> f32 {
    sums([values], |[value]| [value])[0]
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
    fn sums_are_those_of_one_after_another() {
        for len in [0, 1, 63, 64, 65, 127, 128, 200, 1000] {
            let values: Vec<f32> = (0_u8..=250).cycle().map(f32::from).take(len).collect();
            let exact: f32 = values.iter().sum();
            let [once, twice] = sums([&values, &values], |[left, right]| [left, left + right]);
            assert_eq!([sum(&values), once, twice], [exact, exact, 2.0 * exact], "{len} values");
        }
    }

    #[test]
    fn the_normal_distribution_is_symmetric_and_grows_by_its_density() {
        for index in -60_i8..=60 {
            let value = f32::from(index) / 10.0;
            let (below, density) = normal(value);
            assert!((below + normal(-value).0 - 1.0).abs() < 1e-6, "at {value}");
            let slope = (normal(value + 0.05).0 - normal(value - 0.05).0) / 0.1;
            assert!((slope - density).abs() < 2e-4, "at {value}: {slope} and {density}");
        }
        assert!((normal(1.0).0 - 0.841_344_8).abs() < 2e-7);
    }

    #[test]
    fn far_arguments_saturate() {
        assert_eq!(sigmoid(1e30), 1.0);
        assert!(sigmoid(-1e30) < 1e-37);
        assert_eq!(silu(1e30), 1e30);
        assert!(silu(f32::NAN).is_nan() && silu_derivative(f32::NAN).is_nan());
    }
}

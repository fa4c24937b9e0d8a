//! AdamW whose moments have 8 bits.

use burn::prelude::*;
use burn::tensor::{DType, TensorData};

use crate::AdamWStep;

/// Elements that share a scale.
pub const BLOCK: usize = 256;

/// Decades that the codes span, the largest ending at 1.
pub(crate) const N_DECADES: usize = 7;

/// Which numbers the 256 codes stand for.
///
/// Each decade below 1 has twice as many as the one below it, evenly spaced; beside them there are 0 and 1. So a large
/// number is rounded by less than 1 %, and one a million times smaller is still not 0.
///
/// Source: Dettmers 2016, "8-Bit Approximations for Parallelism in Deep Learning", section 2.3; bitsandbytes
/// `create_dynamic_map` (0.50).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodeMap {
    /// -1 to 1, for means of gradients.
    Signed,
    /// 0 to 1, for means of squares.
    Unsigned,
}

impl CodeMap {
    /// The code of zero.
    pub(crate) const fn zero(self) -> usize {
        match self {
            Self::Signed => 127,
            Self::Unsigned => 0,
        }
    }

    /// How many codes of one sign a decade has.
    pub(crate) const fn n_in_decade(self, decade: usize) -> usize {
        match self {
            Self::Signed => 1 << decade,
            Self::Unsigned => 2 << decade,
        }
    }

    /// What a code stands for that is `distance` above that of zero.
    #[expect(clippy::cast_precision_loss, reason = "below 256")]
    fn magnitude(self, distance: usize) -> f64 {
        let mut first = 1;
        for decade in 0..N_DECADES {
            let n = self.n_in_decade(decade);
            if distance < first + n {
                let middle = (distance as f64 - first as f64 + 0.5) / n as f64;
                return decade_end(decade) * (0.1 + 0.9 * middle);
            }
            first += n;
        }
        1.0
    }

    /// All 256 numbers, in ascending order.
    #[expect(clippy::cast_possible_truncation, reason = "f32 is the moments' precision")]
    pub(crate) fn numbers(self) -> [f32; 256] {
        std::array::from_fn(|code| match code.checked_sub(self.zero()) {
            Some(0) => 0.0,
            Some(distance) => self.magnitude(distance) as f32,
            None => -self.magnitude(self.zero() - code) as f32,
        })
    }

    /// The magnitudes from which on one rounds to the next decade: first from zero to the smallest, last to 1.
    pub(crate) fn edges(self) -> [f64; N_DECADES + 1] {
        std::array::from_fn(|decade| {
            let below = if decade == 0 { 0.0 } else { self.magnitude(self.first_of(decade) - 1) };
            0.5 * (below + self.magnitude(self.first_of(decade)))
        })
    }

    /// How far the first code of a decade is above that of zero.
    pub(crate) const fn first_of(self, decade: usize) -> usize {
        // The geometric series of all before it.
        self.n_in_decade(decade) - self.n_in_decade(0) + 1
    }
}

/// The largest magnitude of a decade.
pub(crate) fn decade_end(decade: usize) -> f64 {
    [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0][decade]
}

/// Numbers as 8-bit codes with one scale for each [`BLOCK`] of them.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// A code for each number, `[n]`, of 8 bits.
    pub codes: Tensor<1, Int>,
    /// The largest magnitude of each block, `[n.div_ceil(BLOCK)]`.
    pub scales: Tensor<1>,
}

/// A parameter's values and what 8-bit AdamW remembers of their gradients.
#[derive(Debug, Clone)]
pub struct AdamW8bitState {
    /// The values, `[n]`.
    pub value: Tensor<1>,
    /// Running mean of the gradients.
    pub first_moment: Quantized,
    /// Running mean of their squares.
    pub second_moment: Quantized,
}

impl AdamW8bitState {
    /// The state of values that had no gradient yet.
    #[must_use]
    pub fn new(value: Tensor<1>) -> Self {
        let zeros = |map: CodeMap| {
            let (n, device) = (value.dims()[0], value.device());
            let codes =
                Tensor::full([n], i64::try_from(map.zero()).expect("below 256"), (&device, DType::U8));
            Quantized { codes, scales: Tensor::zeros([n.div_ceil(BLOCK)], &device) }
        };
        let (first_moment, second_moment) = (zeros(CodeMap::Signed), zeros(CodeMap::Unsigned));
        Self { value, first_moment, second_moment }
    }
}

/// The state after one step of AdamW, as [`crate::adamw`] but for the rounding of the moments.
///
/// # Shapes
/// - gradient: `[n]`
/// - scale: `[1]`
///
/// Source: Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"; bitsandbytes `AdamW8bit` (0.50).
#[must_use]
pub fn adamw8bit(
    state: AdamW8bitState,
    gradient: Tensor<1>,
    scale: &Tensor<1>,
    step: &AdamWStep,
) -> AdamW8bitState {
    #[cfg(feature = "flex")]
    if [&state.value, &gradient, scale].into_iter().all(crate::flex::applies_untracked) {
        return crate::flex::adamw8bit::adamw8bit(state, gradient, scale, step);
    }
    composed(state, gradient, scale, step)
}

fn composed(
    state: AdamW8bitState,
    gradient: Tensor<1>,
    scale: &Tensor<1>,
    step: &AdamWStep,
) -> AdamW8bitState {
    let AdamW8bitState { value, first_moment, second_moment } = state;
    let first_moment = dequantize(first_moment, CodeMap::Signed);
    let second_moment = dequantize(second_moment, CodeMap::Unsigned);
    let before = crate::AdamWState { value, first_moment, second_moment };
    let crate::AdamWState { value, first_moment, second_moment } =
        crate::adamw(before, gradient, scale, step);
    AdamW8bitState {
        value,
        first_moment: quantize(first_moment, CodeMap::Signed),
        second_moment: quantize(second_moment, CodeMap::Unsigned),
    }
}

/// Each scale as often as its block has numbers, `[n]`.
fn spread(scales: Tensor<1>, n: usize) -> Tensor<1> {
    let n_blocks = scales.dims()[0];
    scales.reshape([n_blocks, 1]).expand([n_blocks, BLOCK]).reshape([n_blocks * BLOCK]).narrow(0, 0, n)
}

fn dequantize(Quantized { codes, scales }: Quantized, map: CodeMap) -> Tensor<1> {
    let (n, device) = (codes.dims()[0], codes.device());
    let numbers = Tensor::<1>::from_data(TensorData::from(map.numbers()), &device);
    numbers.select(0, codes.cast(DType::I32)) * spread(scales, n)
}

#[expect(clippy::cast_precision_loss, reason = "counts below 256")]
fn quantize(values: Tensor<1>, map: CodeMap) -> Quantized {
    let n = values.dims()[0];
    let n_blocks = n.div_ceil(BLOCK);
    let padded =
        Tensor::cat(vec![values.clone(), Tensor::zeros([n_blocks * BLOCK - n], &values.device())], 0);
    let scales = padded.abs().reshape([n_blocks, BLOCK]).max_dim(1).reshape([n_blocks]);
    let magnitude = values.clone().abs() / spread(scales.clone(), n).clamp_min(f32::MIN_POSITIVE);

    // Which decade, counted from 1, and in it which code.
    let mut distance = magnitude.zeros_like();
    for (decade, edge) in map.edges().into_iter().enumerate() {
        let is_above = magnitude.clone().greater_equal_elem(edge);
        let first = map.first_of(decade) as f64;
        let found = if decade == N_DECADES {
            magnitude.full_like(first)
        } else {
            let n_codes = map.n_in_decade(decade) as f64;
            let place = (magnitude.clone() / decade_end(decade) - 0.1) * (n_codes / 0.9);
            place.floor().clamp(0.0, n_codes - 1.0) + first
        };
        distance = distance.mask_where(is_above, found);
    }
    let codes = match map {
        // There is a code for 1 but none for -1.
        CodeMap::Signed => (distance * values.sign()).clamp_min(-127.0) + map.zero() as f64,
        CodeMap::Unsigned => distance,
    };
    Quantized { codes: codes.round().int().cast(DType::U8), scales }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;
    use crate::draw::draw;

    const STEP: AdamWStep = AdamWStep {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        kept: 0.999,
        step_size: 0.01,
        root_correction: 0.05,
    };

    fn floats(tensor: Tensor<1>) -> Vec<f32> {
        tensor.try_into_vec_as().expect("f32")
    }

    fn codes(tensor: &Tensor<1, Int>) -> Vec<i64> {
        tensor.clone().try_into_vec_as().expect("integers")
    }

    #[test]
    fn codes_stand_for_ascending_numbers_from_the_least_to_one() {
        for (map, least, smallest) in
            [(CodeMap::Signed, -0.992_968_75, 5.5e-7), (CodeMap::Unsigned, 0.0, 3.25e-7)]
        {
            let numbers = map.numbers();
            assert!(numbers.is_sorted_by(|left, right| left < right), "{map:?}");
            assert!((numbers[0] - least).abs() < 1e-6 && numbers[255] == 1.0, "{map:?} {numbers:?}");
            assert_eq!(numbers[map.zero()], 0.0);
            assert!((numbers[map.zero() + 1] / smallest - 1.0).abs() < 1e-5, "{map:?}");
        }
    }

    #[test]
    fn every_number_becomes_the_nearest_code() {
        let device = Device::flex();
        for map in [CodeMap::Signed, CodeMap::Unsigned] {
            let numbers = map.numbers();
            // Many sizes, and 1 in every block, so that the scale is 1.
            let mut values: Vec<f32> = (0..64 * BLOCK)
                .map(|i| {
                    10.0_f32.powf(-8.0 * (i as f32 * 0.618).fract()) * if i % 2 == 0 { 1.0 } else { -1.0 }
                })
                .map(|value| if map == CodeMap::Signed { value } else { value.abs() })
                .collect();
            values.iter_mut().step_by(BLOCK).for_each(|value| *value = 1.0);
            if map == CodeMap::Signed {
                values[1] = -1.0;
                values[2] = -0.998;
            }
            let quantized = quantize(Tensor::<1>::from_floats(values.as_slice(), &device), map);
            for (value, code) in values.iter().zip(codes(&quantized.codes)) {
                let error = |code: usize| (numbers[code] - value).abs();
                let code = usize::try_from(code).expect("a code");
                let nearest = (0..256).map(error).fold(f32::INFINITY, f32::min);
                assert!(error(code) <= nearest * (1.0 + 1e-4) + 1e-12, "{map:?} {value}: code {code}");
            }
        }
    }

    #[test]
    fn a_step_is_that_of_the_composition() {
        let device = Device::flex();
        for n in [1, 255, 256, 5000, 70_001] {
            let random = |sigma| draw::<1>([n], Distribution::Normal(0.0, sigma), &device);
            let mut ours = AdamW8bitState::new(random(1.0));
            let mut burns = ours.clone();
            let scale = Tensor::<1>::from_floats([0.5], &device);
            for _ in 0..4 {
                let gradient = random(1e-3);
                ours = adamw8bit(ours, gradient.clone(), &scale, &STEP);
                burns = composed(burns, gradient, &scale, &STEP);
                // A number halfway between two codes may become either of them.
                for (ours, burns) in
                    [(&ours.first_moment, &burns.first_moment), (&ours.second_moment, &burns.second_moment)]
                {
                    let pairs = codes(&ours.codes).into_iter().zip(codes(&burns.codes));
                    let n_other = pairs.filter(|(ours, burns)| ours != burns).count();
                    assert!(n_other * 1000 <= n, "{n_other} of {n} codes differ");
                    assert_eq!(floats(ours.scales.clone()), floats(burns.scales.clone()));
                }
                let errors = floats(ours.value.clone()).into_iter().zip(floats(burns.value.clone()));
                let n_off = errors.filter(|(ours, burns)| (ours - burns).abs() > 1e-6).count();
                assert!(n_off * 500 <= n, "{n_off} of {n} values differ");
                burns = ours.clone();
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let device = Device::flex();
        let random = || draw::<1>([300_001], Distribution::Normal(0.0, 1.0), &device);
        let (state, gradient) = (AdamW8bitState::new(random()), random());
        let run = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
            let scale = Tensor::ones([1], &device);
            let after = pool.install(|| adamw8bit(state.clone(), gradient.clone(), &scale, &STEP));
            (floats(after.value), codes(&after.first_moment.codes), codes(&after.second_moment.codes))
        };
        assert!(run(1) == run(5));
    }
}

//! AdamW with 8-bit moments in one pass over memory.

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::{FlexTensor, Layout};
use burn::prelude::*;
use burn::tensor::{Bytes, DType};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::adamw::{Constants, own, primitive};
use super::memory::{contiguous, values};
use crate::adamw8bit::{BLOCK, CodeMap, N_DECADES, decade_end};
use crate::{AdamW8bitState, AdamWStep, Quantized};

/// Blocks per task.
const N_BLOCKS: usize = 256;

/// How numbers become codes and back.
struct Codec {
    zero: i32,
    numbers: [f32; 256],
    edges: [f32; N_DECADES + 1],
    /// Of each decade, then of 1 alone: the place of a magnitude among its codes is `magnitude * slope + offset`.
    slopes: [f32; N_DECADES + 1],
    offsets: [f32; N_DECADES + 1],
    firsts: [f32; N_DECADES + 1],
    lasts: [f32; N_DECADES + 1],
}

impl Codec {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_precision_loss,
        reason = "small numbers"
    )]
    fn new(map: CodeMap) -> Self {
        let codes_per_end = |decade: usize| map.n_in_decade(decade) as f64 / 0.9;
        let by_decade = |of: &dyn Fn(usize) -> f64, of_one: f64| {
            std::array::from_fn(|decade| if decade == N_DECADES { of_one } else { of(decade) } as f32)
        };
        let one = map.first_of(N_DECADES) as f64;
        Self {
            zero: map.zero() as i32,
            numbers: map.numbers(),
            edges: map.edges().map(|edge| edge as f32),
            slopes: by_decade(&|decade| codes_per_end(decade) / decade_end(decade), 0.0),
            offsets: by_decade(&|decade| map.first_of(decade) as f64 - 0.1 * codes_per_end(decade), one),
            firsts: by_decade(&|decade| map.first_of(decade) as f64, one),
            lasts: by_decade(&|decade| map.first_of(decade + 1) as f64 - 1.0, one),
        }
    }

    #[inline(always)]
    fn decode(&self, codes: &[u8], scale: f32, numbers: &mut [f32]) {
        for (number, code) in numbers.iter_mut().zip(codes) {
            *number = self.numbers[usize::from(*code)] * scale;
        }
    }

    /// Returns the scale. One short loop after another, which compile to vectors.
    #[inline(always)]
    fn encode(&self, numbers: &[f32], codes: &mut [u8]) -> f32 {
        let scale = largest_magnitude(numbers);
        let shrink = scale.max(f32::MIN_POSITIVE);
        let (mut magnitudes, mut distances) = ([0.0; BLOCK], [0.0; BLOCK]);
        let (magnitudes, distances) = (&mut magnitudes[..numbers.len()], &mut distances[..numbers.len()]);
        for (magnitude, number) in magnitudes.iter_mut().zip(numbers) {
            *magnitude = number.abs() / shrink;
        }
        for decade in 0..=N_DECADES {
            let (edge, slope, offset) = (self.edges[decade], self.slopes[decade], self.offsets[decade]);
            let (first, last) = (self.firsts[decade], self.lasts[decade] + 0.5);
            for (distance, magnitude) in distances.iter_mut().zip(&*magnitudes) {
                let place = (magnitude * slope + offset).max(first).min(last);
                *distance = if *magnitude >= edge { place } else { *distance };
            }
        }
        for ((code, distance), number) in codes.iter_mut().zip(distances).zip(numbers) {
            // SAFETY: clamping has left no NaN, and all are between 0 and 256.
            let distance: i32 = unsafe { distance.to_int_unchecked() };
            // There is a code for 1 but none for -1.
            let signed = if *number < 0.0 { -distance.min(127) } else { distance };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 255")]
            {
                *code = (signed + self.zero) as u8;
            }
        }
        scale
    }
}

#[inline(always)]
fn largest_magnitude(numbers: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0_f32; LANES];
    let (whole, rest) = numbers.as_chunks::<LANES>();
    for numbers in whole {
        for (lane, number) in lanes.iter_mut().zip(numbers) {
            *lane = lane.max(number.abs());
        }
    }
    for (lane, number) in lanes.iter_mut().zip(rest) {
        *lane = lane.max(number.abs());
    }
    lanes.into_iter().fold(0.0, f32::max)
}

/// Some blocks of one parameter.
struct Blocks<'a> {
    value: &'a mut [f32],
    gradient: &'a [f32],
    codes: [&'a mut [u8]; 2],
    scales: [&'a mut [f32]; 2],
    constants: &'a Constants,
    codecs: &'a [Codec; 2],
}

/// A type and not a closure: one that is not inlined would be compiled without the processor's vectors.
impl WithSimd for Blocks<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { value, gradient, codes: [first_codes, second_codes], scales, constants, codecs } = self;
        let [first_scales, second_scales] = scales;
        let blocks = value
            .chunks_mut(BLOCK)
            .zip(gradient.chunks(BLOCK))
            .zip(first_codes.chunks_mut(BLOCK))
            .zip(second_codes.chunks_mut(BLOCK))
            .zip(first_scales)
            .zip(second_scales);
        let (mut first, mut second) = ([0.0; BLOCK], [0.0; BLOCK]);
        for (((((value, gradient), first_codes), second_codes), first_scale), second_scale) in blocks {
            let (first, second) = (&mut first[..value.len()], &mut second[..value.len()]);
            codecs[0].decode(first_codes, *first_scale, first);
            codecs[1].decode(second_codes, *second_scale, second);
            constants.update(value, first, second, gradient);
            *first_scale = codecs[0].encode(first, first_codes);
            *second_scale = codecs[1].encode(second, second_codes);
        }
    }
}

/// The codes in memory that nobody else holds.
fn own_codes(codes: Tensor<1, Int>) -> FlexTensor {
    let codes = codes.cast(DType::U8).try_into_primitive::<Flex>();
    let codes = contiguous(codes.expect("the caller has seen that the kernel applies"));
    let all: &[u8] = codes.as_slice().expect("a contiguous tensor of 8 bits");
    if codes.bytes().len() == all.len() {
        return codes;
    }
    let (all, shape) = (all.to_vec(), codes.shape());
    FlexTensor::new(Bytes::from_elems(all), Layout::contiguous(shape), DType::U8)
}

/// [`crate::adamw8bit`] on tensors that the special kernels apply to.
pub(crate) fn adamw8bit(
    state: AdamW8bitState,
    gradient: Tensor<1>,
    scale: &Tensor<1>,
    step: &AdamWStep,
) -> AdamW8bitState {
    const CHUNK: usize = N_BLOCKS * BLOCK;
    let AdamW8bitState { value, first_moment, second_moment } = state;
    let constants = Constants::new(step, values(&primitive(scale.clone()))[0]);
    let codecs = [Codec::new(CodeMap::Signed), Codec::new(CodeMap::Unsigned)];
    let (mut value, gradient) = (own(value), primitive(gradient));
    let [mut first_codes, mut second_codes] = [first_moment.codes, second_moment.codes].map(own_codes);
    let [mut first_scales, mut second_scales] = [first_moment.scales, second_moment.scales].map(own);
    value
        .storage_mut::<f32>()
        .par_chunks_mut(CHUNK)
        .zip(values(&gradient).par_chunks(CHUNK))
        .zip(first_codes.storage_mut::<u8>().par_chunks_mut(CHUNK))
        .zip(second_codes.storage_mut::<u8>().par_chunks_mut(CHUNK))
        .zip(first_scales.storage_mut::<f32>().par_chunks_mut(N_BLOCKS))
        .zip(second_scales.storage_mut::<f32>().par_chunks_mut(N_BLOCKS))
        .for_each(|(((((value, gradient), first_codes), second_codes), first_scales), second_scales)| {
            let (codes, scales) = ([first_codes, second_codes], [first_scales, second_scales]);
            let blocks = Blocks { value, gradient, codes, scales, constants: &constants, codecs: &codecs };
            Arch::new().dispatch(blocks);
        });
    let quantized = |codes, scales| Quantized {
        codes: Tensor::from_primitive::<Flex>(codes),
        scales: Tensor::from_primitive::<Flex>(scales),
    };
    AdamW8bitState {
        value: Tensor::from_primitive::<Flex>(value),
        first_moment: quantized(first_codes, first_scales),
        second_moment: quantized(second_codes, second_scales),
    }
}

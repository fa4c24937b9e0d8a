//! Counter-based randomness: every draw is a function of (seed, step, sample, purpose).
//!
//! No generator lives longer than one draw, so nothing random has to be stored in a checkpoint: a resumed run
//! asks for the same keys and gets the same numbers, and any step can be replayed alone.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Separates our keys from any other use of blake3. Changing it changes every run.
const CONTEXT: &str = "pyrograph 2026 counter-based randomness v1";

/// What a random number is for. Draws for different purposes are independent of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// The order of an epoch.
    Order,
    /// Which samples `max_train_samples` keeps.
    Subset,
    /// Which samples are kept out of training for evaluation.
    HeldOut,
    /// Which caption of a sample is used, and whether it is dropped.
    Caption,
    /// The draw from the VAE's Gaussian.
    Latent,
    /// The noise added to a latent.
    Noise,
    /// What is added to all of a channel's noise.
    NoiseOffset,
    /// The timestep of a sample.
    Timestep,
    /// Whether a hint is dropped.
    HintDropout,
    /// What is drawn of a hint that is made: thresholds, holes.
    Hint,
    /// Where a picture is cut, and whether it is mirrored.
    Geometry,
    /// The first weights of a new model.
    Weights,
    /// The starting noise of a validation image.
    Validation,
    /// The timestep and the noise with which a sample is evaluated.
    Evaluation,
    /// A picture of the generated circle task.
    Circle,
    /// A generated [`Scene`](crate::Scene).
    Shape,
}

impl Purpose {
    /// The name that goes into the key; renaming a variant must not change it.
    fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Subset => "subset",
            Self::HeldOut => "held out",
            Self::Caption => "caption",
            Self::Latent => "latent",
            Self::Noise => "noise",
            Self::NoiseOffset => "noise offset",
            Self::Timestep => "timestep",
            Self::HintDropout => "hint dropout",
            Self::Hint => "hint",
            Self::Geometry => "geometry",
            Self::Weights => "weights",
            Self::Validation => "validation",
            Self::Evaluation => "evaluation",
            Self::Circle => "circle",
            Self::Shape => "shape",
        }
    }
}

/// The generator for one purpose at one step of one sample.
///
/// `step` is whatever counts in the purpose's life: the training step, the epoch, a picture's number. `sample`
/// is [`Sample::id`](crate::Sample::id), or empty where no sample is concerned. The generator is ChaCha8, keyed
/// by blake3 over the four; equal arguments give equal numbers on every machine and in every version.
#[must_use]
pub fn rng(seed: u64, step: u64, sample: &str, purpose: Purpose) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&seed.to_le_bytes());
    hasher.update(&step.to_le_bytes());
    // The purpose's name holds no NUL, so no two argument lists give the same bytes.
    hasher.update(purpose.name().as_bytes());
    hasher.update(&[0]);
    hasher.update(sample.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// A uniform number in `[0, 1)` with 53 random bits.
///
/// Written here because the numbers must stay the same forever, which crate `rand` does not promise.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
pub fn unit(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A uniform number in `0..bound`, for the same reason as [`unit()`]. The bias is below `bound / 2^64`.
#[expect(clippy::cast_possible_truncation, reason = "the high half of the product is below `bound`, a usize")]
pub fn below(rng: &mut impl Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

/// Shuffles in place (Fisher and Yates), for the same reason as [`unit()`].
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut impl Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(rng, last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_key_never_change() {
        let mut noise = rng(42, 7, "images/0.png", Purpose::Noise);
        assert_eq!(
            [noise.next_u64(), noise.next_u64()],
            [6_980_443_218_195_273_694, 3_960_770_075_629_782_900]
        );
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let draw = |seed, step, sample, purpose| rng(seed, step, sample, purpose).next_u64();
        let draws = [
            draw(1, 1, "a", Purpose::Noise),
            draw(2, 1, "a", Purpose::Noise),
            draw(1, 2, "a", Purpose::Noise),
            draw(1, 1, "b", Purpose::Noise),
            draw(1, 1, "a", Purpose::Latent),
        ];
        for (index, left) in draws.iter().enumerate() {
            assert!(draws[index + 1..].iter().all(|right| left != right));
        }
    }

    #[test]
    fn uniform_numbers_fill_their_range() {
        let mut rng = rng(0, 0, "", Purpose::Noise);
        let mut counts = [0; 5];
        let mut sum = 0.0;
        for _ in 0..10_000 {
            counts[below(&mut rng, 5)] += 1;
            let number = unit(&mut rng);
            assert!((0.0..1.0).contains(&number));
            sum += number;
        }
        assert!(counts.iter().all(|count| (1_800..2_200).contains(count)), "{counts:?}");
        assert!((sum / 10_000.0 - 0.5).abs() < 0.02);
    }
}

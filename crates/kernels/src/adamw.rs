//! The optimizer's step and what it is clipped by.

use burn::prelude::*;

/// The numbers of one AdamW step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// What is left of a value after decay: one less the learning rate times the weight decay.
    pub kept: f64,
    /// The learning rate over `1 - beta1^step`.
    pub step_size: f64,
    /// The root of `1 - beta2^step`.
    pub root_correction: f64,
}

/// A value and its two moments after one step of AdamW.
///
/// The gradient counts `scale` times, a tensor of one element. On the CPU backend in f32 all of it is one pass over
/// memory, in place where nobody else holds the tensors.
///
/// # Shapes
/// - value, first and second moment, gradient and outputs: `[n]`
/// - scale: `[1]`
///
/// Source: Loshchilov and Hutter 2019, algorithm 2; `torch.optim.AdamW`.
#[must_use]
pub fn adamw(
    value: Tensor<1>,
    moments: [Tensor<1>; 2],
    gradient: Tensor<1>,
    scale: &Tensor<1>,
    step: &AdamWStep,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    #[cfg(feature = "flex")]
    if [&value, &moments[0], &moments[1], &gradient, scale].into_iter().all(crate::flex::applies) {
        return crate::flex::adamw::adamw(value, moments, gradient, scale, step);
    }
    let [first, second] = moments;
    let gradient = gradient * scale.clone();
    let first = first * step.beta1 + gradient.clone() * (1.0 - step.beta1);
    let second = second * step.beta2 + gradient.square() * (1.0 - step.beta2);
    let denominator = second.clone().sqrt() / step.root_correction + step.epsilon;
    let change = first.clone() / denominator * step.step_size;
    (value * step.kept - change, [first, second])
}

/// The sum of the squares of all elements, `[1]`.
#[must_use]
pub fn sum_of_squares(values: Tensor<1>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if crate::flex::applies(&values) {
        return crate::flex::adamw::sum_of_squares(values);
    }
    values.square().sum()
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    /// In f64, one element at a time.
    fn reference(value: f64, [first, second]: [f64; 2], gradient: f64, step: &AdamWStep) -> [f64; 3] {
        let first = first * step.beta1 + gradient * (1.0 - step.beta1);
        let second = second * step.beta2 + gradient * gradient * (1.0 - step.beta2);
        let denominator = second.sqrt() / step.root_correction + step.epsilon;
        [value * step.kept - step.step_size * first / denominator, first, second]
    }

    fn doubles(tensor: &Tensor<1>) -> Vec<f64> {
        tensor.clone().try_into_vec_as::<f32>().expect("f32").into_iter().map(f64::from).collect()
    }

    #[test]
    fn each_element_makes_its_own_step() {
        let device = Device::flex();
        let step = AdamWStep {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            kept: 0.999,
            step_size: 0.01,
            root_correction: 0.05,
        };
        for n in [1, 15, 1000, 200_000] {
            let random = || Tensor::<1>::random([n], Distribution::Normal(0.0, 1.0), &device);
            let (value, moments, gradient) = (random(), [random(), random().square()], random());
            let scale = Tensor::from_floats([0.25], &device);
            let before = [&value, &moments[0], &moments[1], &gradient].map(doubles);
            let (after, moments_after) =
                adamw(value.clone(), moments.clone(), gradient.clone(), &scale, &step);
            let after = [&after, &moments_after[0], &moments_after[1]].map(doubles);
            for i in 0..n {
                let [value, first, second, gradient] = [0, 1, 2, 3].map(|part| before[part][i]);
                let expected = reference(value, [first, second], 0.25 * gradient, &step);
                for (part, expected) in expected.into_iter().enumerate() {
                    let error = (after[part][i] - expected).abs() / expected.abs().max(1e-2);
                    assert!(error < 1e-5, "part {part} of element {i} of {n}: {} {expected}", after[part][i]);
                }
            }
            // Held here too, so they were copied.
            let held = [&value, &moments[0], &moments[1], &gradient].map(doubles);
            assert!(held == before);
        }
    }

    #[test]
    fn squares_of_many_elements_are_summed_exactly() {
        let device = Device::flex();
        for n in [1_u16, 63, 1000, 40_000] {
            let values = Tensor::<1>::full([usize::from(n)], 0.1, &device);
            let expected = f64::from(n) * f64::from(0.1_f32).powi(2);
            let error = (f64::from(sum_of_squares(values).into_scalar::<f32>()) - expected).abs() / expected;
            assert!(error < 1e-6, "{n}: {error}");
        }
    }
}

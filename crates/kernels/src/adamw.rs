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

/// A parameter's values and what AdamW remembers of their gradients, each `[n]`.
#[derive(Debug, Clone)]
pub struct AdamWState {
    /// The values.
    pub value: Tensor<1>,
    /// Running mean of the gradients.
    pub first_moment: Tensor<1>,
    /// Running mean of their squares.
    pub second_moment: Tensor<1>,
}

/// The state after one step of AdamW.
///
/// The gradient counts `scale` times, so that clipping needs no pass of its own. On the CPU backend in f32 all of it
/// is one pass over memory, in place where nobody else holds the state's tensors.
///
/// # Shapes
/// - gradient: `[n]`
/// - scale: `[1]`
///
/// Source: Loshchilov and Hutter 2019, algorithm 2; `torch.optim.AdamW`.
#[must_use]
pub fn adamw(state: AdamWState, gradient: Tensor<1>, scale: &Tensor<1>, step: &AdamWStep) -> AdamWState {
    #[cfg(feature = "flex")]
    if [&state.value, &state.first_moment, &state.second_moment, &gradient, scale]
        .into_iter()
        .all(crate::flex::applies_untracked)
    {
        return crate::flex::adamw::adamw(state, gradient, scale, step);
    }
    composed(state, gradient, scale, step)
}

fn composed(state: AdamWState, gradient: Tensor<1>, scale: &Tensor<1>, step: &AdamWStep) -> AdamWState {
    let AdamWState { value, first_moment, second_moment } = state;
    let gradient = gradient * scale.clone();
    let first_moment = first_moment * step.beta1 + gradient.clone() * (1.0 - step.beta1);
    let second_moment = second_moment * step.beta2 + gradient.square() * (1.0 - step.beta2);
    let denominator = second_moment.clone().sqrt() / step.root_correction + step.epsilon;
    let change = first_moment.clone() / denominator * step.step_size;
    AdamWState { value: value * step.kept - change, first_moment, second_moment }
}

/// The sum of the squares of all elements, `[1]`.
#[must_use]
pub fn sum_of_squares(values: Tensor<1>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if crate::flex::applies_untracked(&values) {
        return crate::flex::adamw::sum_of_squares(values);
    }
    values.square().sum()
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
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

    /// In f64, one element at a time.
    fn reference([value, first, second]: [f64; 3], gradient: f64, step: &AdamWStep) -> [f64; 3] {
        let first = first * step.beta1 + gradient * (1.0 - step.beta1);
        let second = second * step.beta2 + gradient * gradient * (1.0 - step.beta2);
        let denominator = second.sqrt() / step.root_correction + step.epsilon;
        [value * step.kept - step.step_size * first / denominator, first, second]
    }

    fn random(n: usize) -> Tensor<1> {
        draw([n], Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    fn random_state(n: usize) -> AdamWState {
        AdamWState { value: random(n), first_moment: random(n), second_moment: random(n).square() }
    }

    fn parts(state: AdamWState) -> [Tensor<1>; 3] {
        [state.value, state.first_moment, state.second_moment]
    }

    fn doubles(tensor: Tensor<1>) -> Vec<f64> {
        tensor.try_into_vec_as::<f32>().expect("f32").into_iter().map(f64::from).collect()
    }

    #[test]
    fn each_element_makes_its_own_step() {
        let scale = Tensor::from_floats([0.25], &Device::flex());
        for n in [1, 15, 1000, 200_000] {
            let (state, gradient) = (random_state(n), random(n));
            let before = parts(state.clone()).map(doubles);
            let gradients = doubles(gradient.clone());
            for step in [adamw, composed] {
                let after = parts(step(state.clone(), gradient.clone(), &scale, &STEP)).map(doubles);
                for i in 0..n {
                    let expected =
                        reference([0, 1, 2].map(|part| before[part][i]), 0.25 * gradients[i], &STEP);
                    for (part, expected) in expected.into_iter().enumerate() {
                        let after = after[part][i];
                        // Where value and change nearly cancel, the rounding of either is left.
                        let error = (after - expected).abs() / expected.abs().max(0.1);
                        assert!(error < 1e-5, "part {part} of element {i} of {n}: {after} {expected}");
                    }
                }
            }
            let held = parts(state).map(doubles);
            assert!(
                held == before && doubles(gradient) == gradients,
                "what is held here too stays as it was"
            );
        }
    }

    #[test]
    fn a_state_that_nobody_else_holds_stays_where_it_is() {
        let addresses = |state: &AdamWState| {
            parts(state.clone()).map(|part| part.try_into_primitive::<Flex>().expect("flex").bytes().as_ptr())
        };
        let (state, scale) = (random_state(1000), Tensor::ones([1], &Device::flex()));
        let before = addresses(&state);
        let state = adamw(state, random(1000), &scale, &STEP);
        assert_eq!(addresses(&state), before);
    }

    #[test]
    fn a_view_of_a_larger_tensor_leaves_the_rest_of_it_alone() {
        let whole = random(100);
        let before = doubles(whole.clone());
        let state = AdamWState { value: whole.clone().narrow(0, 10, 10), ..random_state(10) };
        let values = doubles(state.value.clone());
        let after = adamw(state, random(10), &Tensor::ones([1], &Device::flex()), &STEP);
        assert_eq!(doubles(whole), before);
        assert_eq!(after.value.dims(), [10]);
        assert!(values.iter().zip(doubles(after.value)).all(|(before, after)| *before != after));
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (state, gradient) = (random_state(300_001), random(300_001));
        let run = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
            pool.install(|| {
                let scale = sum_of_squares(gradient.clone()).sqrt().recip();
                parts(adamw(state.clone(), gradient.clone(), &scale, &STEP)).map(doubles)
            })
        };
        assert!(run(1) == run(5));
    }

    #[test]
    fn a_gradient_flows_through_the_sum_of_squares() {
        let values = Tensor::<1>::from_floats([1.0, -2.0], &Device::flex().autodiff()).require_grad();
        let gradients = sum_of_squares(values.clone()).backward();
        assert_eq!(doubles(values.grad(&gradients).expect("tracked")), [2.0, -4.0]);
    }

    #[test]
    fn squares_of_many_elements_are_summed_exactly() {
        let device = Device::flex();
        for n in [1_u16, 63, 1000, 40_000] {
            let values = Tensor::<1>::full([usize::from(n)], 0.1, &device);
            let expected = f64::from(n) * f64::from(0.1_f32).powi(2);
            let error = (f64::from(sum_of_squares(values).into_scalar::<f32>()) - expected).abs() / expected;
            assert!(error < 1e-7, "{n}: {error}");
        }
    }
}

//! Gradients as one list, the clipping of their global norm, and AdamW.

use std::collections::BTreeMap;

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_kernels::{AdamWState, AdamWStep, adamw, sum_of_squares};

use crate::TrainError;

/// One flattened gradient for each parameter of a module, in the order in which the module is visited.
///
/// A parameter that had no part in the loss has none.
#[derive(Debug, Clone)]
pub struct Gradients {
    gradients: Vec<Option<Tensor<1>>>,
    /// A factor on all of them, `[1]`, that the optimizer's pass over memory applies.
    scale: Option<Tensor<1>>,
}

impl Gradients {
    /// Takes the gradients of `module`'s parameters out of a backward pass.
    #[must_use]
    pub fn take<M: Module>(module: &M, backward: burn::tensor::Gradients) -> Self {
        struct Taker {
            backward: burn::tensor::Gradients,
            taken: Vec<Option<Tensor<1>>>,
        }
        impl ModuleVisitor for Taker {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let gradient = param.val().grad_remove(&mut self.backward);
                self.taken.push(gradient.map(|gradient| gradient.inner().flatten(0, -1)));
            }
        }
        let mut taker = Taker { backward, taken: Vec::new() };
        module.visit(&mut taker);
        Self { gradients: taker.taken, scale: None }
    }

    /// The sum with another micro-batch's gradients, in the memory of one of the two where nobody else holds it.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |(left, right): (Option<Tensor<1>>, Option<Tensor<1>>)| match (left, right) {
            (Some(left), Some(right)) => Some(left + right),
            (one, None) | (None, one) => one,
        };
        Self { gradients: self.into_scaled().zip(other.into_scaled()).map(sum).collect(), scale: None }
    }

    /// The L2 norm over all gradients, `[1]`, left on the device. `None` if there is no gradient at all.
    #[must_use]
    pub fn norm(&self) -> Option<Tensor<1>> {
        let squares = self.gradients.iter().flatten().map(|gradient| sum_of_squares(gradient.clone()));
        let norm = squares.reduce(|left, right| left + right)?.sqrt();
        Some(match &self.scale {
            Some(scale) => norm * scale.clone(),
            None => norm,
        })
    }

    /// Scales all gradients down together so that their norm is at most `max_norm`; returns the norm before.
    ///
    /// Source: `torch.nn.utils.clip_grad_norm_`, with its 1e-6.
    #[must_use]
    pub fn clipped(self, max_norm: f64) -> (Self, Option<Tensor<1>>) {
        let norm = self.norm();
        let coefficient = |norm: Tensor<1>| ((norm + 1e-6).recip() * max_norm).clamp_max(1.0);
        let scale = match (self.scale, norm.clone().map(coefficient)) {
            (Some(scale), Some(coefficient)) => Some(scale * coefficient),
            (one, None) | (None, one) => one,
        };
        (Self { gradients: self.gradients, scale }, norm)
    }

    /// The flattened gradients in visiting order.
    pub fn iter(&self) -> impl Iterator<Item = Option<Tensor<1>>> {
        self.clone().into_scaled()
    }

    fn into_scaled(self) -> impl Iterator<Item = Option<Tensor<1>>> {
        let Self { gradients, scale } = self;
        let scaled = move |gradient: Tensor<1>| match &scale {
            Some(scale) => gradient * scale.clone(),
            None => gradient,
        };
        gradients.into_iter().map(move |gradient| gradient.map(&scaled))
    }
}

/// The constants of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of a parameter, times the learning rate, taken off at each step.
    pub weight_decay: f64,
}

/// AdamW with decoupled weight decay and bias correction; all parameters decay, biases and norms too.
///
/// Source: Loshchilov and Hutter 2019, algorithm 2; `torch.optim.AdamW`.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u32,
    /// First and second moment of each parameter that ever had a gradient, in visiting order.
    moments: Vec<Option<[Tensor<1>; 2]>>,
}

impl AdamW {
    /// An optimizer that has not made a step.
    #[must_use]
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, steps: 0, moments: Vec::new() }
    }

    /// The number of steps made.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// One step; the module's parameters stay the same leaves of the autodiff graph, with new values.
    ///
    /// A parameter that nobody else holds is updated in place.
    pub fn step<M: Module>(&mut self, module: M, gradients: Gradients, lr: f64) -> M {
        self.steps += 1;
        let Gradients { gradients, scale } = gradients;
        self.moments.resize_with(gradients.len(), || None);
        let AdamWConfig { beta1, beta2, epsilon, weight_decay } = self.config;
        let steps = f64::from(self.steps);
        let step = AdamWStep {
            beta1,
            beta2,
            epsilon,
            kept: 1.0 - lr * weight_decay,
            step_size: lr / (1.0 - beta1.powf(steps)),
            root_correction: (1.0 - beta2.powf(steps)).sqrt(),
        };
        module.map(&mut Update { step, scale, remaining: gradients.into_iter().zip(&mut self.moments) })
    }

    /// The moments by parameter path, for a checkpoint.
    #[must_use]
    pub fn state<M: Module>(&self, module: &M) -> BTreeMap<String, TensorData> {
        let mut state = BTreeMap::new();
        for (path, moments) in paths(module).into_iter().zip(&self.moments) {
            for (moment, prefix) in moments.iter().flatten().zip(["first_moment", "second_moment"]) {
                state.insert(format!("{prefix}.{path}"), moment.to_data());
            }
        }
        state
    }

    /// An optimizer that continues after `steps` steps with the moments of [`AdamW::state`].
    ///
    /// # Errors
    /// [`TrainError::OptimizerState`] if the moments are those of another module.
    pub fn resumed<M: Module>(
        config: AdamWConfig,
        steps: u32,
        mut state: BTreeMap<String, TensorData>,
        module: &M,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let device = device.clone().inner();
        let sizes = sizes(module);
        let mut moments = Vec::with_capacity(sizes.len());
        for (path, size) in paths(module).into_iter().zip(sizes) {
            let mut take = |prefix: &str| {
                let name = format!("{prefix}.{path}");
                match state.remove(&name) {
                    Some(data) if data.shape().to_vec() == [size] => {
                        Ok(Some(Tensor::<1>::from_data(data, &device)))
                    }
                    Some(_) => {
                        Err(TrainError::OptimizerState { tensor: name, problem: "has the wrong size" })
                    }
                    None => Ok(None),
                }
            };
            moments.push(match (take("first_moment")?, take("second_moment")?) {
                (Some(first), Some(second)) => Some([first, second]),
                (None, None) => None,
                _ => return Err(TrainError::OptimizerState { tensor: path, problem: "has only one moment" }),
            });
        }
        match state.into_keys().next() {
            Some(tensor) => Err(TrainError::OptimizerState { tensor, problem: "belongs to no parameter" }),
            None => Ok(Self { config, steps, moments }),
        }
    }
}

struct Update<'a, I: Iterator<Item = (Option<Tensor<1>>, &'a mut Option<[Tensor<1>; 2]>)>> {
    step: AdamWStep,
    scale: Option<Tensor<1>>,
    remaining: I,
}

impl<'a, I> ModuleMapper for Update<'a, I>
where
    I: Iterator<Item = (Option<Tensor<1>>, &'a mut Option<[Tensor<1>; 2]>)>,
{
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (gradient, moments) = self.remaining.next().expect("one entry for each parameter");
        let Some(gradient) = gradient else { return param };
        let [first_moment, second_moment] =
            moments.take().unwrap_or_else(|| [gradient.zeros_like(), gradient.zeros_like()]);
        let scale = self.scale.get_or_insert_with(|| Tensor::ones([1], &gradient.device()));
        param.map(|value| {
            let value = value.inner();
            let shape = value.shape();
            let before = AdamWState { value: value.flatten(0, -1), first_moment, second_moment };
            let AdamWState { value, first_moment, second_moment } =
                adamw(before, gradient, scale, &self.step);
            *moments = Some([first_moment, second_moment]);
            value.reshape(shape).autodiff().require_grad()
        })
    }
}

/// The path of each float parameter, in visiting order.
fn paths<M: Module>(module: &M) -> Vec<String> {
    #[derive(Default)]
    struct Paths {
        stack: Vec<String>,
        paths: Vec<String>,
    }
    impl ModuleVisitor for Paths {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.stack.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.stack.pop();
        }
        fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
            self.paths.push(self.stack.join("."));
        }
    }
    let mut visitor = Paths::default();
    module.visit(&mut visitor);
    visitor.paths
}

fn sizes<M: Module>(module: &M) -> Vec<usize> {
    struct Sizes(Vec<usize>);
    impl ModuleVisitor for Sizes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.lazy_shape().num_elements());
        }
    }
    let mut visitor = Sizes(Vec::new());
    module.visit(&mut visitor);
    visitor.0
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::nn::{Linear, LinearConfig};

    use super::*;

    fn linear() -> Linear {
        LinearConfig::new(3, 2).init(&Device::flex().autodiff())
    }

    fn gradients(module: &Linear, factor: f32) -> Gradients {
        let input = Tensor::<2>::full([1, 3], factor, &Device::flex().autodiff());
        let backward = module.forward(input).sum().backward();
        Gradients::take(module, backward)
    }

    const CONFIG: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

    fn values(module: &Linear) -> Vec<f32> {
        module.weight.val().try_into_vec_as::<f32>().expect("f32")
    }

    #[test]
    fn clipping_scales_all_gradients_by_the_same_factor() {
        // Weight gradients are six times 2, bias gradients two times 1: the norm is sqrt(24 + 2).
        let (clipped, norm) = gradients(&linear(), 2.0).clipped(1.0);
        let norm = norm.expect("gradients").into_scalar::<f32>();
        assert!((norm - 26.0_f32.sqrt()).abs() < 1e-5, "{norm}");
        let after = clipped.norm().expect("gradients").into_scalar::<f32>();
        assert!((after - 1.0).abs() < 1e-5, "{after}");
    }

    #[test]
    fn gradients_within_the_limit_are_left_as_they_are() {
        let (clipped, _) = gradients(&linear(), 2.0).clipped(100.0);
        let first = clipped.iter().next().flatten().expect("a gradient");
        assert_eq!(first.try_into_vec_as::<f32>().expect("f32"), [2.0; 6]);
    }

    #[test]
    fn a_sum_takes_the_memory_of_what_it_adds() {
        let module = linear();
        let addresses = |gradients: &Gradients| -> Vec<*const u8> {
            let address = |gradient: Option<Tensor<1>>| {
                let gradient = gradient.expect("a gradient").try_into_primitive::<Flex>();
                gradient.expect("the CPU backend").bytes().as_ptr()
            };
            gradients.iter().map(address).collect()
        };
        let (one, other) = (gradients(&module, 2.0), gradients(&module, 3.0));
        let before = addresses(&one);
        let sum = one.plus(other);
        assert_eq!(addresses(&sum), before);
        let weight = sum.iter().next().flatten().expect("a gradient");
        assert_eq!(weight.try_into_vec_as::<f32>().expect("f32"), [5.0; 6]);
    }

    #[test]
    fn a_sum_of_clipped_gradients_is_of_their_clipped_values() {
        let module = linear();
        let [one, other] = [2.0, 3.0].map(|factor| gradients(&module, factor).clipped(1.0).0);
        let norm = one.plus(other).norm().expect("gradients").into_scalar::<f32>();
        // Their directions differ, so it is a little less than 2.
        assert!((1.99..2.0).contains(&norm), "{norm}");
    }

    #[test]
    fn the_first_step_moves_by_the_learning_rate_and_the_decay() {
        let module = linear();
        let before = values(&module);
        let grads = gradients(&module, 2.0);
        let after = values(&AdamW::new(CONFIG).step(module, grads, 0.1));
        for (before, after) in before.iter().zip(after) {
            let expected = before * (1.0 - 0.1 * 0.01) - 0.1;
            assert!((after - expected).abs() < 1e-6, "{after} {expected}");
        }
    }

    #[test]
    fn a_resumed_optimizer_makes_the_same_step() {
        let module = linear();
        let mut optimizer = AdamW::new(CONFIG);
        let grads = gradients(&module, 2.0);
        let module = optimizer.step(module, grads, 0.1);
        let state = optimizer.state(&module);
        assert_eq!(state.len(), 4);
        let mut resumed = AdamW::resumed(CONFIG, 1, state, &module, &Device::flex()).expect("its own state");
        let grads = gradients(&module, 3.0);
        let straight = values(&optimizer.step(module.clone(), grads.clone(), 0.1));
        assert_eq!(values(&resumed.step(module, grads, 0.1)), straight);
    }

    #[test]
    fn moments_of_another_module_are_refused() {
        let module = linear();
        let mut optimizer = AdamW::new(CONFIG);
        let grads = gradients(&module, 1.0);
        let module = optimizer.step(module, grads, 0.1);
        let state = optimizer.state(&module);
        let other = LinearConfig::new(5, 2).init(&Device::flex().autodiff());
        let error = AdamW::resumed(CONFIG, 1, state, &other, &Device::flex()).expect_err("another shape");
        assert!(error.to_string().contains("wrong size"), "{error}");
    }
}

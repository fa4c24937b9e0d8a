//! Optimizers: what gradients make of parameters, and what has to be remembered for it.

mod adafactor;
mod adamw;
mod gradients;
mod lion;
mod prodigy;
mod section;
mod state;

use std::collections::BTreeMap;

use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::TensorData;

pub use adafactor::AdafactorConfig;
pub use adamw::AdamWConfig;
pub use gradients::Gradients;
pub use lion::LionConfig;
pub use prodigy::ProdigyConfig;
pub use section::{OptimizerKind, OptimizerSection};

use self::prodigy::Distance;
pub(crate) use self::state::Shapes;
use self::state::State;
use crate::TrainError;

/// Which optimizer, with its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerConfig {
    /// AdamW.
    AdamW(AdamWConfig),
    /// AdamW whose moments have 8 bits, but for small parameters.
    AdamW8bit(AdamWConfig),
    /// Adafactor without a schedule of its own.
    Adafactor(AdafactorConfig),
    /// Lion.
    Lion(LionConfig),
    /// Prodigy, which finds its learning rate.
    Prodigy(ProdigyConfig),
}

impl From<AdamWConfig> for OptimizerConfig {
    fn from(config: AdamWConfig) -> Self {
        Self::AdamW(config)
    }
}

/// An optimizer and what it remembers.
///
/// All parameters decay alike, biases and norms too, as in the reference.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    steps: u32,
    /// Of each parameter that ever had a gradient, in visiting order.
    states: Vec<State>,
    /// How far Prodigy believes that it is from the end.
    distance: Distance,
}

/// One parameter's part in a step, flattened.
struct Parameter<'a> {
    /// Without autodiff, `[n]`.
    value: Tensor<1>,
    /// `[n]`.
    gradient: Tensor<1>,
    /// A factor on the gradient, `[1]`.
    scale: &'a Tensor<1>,
    /// The parameter's own shape.
    shape: Vec<usize>,
    lr: f64,
    /// Steps made, this one included.
    steps: u32,
}

impl Optimizer {
    /// An optimizer that has not made a step.
    #[must_use]
    pub fn new(config: impl Into<OptimizerConfig>) -> Self {
        Self { config: config.into(), steps: 0, states: Vec::new(), distance: Distance::default() }
    }

    /// The number of steps made.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// One step; the module's parameters stay the same leaves of the autodiff graph, with new values.
    ///
    /// A parameter that nobody else holds is updated in place where the optimizer has a kernel for it.
    pub fn step<M: Module>(&mut self, module: M, gradients: Gradients, lr: f64) -> M {
        self.step_with(module, gradients, lr, |_| 1.0)
    }

    /// The same, with a factor on the learning rate of each parameter, by its path.
    pub fn step_with<M: Module>(
        &mut self,
        module: M,
        gradients: Gradients,
        lr: f64,
        lr_factor: impl Fn(&str) -> f64,
    ) -> M {
        self.steps += 1;
        self.states.resize_with(gradients.gradients.len(), State::default);
        let lr_factors: Vec<f64> = Shapes::of(&module).paths().map(lr_factor).collect();
        let prodigy = match self.config {
            OptimizerConfig::Prodigy(config) => {
                let states = &mut self.states;
                Some(self.distance.step(config, &module, &gradients, states, |idx| lr * lr_factors[idx]))
            }
            _ => None,
        };
        let Gradients { gradients, scale } = gradients;
        let parameters = gradients.into_iter().zip(&mut self.states).zip(lr_factors);
        let mut update = Update { config: self.config, steps: self.steps, lr, prodigy, scale, parameters };
        module.map(&mut update)
    }

    /// What is remembered, by parameter path, for a checkpoint.
    #[must_use]
    pub fn state<M: Module>(&self, module: &M) -> BTreeMap<String, TensorData> {
        let shapes = Shapes::of(module);
        let mut saved = BTreeMap::new();
        for (path, state) in shapes.paths().zip(&self.states) {
            state.save(path, &mut saved);
        }
        if matches!(self.config, OptimizerConfig::Prodigy(_)) && self.steps > 0 {
            self.distance.save(&mut saved);
        }
        saved
    }

    /// An optimizer that continues after `steps` steps with what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// [`TrainError::OptimizerState`] if that is of another module or another optimizer.
    pub fn resumed<M: Module>(
        config: impl Into<OptimizerConfig>,
        steps: u32,
        mut saved: BTreeMap<String, TensorData>,
        module: &M,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let config = config.into();
        let device = device.clone().inner();
        let distance = match config {
            OptimizerConfig::Prodigy(_) if steps > 0 => Distance::take(&mut saved)?,
            _ => Distance::default(),
        };
        let states = Shapes::of(module)
            .iter()
            .map(|(path, shape)| State::take(path, &layout(&config, shape), &mut saved, &device))
            .collect::<Result<_, _>>()?;
        match saved.into_keys().next() {
            Some(tensor) => Err(TrainError::OptimizerState { tensor, problem: "belongs to no parameter" }),
            None => Ok(Self { config, steps, states, distance }),
        }
    }
}

/// The names and sizes of what is remembered of a parameter of this shape.
fn layout(config: &OptimizerConfig, shape: &[usize]) -> Vec<(&'static str, usize)> {
    match config {
        OptimizerConfig::AdamW(_) => adamw::layout(shape),
        OptimizerConfig::AdamW8bit(_) => adamw::layout_8bit(shape),
        OptimizerConfig::Adafactor(_) => adafactor::layout(shape),
        OptimizerConfig::Lion(_) => lion::layout(shape),
        OptimizerConfig::Prodigy(_) => prodigy::layout(shape),
    }
}

/// Bytes of what is remembered of parameters of these shapes, after a step in which all had gradients.
pub(crate) fn state_bytes(config: &OptimizerConfig, shapes: &Shapes) -> u64 {
    let of_tensor = |(name, size): (&str, usize)| {
        let element_bytes = if name.ends_with("_codes") { 1 } else { 4 };
        element_bytes * size as u64
    };
    shapes.iter().flat_map(|(_, shape)| layout(config, shape)).map(of_tensor).sum()
}

/// Updates the parameters of a module in visiting order.
struct Update<I> {
    config: OptimizerConfig,
    steps: u32,
    lr: f64,
    /// Of a step of Prodigy.
    prodigy: Option<prodigy::Step>,
    scale: Option<Tensor<1>>,
    parameters: I,
}

impl<'a, I> ModuleMapper for Update<I>
where
    I: Iterator<Item = ((Option<Tensor<1>>, &'a mut State), f64)>,
{
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let ((gradient, state), lr_factor) = self.parameters.next().expect("one entry for each parameter");
        let Some(gradient) = gradient else { return param };
        let scale = self.scale.get_or_insert_with(|| Tensor::ones([1], &gradient.device()));
        param.map(|value| {
            let value = value.inner();
            let shape = value.shape();
            let parameter = Parameter {
                shape: shape.to_vec(),
                value: value.flatten(0, -1),
                gradient,
                scale,
                lr: self.lr * lr_factor,
                steps: self.steps,
            };
            let value = match &self.config {
                OptimizerConfig::AdamW(config) => config.update(parameter, state),
                OptimizerConfig::AdamW8bit(config) => config.update_8bit(parameter, state),
                OptimizerConfig::Adafactor(config) => config.update(parameter, state),
                OptimizerConfig::Lion(config) => config.update(parameter, state),
                OptimizerConfig::Prodigy(config) => {
                    let step = self.prodigy.as_ref().expect("prepared before the parameters are updated");
                    config.update(parameter, state, step)
                }
            };
            value.reshape(shape).autodiff().require_grad()
        })
    }
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
        let after = values(&Optimizer::new(CONFIG).step(module, grads, 0.1));
        for (before, after) in before.iter().zip(after) {
            let expected = before * (1.0 - 0.1 * 0.01) - 0.1;
            assert!((after - expected).abs() < 1e-6, "{after} {expected}");
        }
    }

    #[test]
    fn a_resumed_optimizer_makes_the_same_step() {
        let module = linear();
        let mut optimizer = Optimizer::new(CONFIG);
        let grads = gradients(&module, 2.0);
        let module = optimizer.step(module, grads, 0.1);
        let state = optimizer.state(&module);
        assert_eq!(state.len(), 4);
        let mut resumed =
            Optimizer::resumed(CONFIG, 1, state, &module, &Device::flex()).expect("its own state");
        let grads = gradients(&module, 3.0);
        let straight = values(&optimizer.step(module.clone(), grads.clone(), 0.1));
        assert_eq!(values(&resumed.step(module, grads, 0.1)), straight);
    }

    #[test]
    fn moments_of_another_module_are_refused() {
        let module = linear();
        let mut optimizer = Optimizer::new(CONFIG);
        let grads = gradients(&module, 1.0);
        let module = optimizer.step(module, grads, 0.1);
        let state = optimizer.state(&module);
        let other = LinearConfig::new(5, 2).init(&Device::flex().autodiff());
        let error = Optimizer::resumed(CONFIG, 1, state, &other, &Device::flex()).expect_err("another shape");
        assert!(error.to_string().contains("wrong size"), "{error}");
    }
}

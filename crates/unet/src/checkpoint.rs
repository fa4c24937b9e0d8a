//! Block checkpointing: a forward pass that keeps only the input of each block, and a backward pass that runs each
//! block a second time.
//!
//! A block's own activations live only while it is its turn. The price is a second forward pass.
//!
//! Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".

use std::fmt;

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::{DType, Gradients};
use pyrograph_kernels::{conv2d, group_norm_silu};

use crate::time::TimeFeatures;
use crate::unet::{Encoded, size};
use crate::{Conditioning, ControlNet, Residuals, Unet};

/// A leaf of a graph of its own.
fn leaf<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    tensor.clone().autodiff().require_grad()
}

/// The gradient towards a leaf, without autodiff; zero if nothing depends on it.
fn towards<const D: usize>(leaf: &Tensor<D>, gradients: &mut Gradients) -> Tensor<D> {
    leaf.grad_remove(gradients).unwrap_or_else(|| leaf.clone().inner().zeros_like())
}

/// The scalar whose gradients are those of `output`, given the gradient towards `output`.
fn dot<const D: usize>(output: Tensor<D>, upstream: Tensor<D>) -> Tensor<1> {
    (output * upstream.autodiff()).sum()
}

/// What a ControlNet's checkpointed forward pass keeps.
#[derive(Debug)]
pub struct ControlTape {
    noisy_latents: Tensor<4>,
    hint: Tensor<4>,
    context: Tensor<3>,
    time_features: TimeFeatures,
    time: Tensor<2>,
    /// The input of each block after the first, and of the middle block.
    inputs: Vec<Tensor<4>>,
}

impl ControlNet {
    /// [`ControlNet::forward`] on tensors without autodiff, and what its backward pass needs.
    ///
    /// # Panics
    /// As [`ControlNet::forward`].
    #[must_use]
    pub fn forward_checkpointed(
        &self,
        noisy_latents: Tensor<4>,
        timesteps: &[f32],
        conditioning: &Conditioning,
        hint: Tensor<4>,
    ) -> (Residuals, ControlTape) {
        let plain = self.valid();
        let time_features = plain.time_proj.forward(timesteps, conditioning);
        let time = plain.embed_time(time_features.clone()).cast(noisy_latents.dtype());
        let context = &conditioning.context;
        let mut features = plain.input(noisy_latents.clone(), plain.embed_hint(hint.clone()));
        let mut down = vec![plain.residual(0, features.clone())];
        let mut inputs = Vec::new();
        for (block_idx, step_idx) in plain.down_steps() {
            inputs.push(features.clone());
            features = plain.down_blocks[block_idx].step(step_idx, features, &time, context);
            down.push(plain.residual(down.len(), features.clone()));
        }
        inputs.push(features.clone());
        let mid = plain.mid_residual(plain.mid_block.forward(features, &time, context));
        let context = context.clone();
        (Residuals { down, mid }, ControlTape { noisy_latents, hint, context, time_features, time, inputs })
    }
}

impl ControlTape {
    /// The backward pass from the gradients towards the residuals.
    ///
    /// `take` gets the gradients of one block after another, each with all that there are for the block's parameters.
    ///
    /// # Panics
    /// If the tape is of another ControlNet.
    pub fn backward(
        mut self,
        controlnet: &ControlNet,
        mut residuals: Residuals,
        take: &mut dyn FnMut(Gradients),
    ) {
        let mut towards_time = self.time.zeros_like();
        // One block: gives the gradient towards its input, adds to that towards the time embedding.
        let mut block = |input: &Tensor<4>, forward: &dyn Fn(Tensor<4>, &Tensor<2>) -> Tensor<1>| {
            let (input, time) = (leaf(input), leaf(&self.time));
            let mut gradients = forward(input.clone(), &time).backward();
            towards_time = towards_time.clone() + towards(&time, &mut gradients);
            let towards_input = towards(&input, &mut gradients);
            take(gradients);
            towards_input
        };
        let context = &self.context;
        let mut next = || self.inputs.pop().expect("one input for each block");
        let mut upstream = block(&next(), &|features, time| {
            let mid = controlnet.mid_block.forward(features, time, context);
            dot(controlnet.mid_residual(mid), residuals.mid.clone())
        });
        for (block_idx, step_idx) in controlnet.down_steps().into_iter().rev() {
            let residual_idx = residuals.down.len() - 1;
            let residual = residuals.down.pop().expect("one residual for each block");
            upstream = block(&next(), &|features, time| {
                let features = controlnet.down_blocks[block_idx].step(step_idx, features, time, context);
                dot(controlnet.residual(residual_idx, features.clone()), residual.clone())
                    + dot(features, upstream.clone())
            });
        }
        let residual = residuals.down.pop().expect("the first residual");
        let features = controlnet.input(self.noisy_latents, controlnet.embed_hint(self.hint));
        let first = dot(controlnet.residual(0, features.clone()), residual) + dot(features, upstream);
        take(first.backward());
        let time = controlnet.embed_time(self.time_features);
        take(dot(time, towards_time.cast(DType::F32)).backward());
    }
}

/// What a UNet's checkpointed decoder gives.
pub struct Decoded {
    /// The loss of its prediction, `[1]`, without autodiff.
    pub loss: Tensor<1>,
    /// The gradients towards the residuals, without autodiff.
    pub towards: Residuals,
    /// Those of the decoder's parameters, if they are trained: block by block, each with all that there are for it.
    pub gradients: Vec<Gradients>,
}

impl fmt::Debug for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loss, towards, gradients: _ } = self;
        f.debug_struct("Decoded").field("loss", loss).field("towards", towards).finish_non_exhaustive()
    }
}

impl Unet {
    /// The backward pass through [`Unet::decode`] from a loss of its prediction.
    ///
    /// `loss` is given the prediction with autodiff.
    ///
    /// # Panics
    /// If the residuals come from a ControlNet for another UNet.
    #[must_use]
    pub fn decode_checkpointed(
        &self,
        encoded: Encoded,
        context: &Tensor<3>,
        residuals: &Residuals,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
    ) -> Decoded {
        let Encoded { skips, mid, time } = encoded;
        assert_eq!(skips.len(), residuals.down.len(), "one residual for each skip");
        let plain = self.valid();
        let mut features = mid + residuals.mid.clone();
        // The input of every step, the finest last.
        let mut inputs = Vec::new();
        let mut remaining = skips.iter().zip(&residuals.down).rev().peekable();
        for block in &plain.up_blocks {
            for step_idx in 0..block.n_steps() {
                let (skip, residual) = remaining.next().expect("one skip per residual block");
                inputs.push(features.clone());
                features = block.step(step_idx, features, skip.clone() + residual.clone(), &time, context);
            }
            if block.upsamples() {
                let (skip, _) = remaining.peek().expect("finer levels still have skips");
                inputs.push(features.clone());
                features = block.upsample(features, size(skip));
            }
        }

        let input = leaf(&features);
        drop(features);
        let prediction = conv2d(&self.conv_out, group_norm_silu(&self.conv_norm_out, input.clone()));
        let loss = loss(prediction);
        let mut gradients = loss.backward();
        let mut upstream = towards(&input, &mut gradients);
        let mut of_parameters = vec![gradients];
        let mut gradients_down = Vec::with_capacity(skips.len());
        let mut n_steps_done = 0;
        for block in self.up_blocks.iter().rev() {
            if block.upsamples() {
                let input = leaf(&inputs.pop().expect("one input for each step"));
                // The finer level's steps are done: the next skip is the last that they took.
                let output = block.upsample(input.clone(), size(&skips[n_steps_done - 1]));
                let mut gradients = dot(output, upstream).backward();
                upstream = towards(&input, &mut gradients);
                of_parameters.push(gradients);
            }
            for step_idx in (0..block.n_steps()).rev() {
                let features = leaf(&inputs.pop().expect("one input for each step"));
                let residual = leaf(&residuals.down[n_steps_done]);
                let skip = skips[n_steps_done].clone() + residual.clone();
                let output = block.step(step_idx, features.clone(), skip, &time, context);
                let mut gradients = dot(output, upstream).backward();
                upstream = towards(&features, &mut gradients);
                gradients_down.push(towards(&residual, &mut gradients));
                of_parameters.push(gradients);
                n_steps_done += 1;
            }
        }
        let mid = leaf(&residuals.mid);
        let mut gradients = dot(mid.clone() + upstream.zeros_like(), upstream).backward();
        let towards = Residuals { down: gradients_down, mid: towards(&mid, &mut gradients) };
        Decoded { loss: loss.inner(), towards, gradients: of_parameters }
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{ModuleMapper, ModuleVisitor, Param};
    use burn::tensor::TensorData;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{
        AddedConditioning, ControlNetConfig, MicroConditioning, Pooling, Stage, StageKind, TextTimeConfig,
        TransformerDepth, UnetConfig,
    };

    /// Independent numbers from [-spread, spread).
    fn draw<const D: usize>(
        shape: [usize; D],
        spread: f32,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Tensor<D> {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| rng.random_range(-spread..spread)).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// Draws every weight anew, those of the zero convolutions too.
    struct Random {
        rng: ChaCha8Rng,
        trainable: bool,
    }

    impl ModuleMapper for Random {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|value| {
                let random = draw(value.dims(), 0.35, &mut self.rng, &value.device().inner());
                let random = if D == 1 { random + 0.5 } else { random };
                if self.trainable { random.autodiff().require_grad() } else { random }
            })
        }
    }

    /// Adds up the gradients of all parameters, in visiting order.
    struct Adder<'a> {
        gradients: Gradients,
        sums: std::slice::IterMut<'a, Option<Tensor<1>>>,
    }

    impl ModuleVisitor for Adder<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let sum = self.sums.next().expect("one for each parameter");
            if let Some(gradient) = param.val().grad_remove(&mut self.gradients) {
                let gradient = gradient.flatten(0, -1);
                *sum = Some(match sum.take() {
                    Some(sum) => sum + gradient,
                    None => gradient,
                });
            }
        }
    }

    fn config() -> UnetConfig {
        let depth = TransformerDepth::Same(1);
        let stage = |kind, channels| Stage { kind, channels, n_resnets: 2, depth: depth.clone(), n_heads: 2 };
        UnetConfig {
            stages: vec![
                stage(StageKind::CrossAttention, 8),
                stage(StageKind::Plain, 16),
                stage(StageKind::CrossAttention, 24),
            ],
            context_dim: 12,
            norm_groups: 4,
            ..UnetConfig::sd15()
        }
    }

    fn check(unet_config: &UnetConfig, pooling: Pooling) {
        let device = Device::flex();
        let unet = unet_config
            .init(&device)
            .map(&mut Random { rng: ChaCha8Rng::seed_from_u64(1), trainable: false });
        let config = ControlNetConfig { pooling, ..ControlNetConfig::for_unet(unet_config) };
        let controlnet = config
            .init(&device.clone().autodiff())
            .map(&mut Random { rng: ChaCha8Rng::seed_from_u64(2), trainable: true });
        let n_params = 2000;
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut random = |shape: [usize; 4]| draw(shape, 1.7, &mut rng, &device);
        // An odd size, which the decoder gets back from the skips.
        let (latents, hint) = (random([2, 4, 9, 7]), random([2, 3, 72, 56]));
        let context = &random([1, 2, 5, 12]).reshape([2, 5, 12]);
        let conditioning = &Conditioning {
            context: context.clone(),
            added: unet_config.added.map(|added| AddedConditioning {
                text_embeds: random([1, 1, 2, added.pooled_dim]).reshape([2, added.pooled_dim]),
                sizes: vec![MicroConditioning::uncropped(72, 56), MicroConditioning::uncropped(10, 700)],
            }),
            guidance_scale: None,
        };
        let (times, target) = ([7.0, 950.0], random([2, 4, 9, 7]));
        let loss = |prediction: Tensor<4>| (prediction - target.clone()).square().mean();
        let encoded = unet.encode(latents.clone(), &times, conditioning);

        // With the decoder left alone, and trained.
        for unet in [unet.clone(), unet.with_trainable_decoder()] {
            let add = |gradients, sums: &mut Vec<Option<Tensor<1>>>| {
                let mut adder = Adder { gradients, sums: sums.iter_mut() };
                controlnet.visit(&mut adder);
                unet.visit(&mut adder);
            };
            let (mut expected, mut found) = (vec![None; n_params], vec![None; n_params]);
            let residuals = controlnet.forward(latents.clone(), &times, conditioning, hint.clone());
            let expected_loss = loss(unet.decode(encoded.clone(), context, Some(residuals)));
            add(expected_loss.backward(), &mut expected);

            let (residuals, tape) =
                controlnet.forward_checkpointed(latents.clone(), &times, conditioning, hint.clone());
            let decoded = unet.decode_checkpointed(encoded.clone(), context, &residuals, loss);
            decoded.gradients.into_iter().for_each(|gradients| add(gradients, &mut found));
            tape.backward(&controlnet, decoded.towards, &mut |gradients| add(gradients, &mut found));

            let difference = (expected_loss.inner() - decoded.loss).abs().into_scalar::<f32>();
            assert!(difference < 1e-6, "{difference}");
            let n_found = found.iter().flatten().count();
            assert!(n_found > 100 && n_found == expected.iter().flatten().count(), "{n_found} gradients");
            for (param_idx, (expected, found)) in expected.iter().zip(&found).enumerate() {
                let (Some(expected), Some(found)) = (expected, found) else { continue };
                let scale = expected.clone().abs().max().into_scalar::<f32>().max(1e-4);
                let error = (expected.clone() - found.clone()).abs().max().into_scalar::<f32>() / scale;
                assert!(error < 1e-4, "parameter {param_idx}: relative error {error}");
            }
        }
    }

    #[test]
    fn checkpointing_changes_no_gradient() {
        check(&config(), Pooling::None);
    }

    #[test]
    fn checkpointing_changes_no_gradient_of_a_model_like_sdxl() {
        let added = Some(TextTimeConfig { pooled_dim: 6, size_dim: 4 });
        check(&UnetConfig { added, mid: StageKind::Plain, ..config() }, Pooling::None);
    }

    #[test]
    fn checkpointing_changes_no_gradient_of_pooled_residuals() {
        check(&config(), Pooling::Global);
    }
}

//! What the first steps do to a fresh ControlNet, and what no step may touch.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph::backend;
use pyrograph_diffusion::mse;
use pyrograph_pipeline::{Bundle, BundleOptions, Conditioning, standard_normal};
use pyrograph_train::{AdamWConfig, Event, Gradients, Observer, Optimizer, TrainError, Trainer};
use pyrograph_unet::{ControlNet, ControlNetConfig, HintConfig};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{base, circles, plan};
use crate::tolerance;

struct Setup {
    bundle: Bundle,
    controlnet: ControlNet,
    noisy_latents: Tensor<4>,
    conditioning: Conditioning,
    hint: Tensor<4>,
}

const TIMESTEPS: [f32; 2] = [17.0, 803.0];

impl Setup {
    fn new() -> Self {
        let device = backend::device();
        let bundle = Bundle::open(&base(), &BundleOptions::default(), &device).expect("the tiny base");
        let mut config = ControlNetConfig::for_unet(&bundle.unet_config);
        config.hint = HintConfig { in_channels: 3, channels: vec![4, 6, 8, 8] };
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let controlnet = ControlNet::from_unet(&bundle.unet, &config, &mut rng, &device.clone().autodiff());
        let noisy_latents = standard_normal([2, 4, 5, 4], &mut rng, &device);
        let hint = standard_normal([2, 3, 40, 32], &mut rng, &device).abs().clamp_max(1.0);
        Self {
            noisy_latents,
            conditioning: bundle.text.encode(&["red circle", ""], &device).with_sizes(Vec::new()),
            hint,
            bundle,
            controlnet,
        }
    }

    fn loss(&self, controlnet: &ControlNet) -> Tensor<1> {
        let Self { bundle, noisy_latents, conditioning, hint, .. } = self;
        let encoded = bundle.unet.encode(noisy_latents.clone(), &TIMESTEPS, conditioning);
        let residuals = controlnet.forward(noisy_latents.clone(), &TIMESTEPS, conditioning, hint.clone());
        let prediction = bundle.unet.decode(encoded, &conditioning.context, Some(residuals));
        mse(prediction, noisy_latents.ones_like())
    }
}

/// The values of all parameters by path.
fn values<M: Module>(module: &M) -> BTreeMap<String, TensorData> {
    #[derive(Default)]
    struct Values {
        path: Vec<String>,
        values: BTreeMap<String, TensorData>,
    }
    impl ModuleVisitor for Values {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.values.insert(self.path.join("."), param.val().into_data());
        }
    }
    let mut visitor = Values::default();
    module.visit(&mut visitor);
    visitor.values
}

#[test]
fn a_fresh_controlnet_changes_nothing() {
    let Setup { bundle, controlnet, noisy_latents, conditioning, hint } = Setup::new();
    // Without autodiff on both sides: attention on an autodiff device sums in another order.
    let residuals = controlnet.valid().forward(noisy_latents.clone(), &TIMESTEPS, &conditioning, hint);
    for residual in residuals.down.iter().chain([&residuals.mid]) {
        assert_eq!(residual.clone().abs().max().into_scalar::<f32>(), 0.0, "every residual is exactly zero");
    }
    let plain = bundle.unet.forward(noisy_latents.clone(), &TIMESTEPS, &conditioning, None);
    let controlled = bundle.unet.forward(noisy_latents, &TIMESTEPS, &conditioning, Some(residuals));
    assert_eq!(plain.into_data(), controlled.into_data(), "bit for bit");
}

#[test]
fn a_copied_controlnet_shares_no_parameter_with_its_unet() {
    let Setup { bundle, controlnet, .. } = Setup::new();
    let theirs = burn::module::list_param_ids(&bundle.unet);
    let ours = burn::module::list_param_ids(&controlnet);
    assert!(ours.iter().all(|id| !theirs.contains(id)), "fresh ids");
    let (unet, copied) = (values(&bundle.unet), values(&controlnet));
    assert_eq!(
        unet["mid_block.resnets.0.conv1.weight"], copied["mid_block.resnets.0.conv1.weight"],
        "equal values"
    );
}

/// The part of the ControlNet that a parameter belongs to.
fn part(name: &str) -> &'static str {
    if name.starts_with("controlnet_down_blocks") || name.starts_with("controlnet_mid_block") {
        "zero convolutions"
    } else if name.starts_with("controlnet_cond_embedding.conv_out") {
        "hint output"
    } else if name.starts_with("controlnet_cond_embedding") {
        "hint input"
    } else {
        "copied encoder"
    }
}

/// Which parts of the ControlNet get a gradient that is not zero.
fn reached(names: &[String], gradients: &Gradients) -> BTreeSet<&'static str> {
    let is_nonzero = |gradient: Tensor<1>| gradient.abs().max().into_scalar::<f32>() > 0.0;
    let pairs = names.iter().zip(gradients.iter());
    pairs.filter_map(|(name, gradient)| gradient.is_some_and(is_nonzero).then(|| part(name))).collect()
}

#[test]
fn gradients_climb_the_staircase_of_the_zero_initialisation() {
    #[derive(Default)]
    struct Names {
        path: Vec<String>,
        names: Vec<String>,
    }
    impl ModuleVisitor for Names {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
            self.names.push(self.path.join("."));
        }
    }
    let setup = Setup::new();
    let mut visitor = Names::default();
    setup.controlnet.visit(&mut visitor);
    let config = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let mut optimizer = Optimizer::new(config);
    let mut controlnet = setup.controlnet.clone();
    let expected: [&[&str]; 3] = [
        &["zero convolutions"],
        &["zero convolutions", "copied encoder", "hint output"],
        &["zero convolutions", "copied encoder", "hint output", "hint input"],
    ];
    for (step, expected) in expected.into_iter().enumerate() {
        let gradients = Gradients::take(&controlnet, setup.loss(&controlnet).backward());
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        assert_eq!(reached(&visitor.names, &gradients), expected, "backward pass {}", step + 1);
        controlnet = optimizer.step(controlnet, gradients, 1e-2);
    }
}

#[test]
fn training_leaves_the_base_model_as_it_was_and_moves_the_controlnet() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let plan = plan(dir.path(), &dir.path().join("out"), |config| {
        config.schedule.max_train_steps = Some(4.try_into().expect("not zero"));
    });
    let mut trainer = Trainer::new(plan, &backend::device()).expect("a trainer");
    let parts = |trainer: &Trainer| {
        let bundle = trainer.bundle();
        [values(&bundle.unet), values(&bundle.vae), values(bundle.text.first.model())]
    };
    let (frozen, trained) = (parts(&trainer), values(trainer.controlnet()));
    trainer.run(&mut ()).expect("four steps");
    trainer.complete_bundle().expect("the base");
    assert_eq!(parts(&trainer), frozen);
    let after = values(trainer.controlnet());
    let unmoved: Vec<_> =
        after.iter().filter(|(name, value)| trained[*name] == **value).map(|(name, _)| name).collect();
    assert!(unmoved.is_empty(), "after four steps every parameter has moved, but not {unmoved:?}");
}

/// A trainer that held its parameters twice during a step would need memory for a second ControlNet.
#[cfg(feature = "cpu")]
#[test]
fn a_step_updates_the_parameters_where_they_are() {
    struct Addresses(Vec<*const u8>);
    impl ModuleVisitor for Addresses {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value =
                param.val().inner().try_into_primitive::<burn::backend::Flex>().expect("the CPU backend");
            self.0.push(value.bytes().as_ptr());
        }
    }
    let addresses = |trainer: &Trainer| {
        let mut addresses = Addresses(Vec::new());
        trainer.controlnet().visit(&mut addresses);
        addresses.0
    };
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let one_step = |out: &str, controlnet: Option<&str>| {
        let plan = plan(dir.path(), &dir.path().join(out), |config| {
            config.model.controlnet_model_name_or_path = controlnet.map(|name| dir.path().join(name));
            config.schedule.max_train_steps = Some(1.try_into().expect("not zero"));
        });
        let mut trainer = Trainer::new(plan, &backend::device()).expect("a trainer");
        let before = addresses(&trainer);
        trainer.run(&mut ()).expect("one step");
        before.into_iter().zip(addresses(&trainer)).filter(|(before, after)| before != after).count()
    };
    // A fresh one shares what it has copied with its UNet, until it is changed.
    one_step("fresh", None);
    assert_eq!(one_step("loaded", Some("fresh")), 0, "parameters that were copied");
}

/// The losses of six steps on one sample, whose weights hardly move.
fn losses(seed: u64) -> Vec<f64> {
    struct Losses(Vec<f64>);
    impl Observer for Losses {
        fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
            if let Event::Progress(progress) = event {
                self.0.push(progress.loss);
            }
            Ok(())
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let plan = plan(dir.path(), &dir.path().join("out"), |config| {
        config.run.seed = seed;
        config.data.max_train_samples = Some(1.try_into().expect("not zero"));
        config.optimizer.learning_rate = Some(1e-12);
        config.schedule.max_train_steps = Some(6.try_into().expect("not zero"));
    });
    let mut observer = Losses(Vec::new());
    Trainer::new(plan, &backend::device()).expect("a trainer").run(&mut observer).expect("six steps");
    observer.0
}

#[test]
fn every_step_draws_new_noise_and_the_seed_decides_all_of_it() {
    let first = losses(1);
    let mut distinct = first.clone();
    distinct.sort_by(f64::total_cmp);
    distinct.dedup();
    assert_eq!(distinct.len(), 6, "{first:?}");
    assert_eq!(losses(1), first);
    assert_ne!(losses(2), first);
}

#[test]
fn accumulated_gradients_equal_those_of_one_large_batch() {
    let setup = Setup::new();
    let whole = Gradients::take(&setup.controlnet, setup.loss(&setup.controlnet).backward());
    let half = |sample: usize| {
        let part = |tensor: &Tensor<4>| tensor.clone().narrow(0, sample, 1);
        let conditioning = setup.conditioning.narrow(sample, 1);
        let times = &TIMESTEPS[sample..=sample];
        let encoded = setup.bundle.unet.encode(part(&setup.noisy_latents), times, &conditioning);
        let residuals =
            setup.controlnet.forward(part(&setup.noisy_latents), times, &conditioning, part(&setup.hint));
        let prediction = setup.bundle.unet.decode(encoded, &conditioning.context, Some(residuals));
        let loss = mse(prediction, part(&setup.noisy_latents).ones_like()) / 2.0;
        Gradients::take(&setup.controlnet, loss.backward())
    };
    let accumulated = half(0).plus(half(1));
    for (whole, accumulated) in whole.iter().zip(accumulated.iter()) {
        let (whole, accumulated) = (whole.expect("a gradient"), accumulated.expect("a gradient"));
        let scale = whole.clone().abs().max().into_scalar::<f32>();
        let worst = (whole - accumulated).abs().max().into_scalar::<f32>();
        assert!(f64::from(worst) <= tolerance::BATCHING * f64::from(scale.max(1e-6)), "{worst} of {scale}");
    }
}

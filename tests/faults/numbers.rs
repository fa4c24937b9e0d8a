//! Numbers that are not finite.

use burn::prelude::*;
use pyrograph_train::{
    Checkpoint, Event, Gradients, NonFinite, RunEnd, Skipped, Stop, Tap, Tapped, TrainError,
};

use super::{Bench, Watch, latest};

/// Where a number is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Latents,
    Hint,
    Prompt,
    Gradient,
}

/// Changes one number in some micro-batches.
#[derive(Debug)]
struct Poison {
    place: Place,
    value: f32,
    micro_steps: Vec<u64>,
    /// Whether the step in hand has one of them.
    is_due: bool,
}

impl Poison {
    fn put<const D: usize>(&self, tensor: &mut Tensor<D>) {
        // The first number of the first sample.
        let mut ranges = tensor.dims().map(|length| 0..length);
        ranges.fill(0..1);
        let value = Tensor::full([1; D], self.value, &tensor.device());
        *tensor = tensor.clone().slice_assign(ranges, value);
    }
}

impl Tap for Poison {
    fn batch(&mut self, Tapped { micro_step, moments, hint, context, .. }: Tapped<'_>) {
        self.is_due = self.micro_steps.contains(&micro_step);
        match self.place {
            _ if !self.is_due => {}
            Place::Latents => self.put(moments),
            Place::Hint => self.put(hint),
            Place::Prompt => self.put(context),
            Place::Gradient => {}
        }
    }

    fn gradients(&mut self, _step: u64, gradients: Gradients) -> Gradients {
        if self.place == Place::Gradient && self.is_due { gradients.scaled(self.value) } else { gradients }
    }
}

fn skipped(events: &[Event]) -> Vec<&Skipped> {
    let skipped = |event: &'_ Event| matches!(event, Event::Skipped(_));
    let events = events.iter().filter(|event| skipped(event));
    events.map(|event| if let Event::Skipped(skipped) = event { skipped } else { unreachable!() }).collect()
}

/// Whether every parameter is finite.
fn is_finite(path: &std::path::Path) -> bool {
    let tensors = pyrograph_weights::load_tensors(&path.join("diffusion_pytorch_model.safetensors")).unwrap();
    tensors.values().all(|data| data.iter::<f32>().all(f32::is_finite))
}

#[test]
fn a_number_that_is_not_finite_costs_its_step_and_is_told_with_its_samples_and_timesteps() {
    let bench = Bench::new();
    for place in [Place::Latents, Place::Hint, Place::Prompt, Place::Gradient] {
        for value in [f32::NAN, f32::INFINITY] {
            let what = format!("{value} in {place:?}");
            let out = format!("{place:?}-{value}");
            let poison = Poison { place, value, micro_steps: vec![1], is_due: false };
            let mut watch = Watch::new(|_| {});
            let mut trainer = bench.trainer(&out, 3, |_| {}).unwrap().tapped_by(Box::new(poison));
            assert_eq!(trainer.run(&mut watch).unwrap(), RunEnd::Finished, "{what}");
            let [skipped] = skipped(&watch.events)[..] else { panic!("{what}: {:?}", watch.events) };
            assert_eq!((skipped.step, skipped.n_in_a_row, skipped.n_skipped), (1, 1, 1), "{what}");
            let found = if place == Place::Gradient { NonFinite::Gradient } else { NonFinite::Loss };
            assert_eq!(skipped.found, found, "{what}");
            assert_eq!(skipped.samples.len(), 2, "{what}: the samples of the micro-batch");
            assert!(
                skipped.samples.iter().all(|sample| sample.id.ends_with(".png") && sample.timestep < 1000)
            );
            // The step is not made, so there is one more micro-batch than steps.
            let position = Checkpoint::latest(&bench.out(&out)).unwrap().position();
            assert_eq!((position.optimizer_step, position.micro_step), (3, 4), "{what}");
            assert!(is_finite(&bench.out(&out)), "{what}");
            let losses = watch.events.iter().filter_map(|event| match event {
                Event::Progress(progress) => Some(progress.loss),
                _ => None,
            });
            assert!(
                losses.into_iter().all(|loss| loss.is_finite() && loss > 0.0),
                "{what}: never set to zero"
            );
        }
    }
}

#[test]
fn a_number_that_is_far_too_large_costs_its_step_or_nothing() {
    let bench = Bench::new();
    for place in [Place::Latents, Place::Hint, Place::Prompt, Place::Gradient] {
        let out = format!("{place:?}");
        let poison = Poison { place, value: 1e38, micro_steps: vec![2], is_due: false };
        let mut watch = Watch::new(|_| {});
        let mut trainer = bench.trainer(&out, 4, |_| {}).unwrap().tapped_by(Box::new(poison));
        assert_eq!(trainer.run(&mut watch).unwrap(), RunEnd::Finished, "{place:?}");
        // The networks' norms may swallow it; gradients overflow.
        let is_skipped = skipped(&watch.events).len() == 1;
        assert!(is_skipped || place != Place::Gradient, "{place:?}");
        assert!(is_finite(&bench.out(&out)), "{place:?}");
    }
}

#[test]
fn too_many_steps_in_a_row_take_the_run_back_and_end_it_with_the_list() {
    let bench = Bench::new();
    let settings = |config: &mut pyrograph_train::TrainConfig| {
        latest(config);
        config.optimizer.max_nonfinite_steps = 3.try_into().unwrap();
    };
    // Two in a row, a good one, three in a row.
    let poison =
        Poison { place: Place::Hint, value: f32::NAN, micro_steps: vec![1, 2, 4, 5, 6], is_due: false };
    let mut watch = Watch::new(|_| {});
    let mut trainer = bench.trainer("out", 9, settings).unwrap().tapped_by(Box::new(poison));
    let error = trainer.run(&mut watch).expect_err("three in a row");
    let TrainError::NonFiniteSteps { step: 2, n_steps: 3, back_at: Some(2), skipped: list, .. } = &error
    else {
        panic!("{error:?}")
    };
    let in_a_row: Vec<u32> = skipped(&watch.events).iter().map(|skipped| skipped.n_in_a_row).collect();
    assert_eq!(in_a_row, [1, 2, 1, 2, 3]);
    let ids: Vec<&str> =
        list.iter().flat_map(|skipped| &skipped.samples).map(|sample| sample.id.as_str()).collect();
    assert!(ids.iter().all(|id| error.to_string().contains(id)), "{error}");

    // What a healthy run of the same steps would have: the parameters were never touched.
    let newest = Checkpoint::latest(&bench.out("out")).unwrap();
    assert_eq!(newest.position().optimizer_step, 2);
    bench.run("out", 9, settings);
    assert!(is_finite(&bench.out("out")));
}

#[test]
fn a_poisoned_cache_is_named_by_its_sample() {
    let bench = Bench::new();
    let cache = bench.path.join("cache");
    let settings = |config: &mut pyrograph_train::TrainConfig| {
        config.cache.cache_dir = Some(cache.clone());
        config.optimizer.max_nonfinite_steps = 1.try_into().unwrap();
    };
    // One sample alone first, so that it is known whose latents are in the cache.
    let mut alone = bench.trainer("alone", 1, |config| {
        settings(config);
        config.data.max_train_samples = Some(1.try_into().unwrap());
    });
    let alone = alone.as_mut().unwrap();
    alone.run(&mut ()).unwrap();
    let id = alone.data().samples().expect("they are listed")[0].id.clone();
    let latents = rank_four_entries(&cache);
    let [(path, bytes)] = latents.as_slice() else { panic!("{latents:?}") };
    std::fs::write(path, with_nan(path, bytes)).unwrap();

    let error = bench.trainer("all", 9, settings).unwrap().run(&mut ()).expect_err("a poisoned sample");
    let TrainError::NonFiniteSteps { found: NonFinite::Latents, skipped, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(skipped[0].samples.len(), 1);
    assert_eq!(skipped[0].samples[0].id, id);
}

#[test]
fn an_evaluation_that_is_not_finite_is_counted_and_told_and_the_run_goes_on() {
    let bench = Bench::new();
    crate::train::circles_of(&bench.path.join("more"), 20);
    let cache = bench.path.join("cache");
    let settings = |config: &mut pyrograph_train::TrainConfig| {
        config.data.train_data_dir = Some(bench.path.join("more/circles"));
        config.cache.cache_dir = Some(cache.clone());
        config.evaluation.num_eval_samples = 2;
        config.evaluation.eval_steps = Some(2.try_into().unwrap());
    };
    // Stopped after the first evaluation: only its samples are in the cache.
    let stop = Stop::default();
    let mut watch = Watch::new(|event: &Event| {
        if matches!(event, Event::Evaluation(_)) {
            stop.request();
        }
    });
    bench.trainer("stopped", 3, settings).unwrap().stopped_by(stop.clone()).run(&mut watch).unwrap();
    let latents = rank_four_entries(&cache);
    assert_eq!(latents.len(), 2);
    for (path, bytes) in &latents {
        std::fs::write(path, with_nan(path, bytes)).unwrap();
    }

    let mut watch = Watch::new(|_| {});
    let end = bench.trainer("out", 3, settings).unwrap().run(&mut watch).unwrap();
    assert_eq!(end, RunEnd::Finished);
    assert!(skipped(&watch.events).is_empty(), "no step is to blame");
    let warnings = watch.warnings();
    assert_eq!(warnings.len(), 3, "at steps 0, 2 and 3: {warnings:?}");
    for (n_left_out, warning) in (1..).zip(warnings) {
        let start = format!("training goes on without this evaluation ({n_left_out} left out so far): ");
        assert!(warning.starts_with(&start) && warning.contains(".png at timestep "), "{warning}");
    }
    assert!(!watch.events.iter().any(|event| matches!(event, Event::Evaluation(_))));
}

/// The cached latents: files whose shape has four dimensions.
fn rank_four_entries(cache: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let folders =
        std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files =
        folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    files
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .filter(|(_, bytes)| bytes[8..12] == [4, 0, 0, 0])
        .collect()
}

/// An entry with another first number and the checksum that belongs to it: as if a broken program had written it.
fn with_nan(path: &std::path::Path, bytes: &[u8]) -> Vec<u8> {
    let name = path.file_name().unwrap().to_str().unwrap();
    let key: Vec<u8> =
        (0..name.len()).step_by(2).map(|at| u8::from_str_radix(&name[at..at + 2], 16).unwrap()).collect();
    let mut contents = bytes[..bytes.len() - 32].to_vec();
    let first = 12 + 4 * 8;
    contents[first..first + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let checksum = blake3::Hasher::new().update(&key).update(&contents).finalize();
    [contents.as_slice(), checksum.as_bytes()].concat()
}

/// Gives up as a device does that has no memory left.
#[derive(Debug)]
struct OutOfMemory {
    at: u64,
}

impl Tap for OutOfMemory {
    fn batch(&mut self, batch: Tapped<'_>) {
        assert!(batch.micro_step != self.at, "out of memory");
    }
}

#[test]
fn a_device_that_gives_up_in_a_step_leaves_the_step_before_it_on_disk() {
    let bench = Bench::new();
    let seldom = |config: &mut pyrograph_train::TrainConfig| {
        latest(config);
        config.checkpoint.checkpointing_steps = 5.try_into().unwrap();
        config.optimizer.gradient_accumulation_steps = 2.try_into().unwrap();
    };
    bench.run("straight", 5, seldom);
    // An epoch of three micro-batches is a step of two and one of one: this is the second of the third step.
    let tap = OutOfMemory { at: 4 };
    let error = bench
        .trainer("out", 5, seldom)
        .unwrap()
        .tapped_by(Box::new(tap))
        .run(&mut ())
        .expect_err("no memory");
    assert_eq!(error.to_string(), "step 3 broke off: out of memory");
    assert_eq!(Checkpoint::latest(&bench.out("out")).unwrap().position().optimizer_step, 2);
    bench.run("out", 5, seldom);
    assert!(bench.result("out", 5) == bench.result("straight", 5));
}

#[test]
fn a_picture_that_cannot_be_read_any_more_ends_the_run_with_what_was_trained_saved() {
    let bench = Bench::new();
    let seldom = |config: &mut pyrograph_train::TrainConfig| {
        latest(config);
        config.checkpoint.checkpointing_steps = 5.try_into().unwrap();
    };
    bench.run("straight", 5, seldom);
    let images = bench.path.join("circles/train/conditioning_images");
    let hidden = bench.path.join("hidden");
    let mut watch = Watch::new(|event: &Event| {
        if matches!(event, Event::Progress(progress) if progress.step == 2) {
            std::fs::rename(&images, &hidden).unwrap();
        }
    });
    let error = bench.trainer("out", 5, seldom).unwrap().run(&mut watch).expect_err("no pictures");
    assert!(matches!(error, TrainError::Data(_)), "{error}");
    assert_eq!(Checkpoint::latest(&bench.out("out")).unwrap().position().optimizer_step, 2);
    std::fs::rename(&hidden, &images).unwrap();
    bench.run("out", 5, seldom);
    assert!(bench.result("out", 5) == bench.result("straight", 5));
}

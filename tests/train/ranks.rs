//! Several ranks do what one does: here they are threads of this process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use pyrograph::backend;
use pyrograph_train::{
    Evaluation, Event, Gradients, Observer, RunEnd, Stop, Tap, Tapped, ThreadGroup, TrainConfig, TrainError,
    Trainer,
};
use tempfile::TempDir;

use super::{circles_of, plan};

/// The last batch of an epoch has two samples: of four ranks two have none.
const N_CIRCLES: usize = 6;
const STEPS: u64 = 4;
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// What a rank has seen.
#[derive(Debug, Default)]
struct Seen {
    /// The samples of each micro-batch.
    ids: Vec<(u64, Vec<String>)>,
    /// The gradients of each step.
    gradients: Vec<Vec<f32>>,
}

#[derive(Debug, Clone, Default)]
struct Watch(Arc<Mutex<Seen>>);

impl Tap for Watch {
    fn batch(&mut self, batch: Tapped<'_>) {
        self.0.lock().unwrap().ids.push((batch.micro_step, batch.ids.to_vec()));
    }

    fn gradients(&mut self, _: u64, gradients: Gradients) -> Gradients {
        let numbers =
            gradients.iter().flatten().flat_map(|gradient| gradient.try_into_vec_as::<f32>().unwrap());
        self.0.lock().unwrap().gradients.push(numbers.collect());
        gradients
    }
}

/// The losses and evaluations that are told.
#[derive(Debug, Default)]
struct Told {
    losses: Vec<f64>,
    evaluations: Vec<Evaluation>,
    warnings: Vec<String>,
}

impl Observer for Told {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        match event {
            Event::Progress(progress) => self.losses.push(progress.loss),
            Event::Evaluation(evaluation) => self.evaluations.push(evaluation.clone()),
            Event::Warning { message, .. } => self.warnings.push(message.clone()),
            _ => {}
        }
        Ok(())
    }
}

/// How a rank ended.
struct Ended {
    result: Result<RunEnd, TrainError>,
    seen: Seen,
    told: Told,
    weights: Vec<f32>,
}

impl Ended {
    fn error(&self) -> &TrainError {
        self.result.as_ref().expect_err("it failed")
    }
}

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        circles_of(dir.path(), N_CIRCLES);
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A run of batches of four, by so many ranks.
    fn run(&self, n_ranks: usize, out: &str, change: impl Fn(&mut TrainConfig) + Sync) -> Vec<Ended> {
        self.run_each(n_ranks, out, change, |_, trainer| trainer)
    }

    fn run_each(
        &self,
        n_ranks: usize,
        out: &str,
        change: impl Fn(&mut TrainConfig) + Sync,
        set: impl Fn(usize, Trainer) -> Trainer + Sync,
    ) -> Vec<Ended> {
        let run = |rank: usize, group: ThreadGroup| {
            let plan = plan(self.dir.path(), &self.path(out), |config| {
                config.data.train_batch_size = (4 / n_ranks).try_into().unwrap();
                config.schedule.max_train_steps = Some(STEPS.try_into().unwrap());
                config.checkpoint.checkpointing_steps = 2.try_into().unwrap();
                config.cache.cache_dir = Some(self.path("cache"));
                config.evaluation.num_eval_samples = 3;
                change(config);
            });
            let watch = Watch::default();
            let trainer = Trainer::in_group(plan, &backend::device(), Arc::new(group)).unwrap();
            let mut trainer = set(rank, trainer.tapped_by(Box::new(watch.clone())));
            let mut told = Told::default();
            let result = trainer.run(&mut told);
            let weights = weights(&trainer);
            let seen = std::mem::take(&mut *watch.0.lock().unwrap());
            Ended { result, seen, told, weights }
        };
        thread::scope(|scope| {
            let ranks: Vec<_> = ThreadGroup::new(n_ranks)
                .into_iter()
                .enumerate()
                .map(|(rank, group)| scope.spawn(move || run(rank, group)))
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }
}

fn weights(trainer: &Trainer) -> Vec<f32> {
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::Tensor;
    #[derive(Default)]
    struct Weights(Vec<f32>);
    impl ModuleVisitor for Weights {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().try_into_vec_as::<f32>().unwrap());
        }
    }
    let mut weights = Weights::default();
    trainer.controlnet().visit(&mut weights);
    weights.0
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let off =
        found.iter().zip(expected).fold(0.0_f32, |max, (found, expected)| max.max((found - expected).abs()));
    assert!(off <= tolerance * scale, "off by {off}, the largest is {scale}");
}

#[test]
fn one_two_and_four_ranks_have_the_gradients_losses_and_samples_of_one() {
    let bench = Bench::new();
    let one = bench.run(1, "one", |_| {}).remove(0);
    assert_eq!(one.result.unwrap(), RunEnd::Finished);
    assert_eq!(one.seen.gradients.len(), 4);
    for n_ranks in [2, 4] {
        let ranks = bench.run(n_ranks, "several", |_| {});
        for (rank, ended) in ranks.iter().enumerate() {
            assert_eq!(*ended.result.as_ref().unwrap(), RunEnd::Finished);
            assert!(ended.weights == ranks[0].weights, "rank {rank} has other weights");
            for (step, (found, expected)) in ended.seen.gradients.iter().zip(&one.seen.gradients).enumerate()
            {
                // What rounds differently in one step is in the weights of the next.
                assert_near(found, expected, if step == 0 { 1e-6 } else { 1e-4 });
            }
            for (found, expected) in ended.told.losses.iter().zip(&one.told.losses) {
                assert!((found / expected - 1.0).abs() < 1e-4, "{found} is not {expected}");
            }
            assert_eq!(ended.told.evaluations, ranks[0].told.evaluations);
        }
        // Each micro-batch is divided in the order of one rank, and nobody sees what another has.
        for (micro_step, expected) in &one.seen.ids {
            let parts = ranks.iter().flat_map(|ended| &ended.seen.ids).filter(|(at, _)| at == micro_step);
            let parts: Vec<String> = parts.flat_map(|(_, ids)| ids.clone()).collect();
            assert_eq!(parts, *expected, "{n_ranks} ranks, micro-batch {micro_step}");
        }
        fs::remove_dir_all(bench.path("several")).unwrap();
    }
}

#[test]
fn a_stop_of_any_rank_stops_all_and_another_number_of_ranks_goes_on() {
    let bench = Bench::new();
    let whole = bench.run(1, "whole", |_| {}).remove(0);
    for stopping in 0..2 {
        let out = format!("stopped-by-{stopping}");
        // It is raised in the middle of the third step.
        #[derive(Debug)]
        struct StopAt(Stop);
        impl Tap for StopAt {
            fn gradients(&mut self, step: u64, gradients: Gradients) -> Gradients {
                if step == 2 {
                    self.0.request();
                }
                gradients
            }
        }
        let ranks = bench.run_each(
            2,
            &out,
            |_| {},
            |rank, trainer| {
                let stop = Stop::default();
                let trainer = trainer.stopped_by(stop.clone());
                if rank == stopping { trainer.tapped_by(Box::new(StopAt(stop))) } else { trainer }
            },
        );
        for ended in &ranks {
            let checkpoint = bench.path(&out).join("checkpoint-3");
            assert_eq!(*ended.result.as_ref().unwrap(), RunEnd::Stopped { checkpoint });
        }
        let resumed = bench.run(4, &out, |config| {
            config.checkpoint.resume_from_checkpoint = Some("latest".into());
        });
        for ended in &resumed {
            assert_eq!(*ended.result.as_ref().unwrap(), RunEnd::Finished);
            assert_eq!(ended.seen.gradients.len(), 1, "one step was left");
            assert_near(&ended.weights, &whole.weights, 1e-3);
        }
        assert!(bench.path(&out).join(WEIGHTS).is_file());
    }
}

#[test]
fn a_rank_that_fails_ends_all_and_what_was_trained_is_saved() {
    let bench = Bench::new();
    #[derive(Debug)]
    struct Panic;
    impl Tap for Panic {
        fn batch(&mut self, batch: Tapped<'_>) {
            assert!(batch.step < 3, "a cable is pulled");
        }
    }
    let ranks = bench.run_each(
        2,
        "out",
        |_| {},
        |rank, trainer| match rank {
            1 => trainer.tapped_by(Box::new(Panic)),
            _ => trainer,
        },
    );
    assert!(matches!(ranks[0].error(), TrainError::RankFailed), "{:?}", ranks[0].error());
    assert!(
        matches!(ranks[1].error(), TrainError::Panicked { step: 4, message } if message == "a cable is pulled"),
        "{:?}",
        ranks[1].error()
    );
    let names = crate::cli::names(&bench.path("out"));
    assert!(names.contains(&"checkpoint-3".to_owned()), "{names:?}");
}

#[test]
fn a_number_that_is_not_finite_in_one_rank_skips_the_step_of_all() {
    let bench = Bench::new();
    #[derive(Debug)]
    struct Poison;
    impl Tap for Poison {
        fn batch(&mut self, batch: Tapped<'_>) {
            if batch.micro_step == 1 {
                *batch.moments = batch.moments.clone() * f32::NAN;
            }
        }
    }
    let ranks = bench.run_each(
        2,
        "out",
        |_| {},
        |rank, trainer| match rank {
            1 => trainer.tapped_by(Box::new(Poison)),
            _ => trainer,
        },
    );
    assert!(ranks.iter().all(|ended| matches!(ended.result, Ok(RunEnd::Finished))));
    assert!(ranks[0].weights == ranks[1].weights && ranks[0].weights.iter().all(|weight| weight.is_finite()));
    let metrics = fs::read_to_string(bench.path("out/metrics.jsonl")).unwrap();
    let skipped: Vec<&str> = metrics.lines().filter(|line| line.contains(r#""skipped""#)).collect();
    assert_eq!(skipped.len(), 1, "{metrics}");
    assert!(skipped[0].contains("timestep"), "rank 0 names the samples of rank 1: {}", skipped[0]);
}

#[test]
fn pictures_are_shared_out_and_are_those_of_one_rank() {
    let bench = Bench::new();
    let pictures = |config: &mut TrainConfig| {
        config.validation.num_validation_samples = 3;
        config.validation.num_validation_images = 1.try_into().unwrap();
        config.validation.validation_inference_steps = 2.try_into().unwrap();
        config.schedule.max_train_steps = Some(1.try_into().unwrap());
    };
    let read = |out: &str| -> Vec<Vec<u8>> {
        let dir = bench.path(out).join("validation/step-000000");
        crate::cli::names(&dir).iter().map(|name| fs::read(dir.join(name)).unwrap()).collect()
    };
    bench.run(1, "one", pictures);
    bench.run(4, "four", pictures);
    let one = read("one");
    assert_eq!(one.len(), 3 * 3 + 1);
    assert!(read("four") == one);
}

#[test]
fn each_rank_reads_its_own_part_of_a_stream() {
    let bench = Bench::new();
    let stream = |config: &mut TrainConfig| {
        config.data.streaming = true;
        config.evaluation.num_eval_samples = 0;
    };
    let ranks = bench.run(2, "out", stream);
    assert!(ranks.iter().all(|ended| matches!(ended.result, Ok(RunEnd::Finished))));
    assert!(ranks[0].weights == ranks[1].weights);
    let epoch = |ended: &Ended| -> Vec<String> {
        ended.seen.ids.iter().take(2).flat_map(|(_, ids)| ids.clone()).collect()
    };
    let mut rows = [epoch(&ranks[0]), epoch(&ranks[1])].concat();
    assert_eq!(rows.len(), N_CIRCLES);
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), N_CIRCLES, "no row is read twice in an epoch");
}

#[test]
fn more_ranks_than_samples_of_a_stream_are_too_many() {
    let bench = Bench::new();
    let plan = plan(bench.dir.path(), Path::new("out"), |config| config.data.streaming = true);
    let group = ThreadGroup::new(7).remove(0);
    let error = Trainer::in_group(plan, &backend::device(), Arc::new(group)).unwrap_err();
    assert_eq!(error.to_string(), "7 ranks cannot share 6 samples");
}

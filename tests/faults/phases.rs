//! A run that is asked to stop in the middle of whatever it is doing.

use std::path::Path;
use std::sync::{Arc, Mutex};

use pyrograph_train::{Event, RunEnd, Stop, Tap, Tapped, TrainConfig};

use super::disk::{Fate, FaultyDisk};
use super::{Bench, Watch, latest, metrics};

const STEPS: u64 = 5;

/// Two micro-batches in a step, three in an epoch, which so ends each second step short; an evaluation and pictures
/// after the second and fourth step.
fn settings(config: &mut TrainConfig) {
    latest(config);
    config.optimizer.gradient_accumulation_steps = 2.try_into().unwrap();
    config.checkpoint.checkpointing_steps = 4.try_into().unwrap();
    config.evaluation.num_eval_samples = 2;
    config.validation.num_validation_samples = 1;
    config.validation.num_validation_images = 1.try_into().unwrap();
    config.validation.validation_inference_steps = 1.try_into().unwrap();
    config.validation.validation_steps = 2.try_into().unwrap();
}

/// A micro-batch's number and its samples.
type Seen = (u64, Vec<String>);

/// Writes down the samples of each micro-batch, and stops in one of them.
#[derive(Debug)]
struct Batches {
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Option<(u64, Stop)>,
}

impl Tap for Batches {
    fn batch(&mut self, Tapped { micro_step, ids, .. }: Tapped<'_>) {
        self.seen.lock().unwrap().push((micro_step, ids.to_vec()));
        if let Some((_, stop)) = self.stop.as_ref().filter(|(at, _)| *at == micro_step) {
            stop.request();
        }
    }
}

/// A straight run's samples by micro-batch, numbers and lines.
struct Straight {
    bench: Bench,
    batches: Vec<Seen>,
}

impl Straight {
    fn new() -> Self {
        let bench = Bench::new();
        let seen = Arc::default();
        let tap = Batches { seen: Arc::clone(&seen), stop: None };
        let mut trainer = bench.trainer("straight", STEPS, settings).unwrap().tapped_by(Box::new(tap));
        assert_eq!(trainer.run(&mut ()).unwrap(), RunEnd::Finished);
        let batches = seen.lock().unwrap().clone();
        Self { bench, batches }
    }

    /// Continues a stopped run: everything must be as in the straight one.
    fn check_rest(&self, out: &str, what: &str) {
        let seen = Arc::default();
        let tap = Batches { seen: Arc::clone(&seen), stop: None };
        let mut trainer = self.bench.trainer(out, STEPS, settings).unwrap().tapped_by(Box::new(tap));
        assert_eq!(trainer.run(&mut ()).unwrap(), RunEnd::Finished, "{what}");
        let rest = seen.lock().unwrap().clone();
        let first =
            rest.first().map_or(self.batches.len(), |(micro_step, _)| usize::try_from(*micro_step).unwrap());
        assert_eq!(rest, self.batches[first..], "{what}: the order of the samples");
        let last = |out: &str| {
            let dir = self.bench.out(out);
            ["diffusion_pytorch_model.safetensors", "best/diffusion_pytorch_model.safetensors"]
                .map(|name| std::fs::read(dir.join(name)).unwrap())
        };
        assert!(last(out) == last("straight"), "{what}: other parameters");
        // Losses, learning rates and norms of all steps, evaluations, and each set of pictures once.
        let told = |out: &str| -> Vec<String> {
            metrics(&self.bench.out(out)).iter().map(ToString::to_string).collect()
        };
        for (found, expected) in told(out).iter().zip(told("straight")) {
            assert_eq!(*found, expected, "{what}");
        }
        assert_eq!(told(out).len(), told("straight").len(), "{what}");
    }
}

#[test]
fn a_run_stopped_in_any_micro_batch_continues_with_the_same_samples_and_numbers() {
    let straight = Straight::new();
    let n_batches = straight.batches.len() as u64;
    assert_eq!(n_batches, 8, "an epoch of three micro-batches is two steps");
    for at in 0..n_batches {
        let out = format!("batch-{at}");
        let stop = Stop::default();
        let tap = Batches { seen: Arc::default(), stop: Some((at, stop.clone())) };
        let trainer = straight.bench.trainer(&out, STEPS, settings).unwrap();
        let end = trainer.stopped_by(stop).tapped_by(Box::new(tap)).run(&mut ()).unwrap();
        assert!(matches!(end, RunEnd::Stopped { .. }), "in micro-batch {at}");
        straight.check_rest(&out, &format!("stopped in micro-batch {at}"));
    }
}

#[test]
fn a_run_stopped_while_it_loads_evaluates_draws_or_reports_continues_where_it_was() {
    let straight = Straight::new();
    type At = fn(&Event) -> bool;
    let moments: [(&str, At); 6] = [
        ("before the first evaluation", |event| matches!(event, Event::Started(_))),
        ("before the first pictures", |event| matches!(event, Event::Evaluation(found) if found.step == 0)),
        ("before an evaluation", |event| matches!(event, Event::Progress(made) if made.step == 2)),
        ("before pictures", |event| matches!(event, Event::Evaluation(found) if found.step == 2)),
        ("after a checkpoint", |event| matches!(event, Event::Checkpoint { step: 4, .. })),
        (
            "before the last pictures",
            |event| matches!(event, Event::Evaluation(found) if found.step == STEPS),
        ),
    ];
    for (idx, (what, is_it)) in moments.into_iter().enumerate() {
        let out = format!("moment-{idx}");
        let stop = Stop::default();
        let trainer = straight.bench.trainer(&out, STEPS, settings).unwrap();
        let mut watch = Watch::new(|event: &Event| {
            if is_it(event) {
                stop.request();
            }
        });
        let end = trainer.stopped_by(stop.clone()).run(&mut watch).unwrap();
        assert!(matches!(end, RunEnd::Stopped { .. }), "{what}");
        assert!(matches!(watch.events.last(), Some(Event::Stopped { .. })), "{what}");
        straight.check_rest(&out, what);
    }
}

#[test]
fn a_run_stopped_in_any_write_of_pictures_and_checkpoints_finishes_them_or_does_them_again() {
    let straight = Straight::new();
    for (idx, part) in
        ["step-000002", ".checkpoint-4.incomplete", "step-000005", ".best.incomplete"].into_iter().enumerate()
    {
        let out = format!("write-{idx}");
        let stop = Stop::default();
        let asked = stop.clone();
        let is_inside = move |path: &Path| path.components().any(|name| name.as_os_str() == part);
        let disk = FaultyDisk::new(&Stop::default(), move |_, _, path| {
            if is_inside(path) {
                asked.request();
            }
            Fate::Done
        });
        let trainer = straight.bench.trainer(&out, STEPS, settings).unwrap();
        let end = trainer.stopped_by(stop).on_disk(disk).run(&mut ()).unwrap();
        // The last pictures may have been finished: then so is the run.
        assert!(part == "step-000005" || matches!(end, RunEnd::Stopped { .. }), "{part}");
        straight.check_rest(&out, part);
    }
}

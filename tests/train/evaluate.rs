//! Evaluation: fixed numbers for fixed weights, whatever happens between two evaluations.

use std::fs;
use std::path::Path;

use pyrograph::backend;
use pyrograph_pipeline::load_controlnet;
use pyrograph_train::{Evaluation, Event, Observer, TrainConfig, TrainError, Trainer};
use pyrograph_weights::Pickles;
use serde_json::Value;

use super::{circles, circles_of, plan};

/// Keeps every event, and fails like a crash at one of them.
#[derive(Default)]
struct Events {
    all: Vec<Event>,
    crash_after: Option<u64>,
}

impl Observer for Events {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        self.all.push(event.clone());
        match event {
            Event::Progress(progress) if Some(progress.step) == self.crash_after => {
                Err(TrainError::io(Path::new("crash"))(std::io::Error::other("simulated")))
            }
            _ => Ok(()),
        }
    }
}

impl Events {
    fn evaluations(&self) -> Vec<&Evaluation> {
        let evaluations = self.all.iter().filter_map(|event| match event {
            Event::Evaluation(evaluation) => Some(evaluation),
            _ => None,
        });
        evaluations.collect()
    }
}

/// A run of four steps at a high learning rate, with an evaluation after each second one.
fn run(dir: &Path, out: &str, change: impl FnOnce(&mut TrainConfig), crash_after: Option<u64>) -> Events {
    let plan = plan(dir, &dir.join(out), |config| {
        config.optimizer.learning_rate = Some(1e-2);
        config.schedule.max_train_steps = Some(4.try_into().expect("not zero"));
        config.evaluation.eval_steps = Some(2.try_into().expect("not zero"));
        config.evaluation.num_eval_samples = 3;
        config.checkpoint.checkpointing_steps = 2.try_into().expect("not zero");
        change(config);
    });
    let mut events = Events { crash_after, ..Events::default() };
    let result = Trainer::new(plan, &backend::device()).and_then(|mut trainer| trainer.run(&mut events));
    assert_eq!(result.is_err(), crash_after.is_some(), "{result:?}");
    events
}

#[test]
fn a_fresh_controlnet_has_no_gap_and_a_trained_one_tells_hints_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 30);
    let events = run(dir.path(), "out", |_| {}, None);
    let evaluations = events.evaluations();
    assert_eq!(evaluations.iter().map(|evaluation| evaluation.step).collect::<Vec<_>>(), [0, 2, 4]);

    let fresh = evaluations[0];
    assert!(fresh.is_held_out);
    assert_eq!((fresh.n_samples, fresh.control_gap, fresh.control_gap_error), (3, 0.0, 0.0));
    assert!(fresh.bins.iter().all(|bin| bin.loss == bin.shuffled_loss && bin.loss > 0.0), "{fresh:?}");
    assert!(fresh.zero_convs.iter().all(|conv| conv.weight_norm == 0.0 && conv.residual_rms == 0.0));

    let trained = evaluations[2];
    let bounds: Vec<_> = trained.bins.iter().map(|bin| (bin.first, bin.last)).collect();
    assert_eq!(bounds, [(0, 249), (250, 499), (500, 749), (750, 999)]);
    // Other hints give other residuals, and those another loss, in every bin.
    assert!(trained.bins.iter().all(|bin| bin.loss != bin.shuffled_loss), "{trained:?}");
    assert!(trained.control_gap != 0.0 && trained.control_gap_error > 0.0, "{trained:?}");
    let mean = trained.bins.iter().map(|bin| bin.loss).sum::<f64>() / 4.0;
    assert!((mean - trained.loss).abs() < 1e-12);
    assert!(trained.zero_convs.iter().all(|conv| conv.weight_norm > 0.0 && conv.residual_rms > 0.0));
    let names: Vec<&str> = trained.zero_convs.iter().map(|conv| conv.name.as_str()).collect();
    assert_eq!((names[0], names[names.len() - 1]), ("down 0", "mid"));
}

/// Evaluations, findings and the best, as `metrics.jsonl` has them.
fn findings(dir: &Path, out: &str) -> Vec<String> {
    let text = fs::read_to_string(dir.join(out).join("metrics.jsonl")).expect("metrics");
    let is_finding = |line: &&str| {
        let event = serde_json::from_str::<Value>(line).expect("JSON")["event"].clone();
        ["evaluation", "took_hold", "warning", "best"].contains(&event.as_str().expect("an event"))
    };
    text.lines().filter(is_finding).map(|line| line.replace(out, "OUT")).collect()
}

#[test]
fn a_resumed_run_reports_the_evaluations_of_one_that_did_not_stop() {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 30);
    run(dir.path(), "straight", |_| {}, None);
    let expected = findings(dir.path(), "straight");
    for crash_after in [1, 2, 3, 4] {
        let out = format!("crash-{crash_after}");
        run(dir.path(), &out, |_| {}, Some(crash_after));
        let resume = |config: &mut TrainConfig| {
            config.checkpoint.resume_from_checkpoint = (crash_after > 2).then(|| "latest".into());
        };
        run(dir.path(), &out, resume, None);
        assert_eq!(findings(dir.path(), &out), expected, "after a crash at step {crash_after}");
    }
}

#[test]
fn an_evaluation_depends_on_the_weights_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 30);
    // Weights that hardly move, with a loss that is another at each step.
    let still = |config: &mut TrainConfig| config.optimizer.learning_rate = Some(1e-30);
    let events = run(dir.path(), "out", still, None);
    let losses: Vec<f64> = events.evaluations().iter().map(|evaluation| evaluation.loss).collect();
    assert_eq!(losses, [losses[0]; 3]);
    let rarely =
        |config: &mut TrainConfig| config.evaluation.eval_steps = Some(4.try_into().expect("not zero"));
    let rare = run(dir.path(), "rare", rarely, None);
    let often = run(dir.path(), "often", |_| {}, None);
    assert_eq!(rare.evaluations()[1], often.evaluations()[2], "evaluating leaves no trace in training");
}

#[test]
fn the_best_controlnet_is_that_of_the_largest_gap() {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 30);
    let events = run(dir.path(), "out", |_| {}, None);
    let later = events.evaluations().into_iter().filter(|evaluation| evaluation.step > 0);
    let best =
        later.max_by(|left, right| left.control_gap.total_cmp(&right.control_gap)).expect("two of them");
    let folder = dir.path().join("out/best");
    let told: Value =
        serde_json::from_slice(&fs::read(folder.join("best.json")).expect("its step")).expect("JSON");
    assert_eq!(told["step"], best.step);
    load_controlnet(&folder, Pickles::Refused, &backend::device())
        .expect("a ControlNet in diffusers' layout");
    let weights =
        |folder: &Path| fs::read(folder.join("diffusion_pytorch_model.safetensors")).expect("weights");
    let checkpoint = dir.path().join(format!("out/checkpoint-{}/controlnet", best.step));
    assert!(weights(&folder) == weights(&checkpoint), "they are those of step {}", best.step);
}

#[test]
fn few_samples_are_all_trained_on_and_one_is_not_evaluated() {
    let dir = tempfile::tempdir().expect("a folder");
    circles(dir.path());
    let events = run(dir.path(), "out", |_| {}, None);
    assert!(events.evaluations().iter().all(|it| !it.is_held_out && it.n_samples == 3));
    let Event::Started(banner) = &events.all[0] else { panic!("{:?}", events.all[0]) };
    assert_eq!(banner.n_examples, 5);

    let one =
        |config: &mut TrainConfig| config.data.max_train_samples = Some(1.try_into().expect("not zero"));
    assert!(run(dir.path(), "one", one, None).evaluations().is_empty());
    let off = |config: &mut TrainConfig| config.evaluation.num_eval_samples = 0;
    assert!(run(dir.path(), "off", off, None).evaluations().is_empty());
}

#[test]
fn held_out_samples_are_no_examples_to_train_on() {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 30);
    let many = |config: &mut TrainConfig| config.evaluation.num_eval_samples = 16;
    let events = run(dir.path(), "out", many, None);
    let Event::Started(banner) = &events.all[0] else { panic!("{:?}", events.all[0]) };
    assert_eq!(banner.n_examples, 27, "a tenth of 30 is held out");
}

#[test]
fn without_prompts_the_pictures_are_of_evaluation_samples_beside_their_targets() {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 30);
    let pictures = |config: &mut TrainConfig| {
        config.validation.num_validation_samples = 2;
        config.validation.num_validation_images = 1.try_into().expect("not zero");
        config.validation.validation_inference_steps = 1.try_into().expect("not zero");
    };
    let events = run(dir.path(), "out", pictures, None);
    let validations: Vec<(u64, usize)> = events
        .all
        .iter()
        .filter_map(|event| match event {
            Event::Validation { step, prompts, .. } => Some((*step, prompts.len())),
            _ => None,
        })
        .collect();
    assert_eq!(validations, [(0, 2), (4, 2)], "before the first step and after the last");
    let target = dir.path().join("out/validation/step-000000/pair-1-target.png");
    assert_eq!(image::image_dimensions(target).expect("a picture"), (32, 32));
    let grid = dir.path().join("out/validation/step-000004/grid.png");
    assert_eq!(image::image_dimensions(grid).expect("a picture"), (3 * 36 + 4, 2 * 36 + 4));
}

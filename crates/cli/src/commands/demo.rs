//! `pyrograph demo`.

use std::fs;
use std::io::Write;
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use burn::tensor::Device;
use pyrograph_data::colors::Palette;
use pyrograph_data::{Circles, Columns, Dataset, HintKind, RgbImage, generate_circles, save_png};
use pyrograph_pipeline::{BasePreset, SamplerKind, init_base};
use pyrograph_train::{
    CacheKind, Checkpoint, Event, FidelityOptions, FidelityScores, Observer, ResumeFrom, RunEnd, Stop,
    TrainConfig, TrainError, TrainPlan, Trainer, measure_fidelity,
};
use serde_json::json;

use crate::args::{DemoArgs, OutputArgs, UsageError};
use crate::report::Outcome;
use crate::run_report::Reporter;
use crate::signals::stop_on_signals;
use crate::{backend, progress};

/// The run of the demo; it names its folders relative to the demo's own.
const PRESET: &str = include_str!("../../../../configs/quickstart.toml");
const PRESET_PATH: &str = "configs/quickstart.toml";

/// The seed of the hints that are measured on; the run's own seed draws those that it is trained on.
const NEW_HINTS_SEED: u64 = 1 << 32;

/// The folder of the hints that are measured on.
const NEW_HINTS: &str = "new-hints";

/// Denoising steps of a picture that is measured: half of the usual, since shapes are simple.
const N_STEPS: NonZeroUsize = NonZeroUsize::new(10).expect("10 is not 0");
/// Pictures drawn at once.
const BATCH_SIZE: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not 0");

/// A file that says that a demo has begun in its folder.
const MARKER: &str = ".pyrograph-demo";

pub(crate) fn demo(args: &DemoArgs, output: &OutputArgs) -> anyhow::Result<Outcome> {
    let stop = stop_on_signals()?;
    let done = run(args, output, &stop);
    let is_stopped = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(TrainError::Stopped));
    if done.as_ref().is_err_and(is_stopped) {
        tracing::info!("to go on: the same command with --resume");
        return Ok(Outcome::Stopped);
    }
    done.map(|()| Outcome::Done)
}

/// # Errors
/// [`TrainError::Stopped`] if it was asked to stop.
fn run(args: &DemoArgs, output: &OutputArgs, stop: &Stop) -> anyhow::Result<()> {
    let start = Instant::now();
    let out = &args.out;
    let plan = plan(out, args.steps)?;
    let device = backend::open()?;
    begin(args, &plan)?;
    let new_hints = draw_data(args, &plan)?;
    init_base(BasePreset::Tiny, &plan.model.base, &device)?;
    tracing::info!("wrote the tiny base model: {}", plan.model.base.display());

    let (base, trained) = (plan.model.base.clone(), plan.output_dir.clone());
    let exam = Exam { new_hints, n_samples: args.num_samples, device, stop: stop.clone() };
    let mut fresh = Trainer::new(plan.clone(), &exam.device)?;
    let before = exam.sit(&mut fresh)?;
    let mut trainer = match Checkpoint::latest(&trained) {
        Ok(_) if args.resume => Trainer::new(resumed(plan), &exam.device)?,
        _ => fresh,
    }
    .stopped_by(stop.clone());

    let mut observer = progress::observer(output);
    let title = "Circles on the tiny base".to_owned();
    let mut reporter = Reporter::new(&trainer, title, &exam.device, observer.as_mut())?;
    let mut watcher = Watcher { inner: &mut reporter, took_hold: None };
    if let RunEnd::Stopped { .. } = trainer.run(&mut watcher)? {
        return Err(TrainError::Stopped.into());
    }
    let took_hold = watcher.took_hold;

    let after = exam.sit(&mut trainer)?;
    let report = trained.join("report.html");
    let seconds = start.elapsed().as_secs_f64();
    conclude(&before, &after, took_hold, seconds);
    let program = std::env::current_exe().unwrap_or_else(|_| "pyrograph".into());
    tracing::info!("the report: {}", report.display());
    tracing::info!(
        "draw with what was trained:\n  {} generate --base {} --controlnet {} --control-image {} \
         --prompt \"red circle with blue background\" --output picture.png",
        program.display(),
        base.display(),
        trained.display(),
        out.join("new-hints/train/conditioning_images/00000.png").display(),
    );
    if args.json {
        let line = json!({
            "iou_before": before.iou,
            "iou_after": after.iou,
            "colour_accuracy": after.color_accuracy,
            "hint_took_hold_step": took_hold,
            "seconds": seconds,
            "report": report,
        });
        writeln!(std::io::stdout().lock(), "{line}")?;
    }
    Ok(())
}

/// Takes the folder: an empty one or, to resume, one that a demo has begun, without what can be drawn again.
fn begin(args: &DemoArgs, plan: &TrainPlan) -> anyhow::Result<()> {
    let out = &args.out;
    let marker = out.join(MARKER);
    if args.resume && marker.is_file() {
        let parts = [&plan.data.dir, &plan.model.base, &out.join(NEW_HINTS)];
        for part in parts.into_iter().filter(|part| part.exists()) {
            fs::remove_dir_all(part).with_context(|| part.display().to_string())?;
        }
        return Ok(());
    }
    let is_empty = |folder: &Path| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    if out.exists() && !is_empty(out) {
        return Err(UsageError::DemoFolderNotEmpty { path: out.clone() }.into());
    }
    fs::create_dir_all(out)
        .and_then(|()| fs::write(&marker, ""))
        .with_context(|| marker.display().to_string())
}

/// The plan of a run that continues from its newest checkpoint.
fn resumed(mut plan: TrainPlan) -> TrainPlan {
    plan.checkpoint.resume_from = ResumeFrom::Latest;
    plan
}

/// Draws the pairs to train on, and others to measure on.
fn draw_data(args: &DemoArgs, plan: &TrainPlan) -> anyhow::Result<Dataset> {
    let side = plan.data.transform.side;
    let circles = |count, seed| Circles { count, side, palette: Palette::Distinct, seed };
    generate_circles(&circles(args.count, plan.seed), &plan.data.dir)?;
    if args.withhold_hint {
        let hints = plan.data.dir.join("train/conditioning_images");
        let black = RgbImage::new(side.pixels(), side.pixels());
        for hint in fs::read_dir(&hints).with_context(|| hints.display().to_string())? {
            save_png(&black, &hint?.path())?;
        }
    }
    tracing::info!("drew {} pairs of circles: {}", args.count, plan.data.dir.display());
    let new_hints = args.out.join(NEW_HINTS);
    generate_circles(&circles(args.num_samples, NEW_HINTS_SEED), &new_hints)?;
    Ok(Dataset::open(&new_hints, &Columns::default())?)
}

fn conclude(before: &Marks, after: &Marks, took_hold: Option<u64>, seconds: f64) {
    let when = match took_hold {
        Some(step) => format!("the hint took hold at step {step}"),
        None => "the hint has not taken hold yet".to_owned(),
    };
    tracing::info!(
        "in {seconds:.0} s the ControlNet went from {:.2} to {:.2} (overlap of drawn and asked circles, 1 is best): {when}; \
         both colours are right in {:.0} % of the pictures",
        before.iou,
        after.iou,
        100.0 * after.color_accuracy,
    );
}

/// New hints and prompts, to measure what was learned.
struct Exam {
    new_hints: Dataset,
    n_samples: NonZeroUsize,
    device: Device,
    stop: Stop,
}

struct Marks {
    iou: f64,
    color_accuracy: f64,
}

impl Exam {
    fn sit(&self, trainer: &mut Trainer) -> anyhow::Result<Marks> {
        trainer.complete_bundle()?;
        let plan = trainer.plan();
        let options = FidelityOptions {
            kind: HintKind::Outline,
            n_samples: self.n_samples,
            batch_size: BATCH_SIZE,
            n_steps: N_STEPS,
            guidance_scale: plan.validation.guidance_scale,
            conditioning_scale: 1.0,
            sampler: SamplerKind::Ddim,
            seed: plan.seed,
            side: plan.data.transform.side,
            hint: None,
        };
        let (bundle, controlnet) = (trainer.bundle(), trainer.result());
        let mut on_progress = |_, _| match self.stop.is_requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let fidelity =
            measure_fidelity(bundle, controlnet, &self.new_hints, &options, &self.device, &mut on_progress)?;
        let FidelityScores::Outline { mean_iou, color_accuracy, .. } = fidelity.scores else {
            unreachable!("the demo's hints are outlines");
        };
        Ok(Marks { iou: mean_iou, color_accuracy })
    }
}

/// Remembers when the hint took hold.
struct Watcher<'a> {
    inner: &'a mut dyn Observer,
    took_hold: Option<u64>,
}

impl Observer for Watcher<'_> {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        if let Event::TookHold { step } = event {
            self.took_hold = Some(*step);
        }
        self.inner.observe(event)
    }
}

/// The preset with its folders inside `out`.
fn plan(out: &Path, steps: Option<NonZeroU64>) -> anyhow::Result<TrainPlan> {
    let mut config = TrainConfig::parse(PRESET, Path::new(PRESET_PATH)).context("the embedded preset")?;
    let inside = |path: &mut PathBuf| *path = out.join(&path);
    config.model.pretrained_model_name_or_path.iter_mut().for_each(inside);
    config.data.train_data_dir.iter_mut().for_each(inside);
    inside(&mut config.run.output_dir);
    // Nothing is left outside of the folder, and nothing in it is trained on again.
    config.cache.cache = Some(CacheKind::Memory);
    config.schedule.max_train_steps = steps.or(config.schedule.max_train_steps);
    Ok(TrainPlan::try_from(config)?)
}

#[cfg(test)]
mod tests {
    use pyrograph_train::CachePlan;

    use super::*;

    #[test]
    fn everything_the_demo_reads_or_writes_is_in_its_folder() {
        let plan = plan(Path::new("here"), None).expect("the embedded preset is valid");
        let paths = [plan.model.base, plan.data.dir, plan.output_dir];
        assert!(paths.iter().all(|path| path.starts_with("here")), "{paths:?}");
        assert_eq!(plan.cache, CachePlan::Memory);
    }
}

//! What both stages share: a module with its optimizer, the loop that trains it, and the folder to continue from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use pyrograph_train::{AdamWConfig, Gradients, LrSchedule, Optimizer};
use pyrograph_weights::{LoadOptions, SaveOptions, SystemDisk, load, load_tensors, save, save_tensors};
use serde::{Deserialize, Serialize};

use crate::scene::Scenes;

/// Source: `torch.optim.AdamW`'s defaults, with which the recipe was found.
const ADAMW: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

/// The global norm to which gradients are clipped.
const MAX_GRAD_NORM: f64 = 1.0;

/// All that decides the numbers of a stage. A run is continued with its own recipe only.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recipe {
    pub(crate) seed: u64,
    pub(crate) scenes: Scenes,
    pub(crate) n_steps: u64,
    pub(crate) batch_size: usize,
    /// The highest learning rate; it falls to zero along half a cosine.
    pub(crate) lr: f64,
    pub(crate) warmup_steps: u64,
    /// Different pictures; 0 for new ones at each step.
    pub(crate) n_pictures: u64,
}

impl Recipe {
    pub(crate) fn lr_at(&self, step: u64) -> f64 {
        // The first step of a warmup would have a rate of zero, so the schedule starts one step in.
        let schedule = LrSchedule::Cosine { warmup_steps: self.warmup_steps };
        self.lr * schedule.multiplier(step + 1, self.n_steps + 1)
    }
}

/// How often, in steps, the loop tells, measures and saves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) log_every: u64,
    pub(crate) measure_every: u64,
    pub(crate) save_every: u64,
    /// Ends the process's work early, resumably.
    pub(crate) stop_after: Option<u64>,
}

/// What makes one stage different from another.
pub(crate) trait Stage {
    type Model: Module;

    /// The name in messages.
    const NAME: &'static str;

    /// The loss of a step, a function of the model, the recipe's seed and the step's number alone.
    fn loss(&self, model: &Self::Model, step: u64) -> Tensor<1>;

    /// Measures the model; returns what to print.
    fn measure(&self, model: &Self::Model, step: u64) -> Result<String>;
}

/// A model in training.
pub(crate) struct Training<M> {
    pub(crate) model: M,
    optimizer: Optimizer,
    recipe: Recipe,
    dir: PathBuf,
}

/// `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    step: u32,
    recipe: Recipe,
}

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

impl<M: Module> Training<M> {
    /// Continues what is in `dir`, or starts there with `fresh`.
    pub(crate) fn open(dir: &Path, recipe: Recipe, fresh: M, device: &Device) -> Result<Self> {
        let dir = dir.to_owned();
        let saved = if dir.is_dir() { dir.clone() } else { sibling(&dir, "old") };
        if !saved.is_dir() {
            device.seed(recipe.seed);
            draw_weights(&fresh);
            return Ok(Self { model: fresh, optimizer: Optimizer::new(ADAMW), recipe, dir });
        }
        let text = fs::read_to_string(saved.join(STATE)).with_context(|| saved.display().to_string())?;
        let state: State = serde_json::from_str(&text).with_context(|| saved.display().to_string())?;
        ensure!(
            state.recipe == recipe,
            "{} was begun with another recipe: {:?}, not {recipe:?}; use its flags, or another --out",
            saved.display(),
            state.recipe,
        );
        let model = load(fresh, &saved.join(MODEL), &LoadOptions::default())?;
        let moments = load_tensors(&saved.join(OPTIMIZER))?;
        let optimizer = Optimizer::resumed(ADAMW, state.step, moments, &model, device)?;
        Ok(Self { model, optimizer, recipe, dir })
    }

    /// Steps made.
    pub(crate) fn step(&self) -> u64 {
        u64::from(self.optimizer.steps())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.step() >= self.recipe.n_steps
    }

    /// Trains to the recipe's end, or to the pace's.
    pub(crate) fn run<S: Stage<Model = M>>(&mut self, stage: &S, pace: &Pace) -> Result<()> {
        let first = self.step();
        let last =
            pace.stop_after.map_or(self.recipe.n_steps, |steps| self.recipe.n_steps.min(first + steps));
        let mut clock = Clock::new();
        let mut losses: Vec<Tensor<1>> = Vec::new();
        while self.step() < last {
            let step = self.step();
            let lr = self.recipe.lr_at(step);
            losses.push(self.update(&stage.loss(&self.model, step), lr));
            let step = self.step();
            if step.is_multiple_of(pace.log_every) || step == last {
                let loss = mean(std::mem::take(&mut losses));
                if !loss.is_finite() {
                    bail!("the loss of {} is {loss} at step {step}", S::NAME);
                }
                let pace = clock.tell(step, self.recipe.n_steps);
                println!("{} {step}/{}: loss {loss:.4}, lr {lr:.1e}, {pace}", S::NAME, self.recipe.n_steps);
            }
            if step.is_multiple_of(pace.measure_every) || step == last {
                println!("{} {step}: {}", S::NAME, stage.measure(&self.model, step)?);
                clock.skip();
            }
            if step.is_multiple_of(pace.save_every) || step == last {
                self.save()?;
            }
        }
        Ok(())
    }

    /// Backward, clip, AdamW; gives back the loss, without its graph.
    fn update(&mut self, loss: &Tensor<1>, lr: f64) -> Tensor<1> {
        let value = loss.clone().inner();
        let gradients = Gradients::take(&self.model, loss.backward());
        let (gradients, _) = gradients.clipped(MAX_GRAD_NORM);
        self.model = self.optimizer.step(self.model.clone(), gradients, lr);
        value
    }

    /// Writes the folder beside its place and swaps it in, so that a run killed at any moment can be continued.
    pub(crate) fn save(&self) -> Result<()> {
        let [partial, old] = ["partial", "old"].map(|suffix| sibling(&self.dir, suffix));
        remove(&partial)?;
        fs::create_dir_all(&partial).with_context(|| partial.display().to_string())?;
        save(&self.model, &partial.join(MODEL), &SaveOptions::default(), &SystemDisk)?;
        save_tensors(
            &partial.join(OPTIMIZER),
            &self.optimizer.state(&self.model),
            &BTreeMap::new(),
            &SystemDisk,
        )?;
        let state = State { step: self.optimizer.steps(), recipe: self.recipe };
        fs::write(partial.join(STATE), serde_json::to_string_pretty(&state)?)?;
        if self.dir.is_dir() {
            remove(&old)?;
            fs::rename(&self.dir, &old)?;
        }
        fs::rename(&partial, &self.dir)?;
        remove(&old)
    }
}

/// Draws all weights in the module's order: else they would be drawn when first used, and each use would decide them.
fn draw_weights<M: Module>(module: &M) {
    struct Draw;
    impl ModuleVisitor for Draw {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let _ = param.val();
        }
    }
    module.visit(&mut Draw);
}

fn sibling(dir: &Path, suffix: &str) -> PathBuf {
    dir.with_extension(suffix)
}

pub(crate) fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    Ok(())
}

fn mean(losses: Vec<Tensor<1>>) -> f32 {
    Tensor::cat(losses, 0).mean().into_scalar::<f32>()
}

/// Seconds a step, measured between two messages, without what was measured or saved in between.
struct Clock {
    since: Instant,
    step: Option<u64>,
    seconds_per_step: f64,
}

impl Clock {
    fn new() -> Self {
        Self { since: Instant::now(), step: None, seconds_per_step: 0.0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "steps are far below 2^53")]
    fn tell(&mut self, step: u64, n_steps: u64) -> String {
        // The steps before the first message include the warming up of a process, but are all there is.
        if let Some(steps) = self.step.map(|last| step - last).filter(|steps| *steps > 0) {
            self.seconds_per_step = self.since.elapsed().as_secs_f64() / steps as f64;
        }
        self.step = Some(step);
        self.since = Instant::now();
        if self.seconds_per_step == 0.0 {
            return "first steps".to_owned();
        }
        let minutes = self.seconds_per_step * n_steps.saturating_sub(step) as f64 / 60.0;
        format!("{:.2} s/step, {minutes:.0} min to go", self.seconds_per_step)
    }

    /// What happened since the last message does not count.
    fn skip(&mut self) {
        self.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Initializer, Linear, LinearConfig};

    use super::*;

    const RECIPE: Recipe = Recipe {
        seed: 3,
        scenes: Scenes::All,
        n_steps: 6,
        batch_size: 1,
        lr: 0.1,
        warmup_steps: 2,
        n_pictures: 0,
    };

    struct Toy;

    impl Stage for Toy {
        type Model = Linear;
        const NAME: &'static str = "toy";

        fn loss(&self, model: &Linear, step: u64) -> Tensor<1> {
            let input = Tensor::<2>::full([1, 3], f64::from(u32::try_from(step).unwrap()), &Device::flex());
            (model.forward(input) - 1.0).square().mean()
        }

        fn measure(&self, _model: &Linear, _step: u64) -> Result<String> {
            Ok(String::new())
        }
    }

    /// Not drawn: tests run in threads that share the device's generator.
    fn toy(device: &Device) -> Linear {
        LinearConfig::new(3, 2).with_initializer(Initializer::Constant { value: 0.3 }).init(device)
    }

    /// The weights after a run that is stopped after each of these numbers of steps.
    fn train(stops: &[u64]) -> Vec<f32> {
        let dir = tempfile::tempdir().unwrap();
        let device = Device::flex().autodiff();
        let mut weights = Vec::new();
        for &steps in stops {
            let fresh = toy(&device);
            let mut training = Training::open(&dir.path().join("toy"), RECIPE, fresh, &device).unwrap();
            let pace = Pace { log_every: 2, measure_every: 4, save_every: 5, stop_after: Some(steps) };
            training.run(&Toy, &pace).unwrap();
            weights = training.model.weight.val().try_into_vec_as::<f32>().unwrap();
        }
        weights
    }

    #[test]
    fn a_continued_run_ends_with_the_bits_of_one_that_was_not_stopped() {
        let straight = train(&[6]);
        assert_eq!(train(&[2, 3, 9]), straight);
        assert_ne!(train(&[5]), straight);
    }

    #[test]
    fn a_run_is_not_continued_with_another_recipe() {
        let dir = tempfile::tempdir().unwrap();
        let device = Device::flex().autodiff();
        let open = |recipe| Training::open(&dir.path().join("toy"), recipe, toy(&device), &device);
        open(RECIPE).unwrap().save().unwrap();
        let error = open(Recipe { lr: 0.2, ..RECIPE }).err().unwrap();
        assert!(error.to_string().contains("another recipe"), "{error}");
    }

    #[test]
    fn a_run_killed_between_two_renames_continues_from_the_older_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("toy");
        let device = Device::flex().autodiff();
        let open = || Training::open(&path, RECIPE, toy(&device), &device).unwrap();
        let mut training = open();
        training
            .run(&Toy, &Pace { log_every: 9, measure_every: 9, save_every: 9, stop_after: Some(4) })
            .unwrap();
        fs::rename(&path, path.with_extension("old")).unwrap();
        assert_eq!(open().step(), 4);
    }

    #[test]
    fn the_learning_rate_rises_then_falls_to_nothing() {
        let recipe = Recipe { n_steps: 1000, warmup_steps: 10, ..RECIPE };
        let rates: Vec<f64> = [0, 9, 500, 999].map(|step| recipe.lr_at(step)).to_vec();
        assert!(rates[0] > 0.0 && rates[0] < rates[2], "{rates:?}");
        assert!((rates[1] - recipe.lr).abs() < 1e-12, "{rates:?}");
        assert!(rates[3] < 1e-5 * recipe.lr, "{rates:?}");
    }
}

//! Training runs on a tiny base model: what a step does, and that a resumed run continues bit for bit.

mod cache;
mod ema;
mod encoders;
mod evaluate;
mod loss;
mod optimizers;
mod precision;
mod ranks;
mod resume;
mod sdxl;
mod step;
mod unlocked;

use std::path::{Path, PathBuf};

use pyrograph_data::colors::Palette;
use pyrograph_data::{Circles, Side, generate_circles};
use pyrograph_train::{TrainConfig, TrainPlan};

/// The tiny base folder of a parity case.
pub(crate) fn base() -> PathBuf {
    crate::fixtures().join("parity/generate/sd1-like/base")
}

/// Five pairs of generated circles, 32 px: too few to hold any out of training.
pub(crate) fn circles(dir: &Path) -> PathBuf {
    circles_of(dir, 5)
}

/// So many pairs.
pub(crate) fn circles_of(dir: &Path, count: usize) -> PathBuf {
    let out = dir.join("circles");
    let circles = Circles {
        count: count.try_into().expect("not zero"),
        side: Side::try_from(32).expect("a multiple of 8"),
        palette: Palette::Css,
        seed: 3,
    };
    generate_circles(&circles, &out).expect("circles");
    out
}

/// A plan for that base and data: batches of two, so that the third of each epoch has one sample, and no pictures.
pub(crate) fn plan(dir: &Path, output_dir: &Path, change: impl FnOnce(&mut TrainConfig)) -> TrainPlan {
    let mut config = TrainConfig::default();
    config.model.pretrained_model_name_or_path = Some(base());
    config.data.train_data_dir = Some(dir.join("circles"));
    config.data.resolution = 32;
    config.data.train_batch_size = 2.try_into().expect("not zero");
    config.data.proportion_empty_prompts = 0.3;
    config.optimizer.learning_rate = Some(1e-3);
    config.validation.num_validation_samples = 0;
    config.run.output_dir = output_dir.to_owned();
    config.run.seed = 7;
    change(&mut config);
    TrainPlan::try_from(config).expect("a valid plan")
}

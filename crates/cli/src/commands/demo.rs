//! `pyrograph demo`.

use std::fs;
use std::path::Path;

use anyhow::Context;
use pyrograph_data::{Circles, generate_circles};
use pyrograph_train::{TrainConfig, TrainPlan, Trainer};

use crate::args::{DemoArgs, OutputArgs, UsageError};
use crate::commands::init_base;
use crate::{backend, progress};

/// The run of the demo; it names the three folders relative to the demo's own.
const PRESET: &str = include_str!("../../../../configs/circles-tiny.toml");

pub(crate) fn demo(args: &DemoArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let out = &args.out;
    let is_empty = |folder: &Path| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    if out.exists() && !is_empty(out) {
        return Err(UsageError::DemoFolderNotEmpty { path: out.clone() }.into());
    }
    let plan = plan(out, args.steps)?;
    generate_circles(
        &Circles { count: args.count, side: plan.data.transform.side, seed: plan.seed },
        &plan.data.dir,
    )?;
    tracing::info!("drew {} pairs of circles: {}", args.count, plan.data.dir.display());
    init_base::tiny(plan.seed, &plan.model.base)?;
    tracing::info!(
        "made a tiny base model of random weights, so its pictures will be noise: {}",
        plan.model.base.display()
    );

    let trained = plan.output_dir.clone();
    let hint = plan.validation.pairs.first().map(|pair| pair.image.clone()).unwrap_or_default();
    let base = plan.model.base.clone();
    Trainer::new(plan, &backend::device())?.run(progress::observer(output).as_mut())?;
    let program = std::env::current_exe().unwrap_or_else(|_| "pyrograph".into());
    tracing::info!(
        "look at {}, and draw with what was trained:\n  {} generate --base {} --controlnet {} --control-image {} \
         --prompt \"red circle with blue background\" --output picture.png",
        trained.join("validation").display(),
        program.display(),
        base.display(),
        trained.display(),
        hint.display(),
    );
    Ok(())
}

/// The preset with its folders inside `out`.
fn plan(out: &Path, steps: Option<std::num::NonZeroU64>) -> anyhow::Result<TrainPlan> {
    let mut config =
        TrainConfig::parse(PRESET, Path::new("configs/circles-tiny.toml")).context("the embedded preset")?;
    let inside = |path: &mut std::path::PathBuf| *path = out.join(&path);
    config.model.pretrained_model_name_or_path.iter_mut().for_each(inside);
    config.data.train_data_dir.iter_mut().for_each(inside);
    config.validation.validation_image.iter_mut().for_each(inside);
    inside(&mut config.run.output_dir);
    config.schedule.max_train_steps = steps.or(config.schedule.max_train_steps);
    Ok(TrainPlan::try_from(config)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_the_demo_reads_or_writes_is_in_its_folder() {
        let plan = plan(Path::new("here"), None).expect("the embedded preset is valid");
        let paths = [plan.model.base, plan.data.dir, plan.output_dir, plan.validation.pairs[0].image.clone()];
        assert!(paths.iter().all(|path| path.starts_with("here")), "{paths:?}");
    }
}

//! `pyrograph train`.

use std::io::Write;
use std::path::{Path, PathBuf};

use pyrograph_train::{RunEnd, TrainConfig, TrainPlan, Trainer};

use super::plan::Planned;
use crate::args::{OutputArgs, TrainArgs, UsageError};
use crate::report::Outcome;
use crate::run_report::Reporter;
use crate::signals::stop_on_signals;
use crate::{backend, progress};

pub(crate) fn train(args: &TrainArgs, output: &OutputArgs) -> anyhow::Result<Outcome> {
    let plan = plan_of(args)?;
    if args.print_config && args.fit.is_none() {
        return print_config(plan).map(|()| Outcome::Done);
    }
    let planned = Planned::new(args, plan)?;
    if !planned.flags.is_empty() {
        tracing::info!("chosen to fit: {}", planned.flags.join(" "));
    }
    let (plan, budget) = planned.accepted()?;
    if args.print_config {
        return print_config(plan).map(|()| Outcome::Done);
    }
    let stop = stop_on_signals()?;
    let (data, base) = (name(&plan.data.dir), name(&plan.model.base));
    let device = backend::open()?;
    backend::require(&device, &plan)?;
    tracing::info!("memory plan\n{budget}");
    let mut trainer = Trainer::new(plan, &device)?.stopped_by(stop);
    let mut observer = progress::observer(output);
    let mut reporter = Reporter::new(&trainer, format!("{data} on {base}"), &device, observer.as_mut())?;
    Ok(match trainer.run(&mut reporter)? {
        RunEnd::Finished => Outcome::Done,
        RunEnd::Stopped { checkpoint } => {
            let checkpoint = checkpoint.display();
            tracing::info!("to go on: the same command with --resume_from_checkpoint latest ({checkpoint})");
            Outcome::Stopped
        }
    })
}

/// The checked plan of the flags and their preset.
pub(super) fn plan_of(args: &TrainArgs) -> anyhow::Result<TrainPlan> {
    args.check()?;
    let mut config = args.config()?;
    config.cache.cache_dir = config.cache.cache_dir.or_else(user_cache_dir);
    require_folders(&config)?;
    Ok(TrainPlan::try_from(config)?)
}

/// Writes a plan as the preset that says all of it.
pub(super) fn print_config(plan: TrainPlan) -> anyhow::Result<()> {
    let text = TrainConfig::from(plan).to_toml()?;
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

/// Where programs of this user keep what they can compute again; `None` if the system does not say.
///
/// Source: XDG Base Directory Specification 0.8, which has relative paths ignored.
#[expect(clippy::disallowed_methods, reason = "the command line may read the environment")]
fn user_cache_dir() -> Option<PathBuf> {
    let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let usual = || std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".cache"));
    given.or_else(usual).map(|cache| cache.join("pyrograph"))
}

/// A folder's own name.
fn name(folder: &Path) -> String {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

/// Refuses what the reference would look up on the Hub, while the flag is still known.
fn require_folders(config: &TrainConfig) -> Result<(), UsageError> {
    let model = &config.model;
    for (flag, path) in [
        ("pretrained_model_name_or_path", &model.pretrained_model_name_or_path),
        ("pretrained_vae_model_name_or_path", &model.pretrained_vae_model_name_or_path),
        ("controlnet_model_name_or_path", &model.controlnet_model_name_or_path),
        ("tokenizer_name", &model.tokenizer_name),
        ("dataset_name", &config.data.dataset_name),
    ] {
        match path.as_deref() {
            None => {}
            Some(path) if path.is_dir() => {}
            Some(path) if path.is_file() && flag == "dataset_name" => {}
            Some(path) if path.is_file() => return Err(UsageError::IsAFile { flag, path: path.to_owned() }),
            Some(path) => return Err(UsageError::NotAFolder { flag, name: path.display().to_string() }),
        }
    }
    Ok(())
}

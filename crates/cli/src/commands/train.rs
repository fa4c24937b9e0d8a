//! `pyrograph train`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pyrograph_hub::RepoName;
use pyrograph_train::{RunEnd, TrainConfig, TrainPlan, Trainer};

use super::plan::Planned;
use crate::args::{OutputArgs, TrainArgs, UsageError};
use crate::hub::{CONTROLNET, Folders, name_of, name_on_hub};
use crate::model_card::{self, Upload};
use crate::report::Outcome;
use crate::run_report::Reporter;
use crate::signals::stop_on_signals;
use crate::{backend, progress};

pub(crate) fn train(args: &TrainArgs, output: &OutputArgs) -> anyhow::Result<Outcome> {
    let plan = plan_of(args, output)?;
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
    let upload = args
        .push_to_hub
        .then(|| Upload::prepare(&plan.output_dir, &args.push, &args.hub.token, output))
        .transpose()?;
    let stop = stop_on_signals()?;
    let (data, base) = (name_of(&plan.data.dir), name_of(&plan.model.base));
    let device = backend::open()?;
    backend::require(&device, &plan)?;
    tracing::info!("memory plan\n{budget}");
    let mut trainer = Trainer::new(plan, &device)?.stopped_by(stop);
    let mut observer = progress::observer(output);
    let mut reporter = Reporter::new(&trainer, format!("{data} on {base}"), &device, observer.as_mut())?;
    let end = trainer.run(&mut reporter)?;
    let sections = reporter.sections().to_vec();
    Ok(match end {
        RunEnd::Finished => {
            let (plan, is_xl) = (trainer.plan(), trainer.bundle().text.second.is_some());
            model_card::write(plan, &sections, is_xl, upload.as_ref().map(|upload| &upload.name))?;
            if let Some(upload) = upload {
                upload
                    .push(&plan.output_dir, output)
                    .with_context(|| not_uploaded(&plan.output_dir, &upload.name))?;
            }
            Outcome::Done
        }
        RunEnd::Stopped { checkpoint } => {
            let checkpoint = checkpoint.display();
            tracing::info!("to go on: the same command with --resume_from_checkpoint latest ({checkpoint})");
            Outcome::Stopped
        }
    })
}

/// What is said of a run whose upload failed.
fn not_uploaded(dir: &Path, name: &RepoName) -> String {
    let dir = dir.display();
    format!(
        "the ControlNet is trained and saved in `{dir}`, but not uploaded; `pyrograph push {dir} --hub_model_id {name}` \
         tries it again"
    )
}

/// The checked plan of the flags and their preset.
pub(super) fn plan_of(args: &TrainArgs, output: &OutputArgs) -> anyhow::Result<TrainPlan> {
    args.check()?;
    let mut config = args.config()?;
    config.cache.cache_dir = config.cache.cache_dir.or_else(user_cache_dir);
    bring(&mut config, args, output)?;
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

/// What may be one file instead of a folder.
const MAY_BE_FILES: [&str; 4] = [
    "pretrained_model_name_or_path",
    "pretrained_vae_model_name_or_path",
    "controlnet_model_name_or_path",
    "dataset_name",
];

/// Replaces names on the Hub by the folders of the cache that they are brought to.
fn bring(config: &mut TrainConfig, train: &TrainArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let (args, is_pushed) = (&train.hub, train.push_to_hub);
    let is_name = |path: &Option<PathBuf>| path.as_deref().is_some_and(|path| name_on_hub(path).is_some());
    let model = &config.model;
    let has_revision = is_name(&model.pretrained_model_name_or_path)
        || is_name(&model.pretrained_vae_model_name_or_path)
        || is_name(&model.tokenizer_name);
    let is_asked =
        has_revision || is_name(&model.controlnet_model_name_or_path) || is_name(&config.data.dataset_name);
    if args.revision.is_some() && !has_revision {
        tracing::warn!("--revision has no effect: base model, VAE and tokenizer are not named as on the Hub");
    }
    if args.token.hub_token.is_some() && !is_asked && !is_pushed {
        tracing::warn!("--hub_token has no effect: nothing is asked of the Hub");
    }
    if is_asked {
        // Mistakes in the other settings are told before gigabytes are downloaded.
        TrainPlan::try_from(config.clone())?;
    }
    let folders = Folders::new(args, config.model.allow_pickle.into(), output);
    let model = &mut config.model;
    let variant = model.variant.as_deref();
    let without: &[&str] = if model.pretrained_vae_model_name_or_path.is_some() { &["vae"] } else { &[] };
    if let Some(path) = &mut model.pretrained_model_name_or_path {
        require_there("pretrained_model_name_or_path", path)?;
        *path = folders.base(path, variant, without)?;
    }
    if let Some(path) = &mut model.pretrained_vae_model_name_or_path {
        require_there("pretrained_vae_model_name_or_path", path)?;
        *path = folders.part(path, "vae", variant)?;
    }
    if let Some(path) = &mut model.controlnet_model_name_or_path {
        require_there("controlnet_model_name_or_path", path)?;
        *path = folders.part(path, CONTROLNET, None)?;
    }
    if let Some(path) = &mut model.tokenizer_name {
        require_there("tokenizer_name", path)?;
        *path = folders.tokenizer(path)?;
    }
    if let Some(path) = &mut config.data.dataset_name {
        require_there("dataset_name", path)?;
        let config_name = config.data.dataset_config_name.as_deref();
        *path = folders.dataset(path, config_name, &config.data.dataset_split)?;
    }
    Ok(())
}

/// Refuses what is neither here nor a name on the Hub, while the flag is still known.
fn require_there(flag: &'static str, path: &Path) -> Result<(), UsageError> {
    if path.is_dir() || path.is_file() && MAY_BE_FILES.contains(&flag) {
        return Ok(());
    }
    if path.is_file() {
        return Err(UsageError::IsAFile { flag, path: path.to_owned() });
    }
    match name_on_hub(path) {
        Some(_) => Ok(()),
        None => Err(UsageError::NotAFolder { flag, name: path.display().to_string() }),
    }
}

//! `pyrograph train`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pyrograph_hub::RepoName;
use pyrograph_train::{RunEnd, TrainConfig, TrainPlan, Trainer};

use super::plan::Planned;
use super::train_names::{NamesOnHub, bring};
use crate::args::{OutputArgs, TrainArgs};
use crate::hub::name_of;
use crate::model_card::{self, Upload};
use crate::ranks::{Ranks, Warnings};
use crate::report::Outcome;
use crate::run_report::Reporter;
use crate::signals::stop_on_signals;
use crate::{backend, progress};

pub(crate) fn train(args: &TrainArgs, output: &OutputArgs) -> anyhow::Result<Outcome> {
    let (plan, names) = plan_of(args, output)?;
    if args.print_config && args.fit.is_none() {
        return print_config(plan, &names).map(|()| Outcome::Done);
    }
    let planned = Planned::new(args, plan)?;
    if !planned.flags.is_empty() {
        tracing::info!("chosen to fit: {}", planned.flags.join(" "));
    }
    let (plan, budget) = planned.accepted()?;
    if args.print_config {
        return print_config(plan, &names).map(|()| Outcome::Done);
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
    let ranks = Ranks::meet()?;
    let trainer = match ranks.group() {
        None => Trainer::new(plan, &device),
        Some(group) => Trainer::in_group(plan, &device, group),
    };
    let mut trainer = trainer.map_err(|error| ranks.ended_by(error.into()))?.stopped_by(stop);
    if let Some(group) = ranks.group().filter(|_| !ranks.writes()) {
        return Ok(match trainer.run(&mut Warnings { rank: group.rank() })? {
            RunEnd::Finished => Outcome::Done,
            RunEnd::Stopped { .. } => Outcome::Stopped,
        });
    }
    let mut observer = progress::observer(output);
    let mut reporter = Reporter::new(&trainer, format!("{data} on {base}"), &device, observer.as_mut())?;
    let end = trainer.run(&mut reporter)?;
    let sections = reporter.sections().to_vec();
    Ok(match end {
        RunEnd::Finished => {
            let (plan, is_xl) = (trainer.plan(), trainer.bundle().text.second.is_some());
            model_card::write(plan, &sections, is_xl, upload.as_ref().map(|upload| &upload.name));
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

/// The checked plan of the flags and their preset, and what in it is named as on the Hub.
pub(super) fn plan_of(args: &TrainArgs, output: &OutputArgs) -> anyhow::Result<(TrainPlan, NamesOnHub)> {
    args.check()?;
    let mut config = args.config()?;
    config.cache.cache_dir = config.cache.cache_dir.or_else(user_cache_dir);
    let names = bring(&mut config, args, output)?;
    Ok((TrainPlan::try_from(config)?, names))
}

/// Writes a plan as the preset that says all of it.
pub(super) fn print_config(plan: TrainPlan, names: &NamesOnHub) -> anyhow::Result<()> {
    let mut config = TrainConfig::from(plan);
    names.put_into(&mut config);
    let text = config.to_toml()?;
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

//! The model card in a run's output folder, and the upload of both.

use std::path::{Path, PathBuf};
use std::{fs, io, str};

use pyrograph_hub::{
    CardFacts, CardFamily, CardPicture, Hub, HubError, ModelCard, Push, PushFile, RepoName, Visibility,
};
use pyrograph_report::Section;
use pyrograph_train::{Length, TrainPlan};
use pyrograph_weights::{SystemDisk, write_text};

use crate::args::{OutputArgs, PushArgs, TokenArgs, UsageError};
use crate::hub::{self, cached_name, name_of};
use crate::progress;

/// The name that the Hub gives a model card, and every program a folder's description.
const CARD: &str = "README.md";

/// Facts that say where something was on this machine, which is nobody's business.
const PRIVATE_FACTS: [&str; 2] = ["folder", "base"];

/// Writes the card of a finished run, unless somebody has written there what is to stay.
///
/// What cannot be written is told; the ControlNet is there without it.
pub(crate) fn write(plan: &TrainPlan, sections: &[Section], is_xl: bool, repo: Option<&RepoName>) {
    let path = plan.output_dir.join(CARD);
    match fs::read(&path) {
        Ok(there) if !str::from_utf8(&there).is_ok_and(ModelCard::is_untouched) => {
            tracing::info!("{} was changed, or written by another program: it stays", path.display());
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("the run has no model card: cannot read `{}`: {error}", path.display());
        }
        _ => {
            let text = card(plan, sections, is_xl, repo).sealed();
            if let Err(error) = write_text(&plan.output_dir, CARD, &text, &SystemDisk) {
                let causes: Vec<String> = anyhow::Chain::new(&error).map(ToString::to_string).collect();
                tracing::warn!("the run has no model card: {}", causes.join(": "));
            }
        }
    }
}

fn card(plan: &TrainPlan, sections: &[Section], is_xl: bool, repo: Option<&RepoName>) -> ModelCard {
    let base = cached_name(&plan.model.base);
    ModelCard {
        name: repo.map_or_else(|| name_of(&plan.output_dir), RepoName::to_string),
        is_base_on_hub: base.is_some(),
        base_model: base.map_or_else(|| name_of(&plan.model.base), |name| name.to_string()),
        family: if is_xl { CardFamily::StableDiffusionXl } else { CardFamily::StableDiffusion },
        pictures: pictures(plan),
        dataset: cached_name(&plan.data.dir).map(|name| name.to_string()),
        facts: facts(plan, sections),
    }
}

/// The newest validation.
fn pictures(plan: &TrainPlan) -> Vec<CardPicture> {
    let steps = fs::read_dir(plan.output_dir.join("validation")).into_iter().flatten().flatten();
    let grids = steps.map(|step| step.path().join("grid.png")).filter(|grid| grid.is_file());
    let Some(grid) = grids.max() else { return Vec::new() };
    let step = grid.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let pairs = plan.validation.pairs.iter();
    let prompts: Vec<&str> = pairs.map(|pair| &*pair.prompt).collect();
    let caption = if prompts.is_empty() {
        "Held-out samples: the hint, the picture it was made of, and what is drawn.".to_owned()
    } else {
        format!("The hint and what is drawn, for the prompts: {}.", prompts.join("; "))
    };
    vec![CardPicture { caption, path: format!("validation/{step}/grid.png") }]
}

fn facts(plan: &TrainPlan, sections: &[Section]) -> Vec<CardFacts> {
    let length = match plan.length {
        Length::Steps(steps) => format!("{steps} steps"),
        Length::Epochs(epochs) => format!("{epochs} epochs"),
    };
    let data = cached_name(&plan.data.dir);
    let run = [
        ("data set", data.map_or_else(|| name_of(&plan.data.dir), |name| name.to_string())),
        ("length", length),
        ("batch", format!("{} x {} accumulated", plan.data.batch_size, plan.optimizer.accumulation_steps)),
        ("learning rate", plan.optimizer.learning_rate.to_string()),
        ("seed", plan.seed.to_string()),
    ];
    let rows = run.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let mut facts = vec![CardFacts { title: "Run".to_owned(), rows }];
    for Section { title, rows } in sections {
        let rows: Vec<_> = rows
            .iter()
            .filter(|(name, value)| !PRIVATE_FACTS.contains(&&**name) && !value.is_empty())
            .cloned()
            .collect();
        facts.push(CardFacts { title: title.clone(), rows });
    }
    facts
}

/// An upload that is possible: there is a name, and a token that the Hub knows.
pub(crate) struct Upload {
    hub: Hub,
    pub(crate) name: RepoName,
    visibility: Visibility,
}

impl Upload {
    /// Asks the Hub for who is there, so that nothing is trained in vain.
    pub(crate) fn prepare(
        dir: &Path,
        push: &PushArgs,
        token: &TokenArgs,
        output: &OutputArgs,
    ) -> anyhow::Result<Self> {
        let options = hub::options(token);
        if options.token.is_none() {
            return Err(UsageError::NoTokenToPush.into());
        }
        let hub = Hub::new(options)?;
        let user = hub.user(&mut progress::transfers(output))?;
        let given = push.hub_model_id.clone().unwrap_or_else(|| name_of(dir));
        let whole = if given.contains('/') { given.clone() } else { format!("{user}/{given}") };
        let name = RepoName::parse(&whole).ok_or(UsageError::NotAName { name: given })?;
        let visibility = if push.hub_private_repo { Visibility::Private } else { Visibility::Public };
        Ok(Self { hub, name, visibility })
    }

    /// Uploads the ControlNet in a folder with its card and the pictures in that, as one commit.
    pub(crate) fn push(&self, dir: &Path, output: &OutputArgs) -> Result<(), HubError> {
        let push = Push {
            name: &self.name,
            visibility: self.visibility,
            message: "End of training",
            files: files(dir)?,
        };
        let page = self.hub.push(&push, &mut progress::transfers(output))?;
        tracing::info!("uploaded: {page}");
        Ok(())
    }
}

/// What others need of an output folder: no checkpoints, no logs.
fn files(dir: &Path) -> Result<Vec<PushFile>, HubError> {
    let mut paths = weights_in(dir, "");
    if dir.join("unet").is_dir() {
        paths.extend(weights_in(dir, "unet/"));
    }
    if let Ok(card) = fs::read(dir.join(CARD)) {
        paths.extend(ModelCard::pictures_of(&String::from_utf8_lossy(&card)).into_iter().map(str::to_owned));
        paths.push(CARD.to_owned());
    }
    let local = |path: &str| path.split('/').fold(dir.to_owned(), |local: PathBuf, part| local.join(part));
    let files = paths.into_iter().map(|path| PushFile { local: local(&path), path });
    Ok(files.filter(|file| file.local.is_file()).collect())
}

/// Config and weights in a folder; the folder's path in the repository ends with a slash.
fn weights_in(dir: &Path, folder: &str) -> Vec<String> {
    let names = fs::read_dir(dir.join(folder)).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let is_wanted = |name: &String| {
        name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
    };
    let mut found: Vec<String> = names.filter(is_wanted).map(|name| format!("{folder}{name}")).collect();
    found.sort();
    found
}

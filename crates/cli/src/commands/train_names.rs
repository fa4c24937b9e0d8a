//! Names on the Hub in the settings of a run.

use std::path::{Path, PathBuf};

use pyrograph_hub::Cached;
use pyrograph_train::{TrainConfig, TrainPlan};

use crate::args::{HubArgs, OutputArgs, TrainArgs, UsageError};
use crate::hub::{CONTROLNET, Folders, name_on_hub};

/// What may be one file instead of a folder.
const MAY_BE_FILES: [&str; 4] = [
    "pretrained_model_name_or_path",
    "pretrained_vae_model_name_or_path",
    "controlnet_model_name_or_path",
    "dataset_name",
];

/// What of a config is named as on the Hub.
#[derive(Debug)]
pub(super) struct NamesOnHub {
    base: Option<PathBuf>,
    vae: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
    controlnet: Option<PathBuf>,
    data: Option<PathBuf>,
    revision: Option<String>,
}

impl NamesOnHub {
    fn of(config: &TrainConfig) -> Self {
        let name = |path: &Option<PathBuf>| path.clone().filter(|path| name_on_hub(path).is_some());
        let model = &config.model;
        Self {
            base: name(&model.pretrained_model_name_or_path),
            vae: name(&model.pretrained_vae_model_name_or_path),
            tokenizer: name(&model.tokenizer_name),
            controlnet: name(&model.controlnet_model_name_or_path),
            data: name(&config.data.dataset_name),
            revision: model.revision.clone(),
        }
    }

    /// Whether any of them has the revision of a config.
    fn have_revision(&self) -> bool {
        self.base.is_some() || self.vae.is_some() || self.tokenizer.is_some()
    }

    /// Names the commit instead of the branch or tag, if all that have the revision are at the same one.
    fn pin(&mut self, config: &TrainConfig) {
        let model = &config.model;
        let folders = [
            (&self.base, &model.pretrained_model_name_or_path),
            (&self.vae, &model.pretrained_vae_model_name_or_path),
            (&self.tokenizer, &model.tokenizer_name),
        ];
        let of_names = folders.into_iter().filter(|(name, _)| name.is_some());
        let mut commits: Vec<Option<String>> =
            of_names.map(|(_, folder)| Some(Cached::of(folder.as_deref()?)?.commit)).collect();
        commits.dedup();
        if let (Some(revision), [Some(commit)]) = (&mut self.revision, &commits[..]) {
            revision.clone_from(commit);
        }
    }

    /// Replaces the folders that the names have led to by the names.
    pub(super) fn put_into(&self, config: &mut TrainConfig) {
        let model = &mut config.model;
        for (name, folder) in [
            (&self.base, &mut model.pretrained_model_name_or_path),
            (&self.vae, &mut model.pretrained_vae_model_name_or_path),
            (&self.tokenizer, &mut model.tokenizer_name),
            (&self.controlnet, &mut model.controlnet_model_name_or_path),
        ] {
            if name.is_some() {
                folder.clone_from(name);
            }
        }
        if self.data.is_some() {
            config.data.train_data_dir = None;
            config.data.dataset_name.clone_from(&self.data);
        }
        if self.have_revision() {
            config.model.revision.clone_from(&self.revision);
        }
    }
}

/// Replaces names on the Hub by the folders of the cache that they are brought to; returns the names.
pub(super) fn bring(
    config: &mut TrainConfig,
    train: &TrainArgs,
    output: &OutputArgs,
) -> anyhow::Result<NamesOnHub> {
    let mut names = NamesOnHub::of(config);
    let args = HubArgs { revision: config.model.revision.take(), token: train.hub.token.clone() };
    let is_asked = names.have_revision() || names.controlnet.is_some() || names.data.is_some();
    if args.revision.is_some() && !names.have_revision() {
        tracing::warn!("--revision has no effect: base model, VAE and tokenizer are not named as on the Hub");
    }
    if args.token.hub_token.is_some() && !is_asked && !train.push_to_hub {
        tracing::warn!("--hub_token has no effect: nothing is asked of the Hub");
    }
    if is_asked {
        // Mistakes in the other settings are told before gigabytes are downloaded.
        TrainPlan::try_from(config.clone())?;
    }
    let folders = Folders::new(&args, config.model.allow_pickle.into(), output);
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
    names.pin(config);
    Ok(names)
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

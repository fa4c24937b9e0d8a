//! Names of the Hub where folders are taken.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pyrograph_hub::{
    Cached, Hub, HubError, HubOptions, Network, Patience, Pickles, RepoKind, RepoName, Token, Wanted,
};

use crate::args::{HubArgs, OutputArgs, TokenArgs};
use crate::progress;

/// Folders for what flags name: of names on the Hub those of the cache, and what is no name as it is.
pub(crate) struct Folders<'a> {
    args: &'a HubArgs,
    pickles: Pickles,
    output: &'a OutputArgs,
    hub: OnceCell<Hub>,
}

impl<'a> Folders<'a> {
    pub(crate) fn new(
        args: &'a HubArgs,
        pickles: pyrograph_weights::Pickles,
        output: &'a OutputArgs,
    ) -> Self {
        let pickles = match pickles {
            pyrograph_weights::Pickles::Refused => Pickles::Refused,
            pyrograph_weights::Pickles::Allowed => Pickles::Allowed,
        };
        Self { args, pickles, output, hub: OnceCell::new() }
    }

    /// The same where pickles are never read.
    pub(crate) fn without_pickles(args: &'a HubArgs, output: &'a OutputArgs) -> Self {
        Self { args, pickles: Pickles::Refused, output, hub: OnceCell::new() }
    }

    /// A whole model, of whose parts those in `without` are not needed.
    pub(crate) fn base(
        &self,
        path: &Path,
        variant: Option<&str>,
        without: &[&'static str],
    ) -> anyhow::Result<PathBuf> {
        let variant = variant.map(str::to_owned);
        let wanted = Wanted::Pipeline { variant, without: without.to_vec(), pickles: self.pickles };
        self.folder(path, RepoKind::Model, &wanted)
    }

    /// One part of a model, such as `vae`.
    pub(crate) fn part(
        &self,
        path: &Path,
        folder: &'static str,
        variant: Option<&str>,
    ) -> anyhow::Result<PathBuf> {
        let wanted = Wanted::Part { folder, variant: variant.map(str::to_owned), pickles: self.pickles };
        self.folder(path, RepoKind::Model, &wanted)
    }

    /// A whole model or, if it is none, a part of one.
    pub(crate) fn model(&self, path: &Path, variant: Option<&str>) -> anyhow::Result<PathBuf> {
        match self.base(path, variant, &[]) {
            Err(error) if matches!(error.downcast_ref(), Some(HubError::NotAPipeline { .. })) => {
                self.part(path, CONTROLNET, variant)
            }
            done => done,
        }
    }

    /// A tokenizer.
    pub(crate) fn tokenizer(&self, path: &Path) -> anyhow::Result<PathBuf> {
        self.folder(path, RepoKind::Model, &Wanted::Tokenizer)
    }

    /// The samples of a data set.
    pub(crate) fn dataset(&self, path: &Path, config: Option<&str>, split: &str) -> anyhow::Result<PathBuf> {
        let wanted = Wanted::Dataset { config: config.map(str::to_owned), split: split.to_owned() };
        self.folder(path, RepoKind::Dataset, &wanted)
    }

    fn folder(&self, path: &Path, kind: RepoKind, wanted: &Wanted) -> anyhow::Result<PathBuf> {
        let Some(name) = name_on_hub(path) else { return Ok(path.to_owned()) };
        // A ControlNet and a data set have revisions of their own.
        let has_revision = match wanted {
            Wanted::Part { folder, .. } => *folder != CONTROLNET,
            Wanted::Dataset { .. } => false,
            _ => true,
        };
        let revision = self.args.revision.as_deref().filter(|_| has_revision);
        let mut tell = progress::transfers(self.output);
        self.hub()?.fetch(kind, &name, revision, wanted, &mut tell).map_err(|error| {
            // A repository that is there shows that its name was meant.
            let may_be_a_path = error.is_of_the_network()
                || matches!(
                    error,
                    HubError::NotCached { .. } | HubError::NoToken { .. } | HubError::NoRepo { .. }
                );
            let error = anyhow::Error::new(error);
            if may_be_a_path {
                error.context(format!("nothing is at `{name}` here, so it is taken for a name on the Hub"))
            } else {
                error
            }
        })
    }

    fn hub(&self) -> Result<&Hub, HubError> {
        if let Some(hub) = self.hub.get() {
            return Ok(hub);
        }
        let hub = Hub::new(options(&self.args.token))?;
        Ok(self.hub.get_or_init(|| hub))
    }
}

/// The usual folder of a ControlNet in a pipeline.
pub(crate) const CONTROLNET: &str = "controlnet";

/// The name on the Hub that a path is, if there is nothing at the path.
pub(crate) fn name_on_hub(path: &Path) -> Option<RepoName> {
    if path.exists() { None } else { RepoName::parse(path.to_str()?) }
}

/// The name on the Hub of what is in the cache.
pub(crate) fn cached_name(folder: &Path) -> Option<RepoName> {
    Cached::of(folder).map(|cached| cached.name)
}

/// What a folder is called: on the Hub, if it is in the cache, or by itself.
pub(crate) fn name_of(folder: &Path) -> String {
    if let Some(name) = cached_name(folder) {
        return name.short().to_owned();
    }
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

/// The settings that all programs of the Hub share.
///
/// Source: `huggingface_hub` 2.4.0, `constants.py`.
#[expect(clippy::disallowed_methods, reason = "the command line may read the environment")]
pub(crate) fn options(args: &TokenArgs) -> HubOptions {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let folder = |name: &str| variable(name).map(PathBuf::from);
    let caches = || folder("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")));
    let home = folder("HF_HOME")
        .or_else(|| Some(caches()?.join("huggingface")))
        .unwrap_or_else(|| PathBuf::from(".huggingface"));
    let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
    let token_of_file = || std::fs::read_to_string(token_file).ok().and_then(|text| Token::new(&text));
    let is_on = |text: String| ["1", "on", "yes", "true"].contains(&&*text.to_lowercase());
    let usual = HubOptions::new(folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")));
    let timeout = variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.parse().ok()).filter(|n| *n > 0);
    HubOptions {
        endpoint: variable("HF_ENDPOINT").unwrap_or(usual.endpoint),
        token: args.hub_token.clone().or_else(|| Token::new(&variable("HF_TOKEN")?)).or_else(token_of_file),
        network: if variable("HF_HUB_OFFLINE").is_some_and(is_on) {
            Network::Offline
        } else {
            Network::Online
        },
        patience: Patience {
            stall: timeout.map_or(usual.patience.stall, Duration::from_secs),
            ..usual.patience
        },
        cache_dir: usual.cache_dir,
    }
}

//! What can go wrong between a folder and a picture.

use std::path::PathBuf;

use pyrograph_diffusion::DiffusionError;
use pyrograph_text::TextError;
use pyrograph_weights::WeightsError;

/// A model that cannot be loaded, or a request that does not fit it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A folder or file of weights.
    #[error("cannot load the {component}")]
    Weights {
        /// Which model of the bundle.
        component: &'static str,
        /// What is wrong with it.
        #[source]
        source: WeightsError,
    },
    /// A `config.json` that describes no model we can build.
    #[error("cannot build the {component} from its config.json")]
    Config {
        /// Which model of the bundle.
        component: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tokenizer's files.
    #[error("cannot load the tokenizer")]
    Tokenizer(#[source] TextError),
    /// The scheduler's config, or a number of steps that it cannot make.
    #[error("cannot use the scheduler")]
    Scheduler(#[source] DiffusionError),
    /// Two models that do not belong together.
    #[error("the {left} and the {right} do not belong together: `{key}` is {left_value} and {right_value}")]
    Mismatch {
        /// One model.
        left: &'static str,
        /// The other.
        right: &'static str,
        /// What differs.
        key: &'static str,
        /// In one.
        left_value: String,
        /// In the other.
        right_value: String,
    },
    /// A folder to write a model into that holds something already, or is none.
    #[error("`{}` already exists and is not an empty folder", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A folder or file that cannot be read or written.
    #[error("cannot access `{}`", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not one prompt for each picture.
    #[error("{n_prompts} prompts for {n_hints} hints")]
    PromptCount {
        /// Prompts given.
        n_prompts: usize,
        /// Hints given.
        n_hints: usize,
    },
    /// Latents of another size than the picture needs.
    #[error("the latents have shape {found:?}, but this hint needs {expected:?}")]
    LatentsShape {
        /// `[pictures, channels, height, width]`.
        expected: Vec<usize>,
        /// What was given.
        found: Vec<usize>,
    },
}

impl PipelineError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Weights { component, source } => source.hint().or_else(|| kind_hint(component, source)),
            Self::Config { .. } => {
                Some("this version trains and runs Stable Diffusion 1.x, 2.x and XL in diffusers' layout".to_owned())
            }
            Self::Tokenizer(_) => Some("the tokenizer and the text encoder must come from the same model".to_owned()),
            Self::Scheduler(source) => source.hint(),
            Self::NotEmpty { .. } => Some("give a folder that does not exist yet".to_owned()),
            Self::Io { .. } => None,
            Self::Mismatch { right: "ControlNet", .. } => {
                Some("use a ControlNet that was trained for this base model".to_owned())
            }
            Self::Mismatch { .. } => Some("the parts of the base folder come from different models".to_owned()),
            Self::PromptCount { .. } => Some("give one prompt for each hint".to_owned()),
            Self::LatentsShape { .. } => {
                Some("latents are an eighth of the picture's height and width; omit them to draw them from the seed".to_owned())
            }
        }
    }
}

/// What a folder of the right kind looks like.
fn kind_hint(component: &str, source: &WeightsError) -> Option<String> {
    let WeightsError::WrongKind { .. } = source else { return None };
    let hint = match component {
        "base model" => {
            "a base model is a Stable Diffusion folder with `model_index.json`, as diffusers' `save_pretrained` \
             writes it"
        }
        "ControlNet" => {
            "a ControlNet is a folder with a `config.json` of `ControlNetModel` beside its weights"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

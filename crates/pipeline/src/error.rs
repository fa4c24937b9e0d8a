//! What can go wrong between a folder and a picture.

use std::path::PathBuf;

use pyrograph_diffusion::DiffusionError;
use pyrograph_text::TextError;
use pyrograph_weights::WeightsError;

use crate::Family;

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
    /// A file without a config, whose tensors make no model we can build.
    #[error("cannot tell from its tensors how the {component} is built")]
    Shapes {
        /// Which model.
        component: &'static str,
        /// What is wrong with them.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tokenizer's files.
    #[error("cannot load the tokenizer")]
    Tokenizer(#[source] TextError),
    /// The scheduler's config, or a number of steps that it cannot make.
    #[error("cannot sample")]
    Scheduler(#[source] DiffusionError),
    /// A ControlNet of another family than the base model.
    #[error("this ControlNet is for {family}: cross-attention {context_dim}, the base has {base_dim}")]
    OtherFamily {
        /// The ControlNet's.
        family: Family,
        /// The width of prompts that it attends to.
        context_dim: usize,
        /// That of the base model.
        base_dim: usize,
    },
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
    /// A model that has the names already that it should get.
    #[error("`{}` has these names already", path.display())]
    SameNames {
        /// The model.
        path: PathBuf,
    },
    /// A name for another kind of output.
    #[error("`{}` is no name for this output, which is {needed}", path.display())]
    OutputName {
        /// The name.
        path: PathBuf,
        /// What is written.
        needed: &'static str,
    },
    /// A file name by which other programs take a ControlNet for one of another kind.
    #[error("`{}` would be misread by sd-webui-controlnet, which tells kinds by `shuffle` and `instant_id` in names", path.display())]
    MisreadName {
        /// The name.
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
    /// Nothing to draw.
    #[error("there is no prompt")]
    NoPrompt,
    /// Something that is not there once for each picture.
    #[error("{found} {what} for {n_pictures} prompts")]
    Count {
        /// What it is.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many pictures.
        n_pictures: usize,
    },
    /// A picture that is not made of whole latents.
    #[error("{width}x{height} px is no size for a picture: width and height must divide by {factor}")]
    Size {
        /// In pixels.
        height: usize,
        /// In pixels.
        width: usize,
        /// Pixels per latent.
        factor: usize,
    },
    /// A tensor of another shape than the pictures'.
    #[error("the {what} have shape {found:?}, but these pictures need {expected:?}")]
    Shape {
        /// What it is.
        what: &'static str,
        /// `[pictures, channels, height, width]`.
        expected: [usize; 4],
        /// What was given.
        found: [usize; 4],
    },
    /// A setting of a picture's text that cannot be repeated.
    #[error("`{name}: {value}` cannot be repeated; supported: {supported}")]
    Infotext {
        /// The setting.
        name: String,
        /// Its value.
        value: String,
        /// What may stand there.
        supported: String,
    },
    /// A ControlNet that acts never, or before the beginning or after the end.
    #[error("a ControlNet cannot act from {start} to {end} of the steps")]
    ControlWindow {
        /// What was given.
        start: f64,
        /// What was given.
        end: f64,
    },
    /// More layers left out than there are.
    #[error("clip skip {clip_skip} leaves out more layers than the text encoder has")]
    ClipSkip {
        /// Layers to leave out.
        clip_skip: usize,
        /// As many as there are.
        largest: usize,
    },
    /// A text for an encoder that the model does not have.
    #[error("the base model has one text encoder and cannot read a second prompt")]
    OneEncoder,
    /// A part of the way that is to begin with nothing.
    #[error("there are no latents to begin with at {start} of the way")]
    NoLatents {
        /// Where it is to begin.
        start: f64,
    },
    /// A model for inpainting that is asked for something else.
    #[error("the base model is for inpainting: its UNet must be given a picture and a mask")]
    NeedsMask,
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
            Self::Shapes { .. } => Some(
                "what shapes do not tell is taken to be as in Stable Diffusion 1.x, 2.x and XL; give the folder with the \
                 model's config.json"
                    .to_owned(),
            ),
            Self::Tokenizer(_) => Some("the tokenizer and the text encoder must come from the same model".to_owned()),
            Self::Scheduler(source) => source.hint(),
            Self::NotEmpty { .. } => Some("give a folder that does not exist yet".to_owned()),
            Self::Io { .. } | Self::OutputName { .. } => None,
            Self::SameNames { .. } => Some("leave out `--to`, or ask for the other names".to_owned()),
            Self::MisreadName { .. } => Some("choose another file name".to_owned()),
            Self::OtherFamily { family, base_dim, .. } => Some(match Family::of_context(*base_dim) {
                Some(base) => format!("use a ControlNet for {base}, or a base model of {family}"),
                None => "use a ControlNet that was trained for this base model".to_owned(),
            }),
            Self::Mismatch { left: "base model", .. } => {
                Some("use a VAE for the base model's family: others scale their latents otherwise".to_owned())
            }
            Self::Mismatch { right: "VAE", .. } => {
                Some("use the VAE that the base model was trained with, or a finetuned one of its family".to_owned())
            }
            Self::Mismatch { right: "ControlNet", .. } => {
                Some("use a ControlNet that was trained for this base model".to_owned())
            }
            Self::Mismatch { .. } => Some("the parts of the base folder come from different models".to_owned()),
            Self::Infotext { .. } => Some("give the flag for it: flags go before what the picture says".to_owned()),
            Self::NoPrompt => Some("give a prompt; it may be empty".to_owned()),
            Self::Count { what, .. } => Some(format!("give as many {what} as prompts")),
            Self::Size { height, width, factor } => {
                let nearest = |side: &usize| (side / factor * factor).max(*factor);
                Some(format!("{}x{} would do", nearest(width), nearest(height)))
            }
            Self::Shape { what: "latents", .. } => {
                Some("latents are an eighth of the picture's height and width; omit them to draw them from the seed".to_owned())
            }
            Self::Shape { what, .. } => Some(format!("give {what} of the pictures' number and size")),
            Self::ControlWindow { .. } => {
                Some("the start lies in [0, 1), the end in (0, 1] and after the start; 0 and 1 are the whole way".to_owned())
            }
            Self::ClipSkip { largest, .. } => Some(format!("it is 0 to {largest} for this model; 1 is usual")),
            Self::OneEncoder => Some("leave out the second prompts: only SDXL has two encoders".to_owned()),
            Self::NoLatents { .. } => Some("give the latents that the part before ended with".to_owned()),
            Self::NeedsMask => Some("use a base model with 4 channels, or give a picture and a mask".to_owned()),
        }
    }
}

/// What a folder of the right kind looks like.
fn kind_hint(component: &str, source: &WeightsError) -> Option<String> {
    let WeightsError::WrongKind { .. } = source else { return None };
    let hint = match component {
        "base model" => {
            "a base model is a Stable Diffusion folder with `model_index.json`, as diffusers' `save_pretrained` \
             writes it, or one file with UNet, VAE and text encoder"
        }
        "ControlNet" => {
            "a ControlNet is a folder with a `config.json` of `ControlNetModel` beside its weights, or a file with \
             diffusers' names or the original ones"
        }
        "VAE" => {
            "a VAE is a folder with a `config.json` of `AutoencoderKL` beside its weights, a file with the original \
             names, or a model that has a VAE"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

//! A loaded Stable Diffusion model and what can be drawn with it and a ControlNet.

mod base;
mod bundle;
mod compatible;
mod configs;
mod controlnet_file;
mod convert;
mod differences;
mod embedded;
mod encoders;
mod error;
mod generate;
mod infotext;
mod init_base;
mod noise;
mod precision;
mod prompts;
mod random;
mod single_file;
mod tiny;

pub use bundle::{
    Bundle, BundleOptions, NoNegative, load_controlnet, load_unet, save_controlnet, save_controlnet_as,
    save_unet,
};
pub use compatible::Family;
pub use configs::{BundleConfigs, controlnet_config, is_xl};
pub use convert::{ConvertOptions, Converted, convert};
pub use differences::{Difference, differences};
pub use error::PipelineError;
pub use generate::{Control, GivenEmbeddings, Originals, Request, StepEnd, denoise, generate, generate_with};
pub use infotext::{ControlUnit, INFOTEXT_KEYWORD, Infotext, ScheduleType};
pub use init_base::{BasePreset, init_base};
pub use noise::standard_normal;
pub use precision::Precision;
pub use prompts::{EncodeOptions, Prompt, PromptEmbeddings, PromptSyntax, TextEncoder, TextEncoders};
pub use pyrograph_diffusion::{SamplerKind, Steps};
pub use pyrograph_unet::{Conditioning, ControlMode, MicroConditioning, Naming};
pub use pyrograph_vae::{AutoencoderKl, DiagonalGaussian, Passes, Tiling};
pub use tiny::{TinyBase, TinyModels};

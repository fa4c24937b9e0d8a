//! UNet2DCondition and ControlNet as Burn modules, equal to diffusers' own.
//!
//! A model is made in two steps: its `config.json` ([`UnetJson`], [`ControlNetJson`]) becomes a typed config
//! ([`UnetConfig`], [`ControlNetConfig`]) that can only describe a valid model, and that makes the module.
//! Weights are loaded by whoever composes the models; [`RENAMES`] says how a module's paths are spelt in
//! diffusers' files.

mod checkpoint;
mod conditioning;
mod config;
mod control;
mod diffusers;
mod error;
mod flops;
mod hint;
mod keys;
mod ldm;
mod resample;
mod resnet;
mod shapes;
mod stage;
mod time;
mod transformer;
mod unet;

pub use checkpoint::{ControlTape, Decoded};
pub use conditioning::{AddedConditioning, Conditioning, ConditioningError, MicroConditioning};
pub use config::{
    ChannelOrder, ControlNetConfig, HintConfig, Pooling, Projection, Stage, StageKind, TextTimeConfig,
    TimeConfig, TransformerDepth, UnetConfig,
};
pub use control::{ControlMode, ControlNet, Residuals};
pub use diffusers::{ControlNetJson, EncoderJson, PerStage, TransformerLayers, UnetJson};
pub use error::ConfigError;
pub use flops::PassSize;
pub use keys::{ParameterGroup, RENAMES};
pub use ldm::OriginalNames;
pub use shapes::{Naming, ShapeOf};
pub use unet::{Encoded, Unet};

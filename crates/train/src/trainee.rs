//! What a run trains.

use burn::prelude::*;
use pyrograph_pipeline::Bundle;
use pyrograph_unet::{ControlNet, Unet};

/// A ControlNet and, unless the base model is locked, the decoder of its UNet.
///
/// Source: the original ControlNet code, `cldm/cldm.py`, `configure_optimizers`.
#[derive(Module, Debug)]
pub(crate) struct Trainee {
    pub(crate) controlnet: ControlNet,
    /// Only its decoder is trainable.
    pub(crate) unet: Option<Unet>,
}

/// The paths of a UNet's parameters in its decoder begin so.
pub(crate) const DECODER: [&str; 3] = ["up_blocks.", "conv_norm_out.", "conv_out."];

/// The path of the ControlNet's parameters begins so.
const CONTROLNET: &str = "controlnet.";

impl Trainee {
    pub(crate) fn new(controlnet: ControlNet, bundle: &Bundle, is_locked: bool) -> Self {
        Self { controlnet, unet: (!is_locked).then(|| bundle.unet.clone().with_trainable_decoder()) }
    }

    /// The UNet to decode with.
    pub(crate) fn decoder<'a>(&'a self, bundle: &'a Bundle) -> &'a Unet {
        self.unet.as_ref().unwrap_or(&bundle.unet)
    }

    /// Trained parameters.
    pub(crate) fn n_trained(&self) -> usize {
        self.controlnet.num_params() + self.unet.as_ref().map_or(0, Unet::n_decoder_params)
    }

    /// The path of a parameter in the ControlNet, if it is one of its own.
    pub(crate) fn path_in_controlnet(path: &str) -> Option<&str> {
        path.strip_prefix(CONTROLNET)
    }
}

//! The element types of a bundle's networks.

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::DType;
use pyrograph_unet::ControlNet;

use crate::{Bundle, BundleConfigs, TextEncoder, TextEncoders};

/// In which floating-point formats frozen weights are kept and networks compute.
///
/// Vectors (biases and norms) stay in f32, and so does what VAE and text encoder compute: neither is worth what
/// rounding costs. Norms, softmax and losses are computed in f32 whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Of the matrices and kernels of UNet, VAE and text encoder, but see [`BundleConfigs::vae_weights`].
    pub weights: DType,
    /// Of the activations of UNet and ControlNet.
    pub compute: DType,
}

impl Precision {
    /// 32 bits everywhere.
    pub const F32: Self = Self { weights: DType::F32, compute: DType::F32 };

    /// A ControlNet that is not trained, with weights like the bundle's.
    #[must_use]
    pub fn of_controlnet(self, controlnet: ControlNet) -> ControlNet {
        in_weights(controlnet, self.weights)
    }
}

impl Default for Precision {
    fn default() -> Self {
        Self::F32
    }
}

impl BundleConfigs {
    /// The format of the VAE's matrices and kernels. SDXL's VAE stays in f32, because it is said to overflow in half
    /// precision, unless its config says that it does not.
    ///
    /// Source: diffusers `train_controlnet_sdxl.py` (0.42), which keeps the base's VAE in f32 and casts any other; and
    /// `force_upcast`, by which its pipeline decides.
    #[must_use]
    pub fn vae_weights(&self, precision: Precision) -> DType {
        let is_xl = self.text.len() > 1;
        if is_xl && self.vae.force_upcast { DType::F32 } else { precision.weights }
    }
}

impl Bundle {
    /// The same networks in another precision.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        let vae_weights = self.configs().vae_weights(precision);
        Self {
            unet: in_weights(self.unet, precision.weights),
            vae: in_weights(self.vae, vae_weights),
            text: text_in_weights(self.text, precision.weights),
            precision,
            ..self
        }
    }
}

pub(crate) fn text_in_weights(text: TextEncoders, weights: DType) -> TextEncoders {
    let cast = |encoder: TextEncoder| TextEncoder {
        model: encoder.model.map(|model| in_weights(model, weights)),
        ..encoder
    };
    TextEncoders { first: cast(text.first), second: text.second.map(cast) }
}

/// A network with its matrices and kernels in a format.
pub(crate) fn in_weights<M: Module>(network: M, weights: DType) -> M {
    if weights == DType::F32 {
        // As every network is read.
        return network;
    }
    network.map(&mut CastWeights { dtype: weights })
}

struct CastWeights {
    dtype: DType,
}

impl ModuleMapper for CastWeights {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D == 1 { param } else { param.map(|weight| weight.cast(self.dtype)) }
    }
}

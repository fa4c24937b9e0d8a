//! What decides a budget beside the plan: the networks' configs and the size of the data set.

use std::collections::HashSet;

use burn::prelude::*;
use pyrograph_data::{Data, load_hint_for_inference};
use pyrograph_pipeline::{BundleConfigs, controlnet_config};
use pyrograph_unet::ControlNetConfig;

use crate::TrainError;
use crate::optim::Shapes;
use crate::plan::{ControlNetSource, TrainPlan, ValidationPair};
use crate::trainer::hint_config;

/// What the autoencoder is called.
pub(super) const VAE: &str = "VAE";

/// What the denoiser is called.
pub(super) const UNET: &str = "UNet";

/// What each text encoder is called.
pub(super) const TEXT: &str = "text encoder";

/// The networks of a run and how much data it has.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunSize {
    /// The frozen networks.
    pub configs: BundleConfigs,
    /// The trained one.
    pub controlnet: ControlNetConfig,
    /// Pictures that are trained on or evaluated.
    pub n_samples: usize,
    /// Different captions of them; `None` if they are not known before they are read.
    pub n_captions: Option<usize>,
    /// Pixels of the largest validation picture; 0 if none is drawn.
    pub picture_pixels: usize,
    pub(super) controlnet_shapes: Shapes,
    pub(super) frozen_shapes: Vec<(&'static str, Shapes)>,
}

impl RunSize {
    /// Reads the configs and the data set's list that a plan names; no weight, and of the pictures those to validate with.
    /// Nothing is allocated on the device, which need not be there.
    ///
    /// # Errors
    /// [`TrainError`] if one of them is missing or of another kind.
    pub fn read(plan: &TrainPlan, device: &Device) -> Result<Self, TrainError> {
        let data = plan.open_data()?;
        let configs =
            BundleConfigs::open(&plan.model.base, &plan.model.options()).map_err(TrainError::Pipeline)?;
        Self::of(configs, &data, plan, device)
    }

    /// The same with configs that are known already.
    ///
    /// # Errors
    /// [`TrainError`] if the plan's ControlNet or a validation picture is missing or does not fit.
    pub fn of(
        configs: BundleConfigs,
        data: &Data,
        plan: &TrainPlan,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let controlnet = match &plan.model.controlnet {
            ControlNetSource::Folder(path) => {
                controlnet_config(path, plan.model.pickles).map_err(TrainError::Pipeline)?
            }
            ControlNetSource::FromUnet { hint_channels } => ControlNetConfig {
                hint: hint_config(hint_channels.as_deref(), configs.vae.pixels_per_latent())?,
                ..ControlNetConfig::for_unet(&configs.unet)
            },
        };
        configs.check_controlnet(&controlnet).map_err(TrainError::Pipeline)?;
        let n_captions = data
            .samples()
            .map(|samples| samples.iter().flat_map(|sample| &sample.captions).collect::<HashSet<_>>().len());
        let (n_samples, picture_pixels) = (data.n_samples(), picture_pixels(plan)?);
        Ok(Self { n_samples, n_captions, picture_pixels, ..Self::without_data(configs, controlnet, device) })
    }

    pub(super) fn without_data(
        configs: BundleConfigs,
        controlnet: ControlNetConfig,
        device: &Device,
    ) -> Self {
        // Weights are lazy.
        let controlnet_shapes = Shapes::of(&controlnet.init(device));
        let mut frozen_shapes = vec![
            (UNET, Shapes::of(&configs.unet.init(device))),
            (VAE, Shapes::of(&configs.vae.init(device))),
        ];
        frozen_shapes.extend(configs.text.iter().map(|text| (TEXT, Shapes::of(&text.init(device)))));
        Self {
            configs,
            controlnet,
            n_samples: 0,
            n_captions: Some(0),
            picture_pixels: 0,
            controlnet_shapes,
            frozen_shapes,
        }
    }
}

/// A picture is as large as its hint, and that of an evaluation sample as large as it is trained on.
fn picture_pixels(plan: &TrainPlan) -> Result<usize, TrainError> {
    let mut largest = 0;
    for ValidationPair { image: path, .. } in &plan.validation.pairs {
        let hint = load_hint_for_inference(path, None)
            .map_err(|source| TrainError::ValidationImage { path: path.clone(), source })?;
        largest = largest.max(hint.width as usize * hint.height as usize);
    }
    let n_evaluated = plan.evaluation.map_or(0, |evaluation| evaluation.n_samples.get());
    let draws_samples = plan.validation.pairs.is_empty() && plan.validation.n_samples.min(n_evaluated) > 0;
    Ok(if draws_samples { plan.data.transform.side.get().pow(2) } else { largest })
}

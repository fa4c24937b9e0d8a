//! The models that draw.

use burn::prelude::*;
use pyrograph_pipeline::{
    Bundle, BundleConfigs, BundleOptions, Passes, Tiling, controlnet_config, load_controlnet,
};
use pyrograph_unet::ControlNet;

use crate::args::GenerateArgs;
use crate::backend;

/// Diffusers' guidance for Stable Diffusion 1.x and 2.x, and for SDXL.
const GUIDANCE_SCALES: [f64; 2] = [7.5, 5.0];

/// A base and its ControlNets.
#[derive(Debug)]
pub(super) struct Models {
    pub(super) bundle: Bundle,
    pub(super) nets: Vec<ControlNet>,
}

impl Models {
    /// Loads what the flags name. What does not fit together is found by the configs, before a weight is read.
    pub(super) fn open(args: &GenerateArgs, device: &Device) -> anyhow::Result<Self> {
        let models = &args.models;
        let precision = args.memory.precision.precision();
        backend::require_precision(device, precision)?;
        let configs = BundleConfigs::open(&models.base, models.vae.as_deref())?;
        for path in &models.controlnet {
            configs.check_controlnet(&controlnet_config(path)?)?;
        }
        let (mut nets, mut net_configs) = (Vec::new(), Vec::new());
        for path in &models.controlnet {
            let (net, config) = load_controlnet(path, models.pickles.policy(), device)?;
            nets.push(precision.of_controlnet(net));
            net_configs.push(config);
        }
        let options = BundleOptions {
            unet: models.unet.as_deref(),
            vae: models.vae.as_deref(),
            pickles: models.pickles.policy(),
            precision,
            ..BundleOptions::default()
        };
        let mut bundle = Bundle::open(&models.base, &options, device)?;
        bundle.vae_passes = Passes {
            slicing: args.memory.vae_slicing,
            tiling: args.memory.vae_tiling.then(|| Tiling::of(&bundle.vae_config)),
        };
        if args.steps.karras_sigmas {
            if !args.steps.scheduler.knows_karras_sigmas() {
                tracing::warn!("--karras_sigmas has no effect on {}", args.steps.scheduler);
            }
            bundle.scheduler.use_karras_sigmas = Some(true);
        }
        for config in &net_configs {
            bundle.check_controlnet(config)?;
        }
        Ok(Self { bundle, nets })
    }

    /// The guidance if no flag says another.
    pub(super) fn usual_guidance_scale(&self) -> f64 {
        GUIDANCE_SCALES[usize::from(self.bundle.text.second.is_some())]
    }
}

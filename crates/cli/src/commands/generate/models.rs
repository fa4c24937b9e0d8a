//! The models that draw.

use burn::prelude::*;
use pyrograph_pipeline::{
    Bundle, BundleConfigs, BundleOptions, Passes, Tiling, controlnet_config, load_controlnet,
};
use pyrograph_unet::ControlNet;

use crate::args::{GenerateArgs, OutputArgs};
use crate::backend;
use crate::hub::{CONTROLNET, Folders};

/// Diffusers' guidance for Stable Diffusion 1.x and 2.x, and for SDXL.
const GUIDANCE_SCALES: [f64; 2] = [7.5, 5.0];

/// A base and its ControlNets.
#[derive(Debug)]
pub(super) struct Models {
    pub(super) bundle: Bundle,
    pub(super) nets: Vec<ControlNet>,
}

/// Replaces names on the Hub by the folders of the cache that they are brought to.
pub(super) fn with_folders(mut args: GenerateArgs, output: &OutputArgs) -> anyhow::Result<GenerateArgs> {
    let folders = Folders::new(&args.hub, args.models.pickles.policy(), output);
    let models = &mut args.models;
    let variant = models.variant.as_deref();
    let elsewhere = [("unet", models.unet.is_some()), ("vae", models.vae.is_some())];
    let without: Vec<_> =
        elsewhere.into_iter().filter(|(_, is_given)| *is_given).map(|(part, _)| part).collect();
    models.base = folders.base(&models.base, variant, &without)?;
    for (part, path, variant) in [("unet", &mut models.unet, None), ("vae", &mut models.vae, variant)] {
        if let Some(path) = path {
            *path = folders.part(path, part, variant)?;
        }
    }
    for path in &mut models.controlnet {
        *path = folders.part(path, CONTROLNET, None)?;
    }
    Ok(args)
}

impl Models {
    /// Loads what the flags name. What does not fit together is found by the configs, before a weight is read.
    pub(super) fn open(args: &GenerateArgs, device: &Device) -> anyhow::Result<Self> {
        let models = &args.models;
        let precision = args.memory.precision.precision();
        backend::require_precision(device, precision)?;
        let options = BundleOptions {
            unet: models.unet.as_deref(),
            vae: models.vae.as_deref(),
            variant: models.variant.as_deref(),
            pickles: models.pickles.policy(),
            precision,
            ..BundleOptions::default()
        };
        let configs = BundleConfigs::open(&models.base, &options)?;
        for path in &models.controlnet {
            configs.check_controlnet(&controlnet_config(path, options.pickles)?)?;
        }
        let (mut nets, mut net_configs) = (Vec::new(), Vec::new());
        for path in &models.controlnet {
            let (net, config) = load_controlnet(path, models.pickles.policy(), device)?;
            nets.push(precision.of_controlnet(net));
            net_configs.push(config);
        }
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

//! `pyrograph generate`.

use std::path::Path;

use burn::prelude::*;
use burn::tensor::TensorData;
use pyrograph_data::{HintPixels, load_hint_for_inference, rgb_from_unit, save_png};
use pyrograph_pipeline::{Bundle, BundleOptions, ControlMode, Request, generate as draw, load_controlnet};
use pyrograph_weights::read_tensor;

use crate::args::{GenerateArgs, UsageError};
use crate::backend;

pub(crate) fn generate(args: &GenerateArgs) -> anyhow::Result<()> {
    let device = backend::open()?;
    check_folder(&args.output)?;
    // The small files first: a mistake in them is found before gigabytes are read.
    let HintPixels { hint_unit, width, height } = load_hint_for_inference(&args.control_image, None)?;
    let latents = args.latents.as_ref().map(|path| latents(path, &device)).transpose()?;
    let (controlnet, controlnet_config) = load_controlnet(&args.controlnet, &device)?;
    let options = BundleOptions { unet: args.unet.as_deref(), ..BundleOptions::default() };
    let mut bundle = Bundle::open(&args.base, &options, &device)?;
    if args.karras_sigmas {
        bundle.scheduler.use_karras_sigmas = Some(true);
    }
    bundle.check_controlnet(&controlnet_config)?;
    let request = Request {
        prompts: vec![args.prompt.clone()],
        negative_prompt: args.negative_prompt.clone(),
        hints: Tensor::from_data(
            TensorData::new(hint_unit, [1, 3, height as usize, width as usize]),
            &device,
        ),
        n_steps: args.num_inference_steps.get(),
        guidance_scale: args.guidance_scale,
        conditioning_scale: args.controlnet_conditioning_scale,
        mode: if args.guess_mode { ControlMode::Guess } else { ControlMode::Balanced },
        sampler: args.scheduler,
        seed: args.seed,
        latents,
    };
    let picture = draw(&bundle, &controlnet, &request)?;
    let pixels = picture.try_into_vec_as::<f32>()?;
    save_png(&rgb_from_unit(&pixels, width, height)?, &args.output)?;
    tracing::info!("the picture is in {}", args.output.display());
    Ok(())
}

/// Refuses a picture that is to be written into a folder that is not there.
pub(super) fn check_folder(picture: &Path) -> Result<(), UsageError> {
    let folder = picture.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => Err(UsageError::NoFolderForPicture { path: picture.to_owned() }),
        _ => Ok(()),
    }
}

/// The tensor `latents` of a safetensors file, `[1, channels, height, width]`.
fn latents(path: &Path, device: &Device) -> anyhow::Result<Tensor<4>> {
    let data = read_tensor(path, "latents")?;
    if data.shape().len() != 4 {
        let shape = data.shape().to_vec();
        return Err(UsageError::LatentsRank { path: path.to_owned(), shape }.into());
    }
    Ok(Tensor::from_data(data.convert::<f32>(), device))
}

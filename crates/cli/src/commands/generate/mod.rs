//! `pyrograph generate`.

mod inputs;
mod output;

use std::ops::ControlFlow;

use pyrograph_pipeline::{
    Bundle, BundleOptions, Control, ControlMode, Request, StepEnd, generate_with, load_controlnet,
};

use self::inputs::{Canvas, Pictures, each};
use self::output::Output;
use crate::args::{GenerateArgs, OutputArgs};
use crate::{backend, progress};

pub(super) use self::output::check_folder;

/// Diffusers' guidance for Stable Diffusion 1.x and 2.x, and for SDXL.
const GUIDANCE_SCALES: [f64; 2] = [7.5, 5.0];

pub(crate) fn generate(args: &GenerateArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let device = backend::open()?;
    // The small things first: a mistake in them is found before gigabytes are read.
    let pictures = Pictures::new(&args.prompts)?;
    let out = Output::new(&args.files, pictures.n_all())?;
    let n_nets = args.models.controlnet.len();
    let files = each("control_image", &args.controls.control_image, n_nets, "ControlNets", None)?;
    let setting = |flag, values: &[f64], default| each(flag, values, n_nets, "ControlNets", Some(default));
    let scales = setting("controlnet_conditioning_scale", &args.controls.controlnet_conditioning_scale, 1.0)?;
    let starts = setting("control_guidance_start", &args.controls.control_guidance_start, 0.0)?;
    let ends = setting("control_guidance_end", &args.controls.control_guidance_end, 1.0)?;
    let canvas = Canvas::new(&args.canvas, files.first())?;
    let hints = files.iter().map(|file| canvas.hint(file)).collect::<Result<Vec<_>, _>>()?;
    let latents = args
        .canvas
        .latents
        .as_ref()
        .map(|path| inputs::latents(path, pictures.n_all(), &device))
        .transpose()?;

    let nets = args.models.controlnet.iter().map(|path| load_controlnet(path, &device));
    let nets = nets.collect::<Result<Vec<_>, _>>()?;
    let options = BundleOptions { unet: args.models.unet.as_deref(), ..BundleOptions::default() };
    let mut bundle = Bundle::open(&args.models.base, &options, &device)?;
    if args.steps.karras_sigmas {
        bundle.scheduler.use_karras_sigmas = Some(true);
    }
    for (_, config) in &nets {
        bundle.check_controlnet(config)?;
    }
    let size = canvas.size_or(super::trained_side(&bundle)?);

    let is_sdxl = bundle.text.second.is_some();
    let guidance_scale = args.steps.guidance_scale.unwrap_or(GUIDANCE_SCALES[usize::from(is_sdxl)]);
    let mut bar = progress::steps(output, pictures.n_all());
    let mut drawn = Vec::with_capacity(pictures.n_all());
    for batch in pictures.batches(args.prompts.batch_size) {
        let n_pictures = batch.prompts.len();
        let controls = nets.iter().zip(&hints).enumerate().map(|(idx, ((controlnet, _), hint))| Control {
            controlnet,
            hints: hint.tensor(n_pictures, &device),
            scale: scales[idx],
            start: starts[idx],
            end: ends[idx],
        });
        let request = Request {
            negative_prompts: batch.negative_prompts,
            controls: controls.collect(),
            mode: if args.controls.guess_mode { ControlMode::Guess } else { ControlMode::Balanced },
            n_steps: args.steps.num_inference_steps.get(),
            guidance_scale,
            sampler: args.steps.scheduler,
            seeds: batch.seeds,
            latents: latents
                .as_ref()
                .map(|latents| latents.clone().narrow(0, batch.numbers.start, n_pictures)),
            originals: canvas.originals(n_pictures, &device),
            ..Request::new(batch.prompts, size)
        };
        let mut fault = None;
        let finished =
            generate_with(&bundle, &request, &mut |StepEnd { call, n_calls, latents, .. }| {
                bar(&batch.numbers, call + 1, n_calls);
                let Some(path) = out.preview_of(call, n_calls) else { return ControlFlow::Continue(()) };
                match output::save(bundle.decode(latents.clone()), path) {
                    Ok(_) => ControlFlow::Continue(()),
                    Err(error) => {
                        fault = Some(error);
                        ControlFlow::Break(())
                    }
                }
            })?;
        match (finished, fault) {
            (Some(batch_drawn), _) => drawn.extend(out.write(drawn.len(), &batch_drawn)?),
            (None, Some(error)) => return Err(error),
            (None, None) => unreachable!("only a fault stops it"),
        }
    }
    out.finish(&drawn, args.prompts.num_images_per_prompt.get())
}

//! `pyrograph generate`.

mod inputs;
mod output;
mod repeat;

use std::ops::ControlFlow;
use std::time::Instant;

use pyrograph_pipeline::{
    Bundle, BundleConfigs, BundleOptions, Control, ControlMode, Passes, PipelineError, Prompt, Request,
    StepEnd, Tiling, controlnet_config, denoise, load_controlnet,
};

use self::inputs::{Canvas, Pictures, each};
use self::output::Output;
use self::repeat::{Settings, with_picture};
use crate::args::{GenerateArgs, OutputArgs};
use crate::{backend, progress};

pub(super) use self::output::check_folder;

/// Diffusers' guidance for Stable Diffusion 1.x and 2.x, and for SDXL.
const GUIDANCE_SCALES: [f64; 2] = [7.5, 5.0];

pub(crate) fn generate(args: &GenerateArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let args = &with_picture(args.clone())?;
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

    let models = &args.models;
    let precision = args.memory.precision.precision();
    backend::require_precision(&device, precision)?;
    let configs = BundleConfigs::open(&models.base, models.vae.as_deref())?;
    for path in &models.controlnet {
        configs.check_controlnet(&controlnet_config(path)?)?;
    }
    let nets = models.controlnet.iter().map(|path| {
        let (net, config) = load_controlnet(path, &device)?;
        Ok((precision.of_controlnet(net), config))
    });
    let nets = nets.collect::<Result<Vec<_>, PipelineError>>()?;
    let options = BundleOptions {
        unet: models.unet.as_deref(),
        vae: models.vae.as_deref(),
        precision,
        ..BundleOptions::default()
    };
    let mut bundle = Bundle::open(&args.models.base, &options, &device)?;
    bundle.vae_passes = Passes {
        slicing: args.memory.vae_slicing,
        tiling: args.memory.vae_tiling.then(|| Tiling::of(&bundle.vae_config)),
    };
    if args.steps.karras_sigmas {
        bundle.scheduler.use_karras_sigmas = Some(true);
    }
    for (_, config) in &nets {
        bundle.check_controlnet(config)?;
    }
    let size = canvas.size_or(super::trained_side(&bundle)?);

    let is_sdxl = bundle.text.second.is_some();
    let guidance_scale = args.steps.guidance_scale.unwrap_or(GUIDANCE_SCALES[usize::from(is_sdxl)]);
    let settings = Settings {
        args,
        guidance_scale,
        size,
        strength: canvas.strength(),
        controls: (0..n_nets).map(|idx| [scales[idx], starts[idx], ends[idx]]).collect(),
    };
    let mut bar = progress::steps(output, pictures.n_all());
    let start = Instant::now();
    let (mut drawn, mut ends_of_way) = (Vec::new(), Vec::new());
    let syntax = args.prompts.encoding().syntax;
    let n_chunks =
        |prompt: &Prompt, negative: Option<&Prompt>| bundle.text.n_chunks(prompt, negative, syntax);
    for batch in pictures.batches(args.prompts.batch_size, n_chunks) {
        let n_pictures = batch.prompts.len();
        let infotexts: Vec<_> = (0..n_pictures)
            .map(|idx| {
                let negative_prompt = batch.negative_prompts.as_ref().map(|all| &all[idx]);
                settings.of_picture(&batch.prompts[idx], negative_prompt, batch.seeds[idx])
            })
            .collect();
        let controls = nets.iter().zip(&hints).enumerate().map(|(idx, ((controlnet, _), hint))| Control {
            controlnet,
            hints: hint.tensor(n_pictures, &device),
            scale: scales[idx],
            start: starts[idx],
            end: ends[idx],
        });
        let request = Request {
            negative_prompts: batch.negative_prompts,
            encoding: args.prompts.encoding(),
            controls: controls.collect(),
            mode: if args.controls.guess_mode { ControlMode::Guess } else { ControlMode::Balanced },
            steps: args.steps.steps(),
            denoising: args.steps.denoising_start..args.steps.denoising_end,
            guidance_scale,
            sampler: args.steps.scheduler,
            seeds: batch.seeds,
            latents: latents
                .as_ref()
                .map(|latents| latents.clone().narrow(0, batch.numbers.start, n_pictures)),
            originals: canvas.originals(n_pictures, &device),
            ..Request::new(batch.prompts, size)
        };
        let mut on_step = |StepEnd { call, n_calls, latents, .. }: StepEnd<'_>| {
            bar(&batch.numbers, call + 1, n_calls);
            if let Some(path) = out.preview_of(call, n_calls)
                && let Err(error) = output::save(&bundle.decode(latents.clone()), path)
            {
                tracing::warn!("no preview: {error:#}");
            }
            ControlFlow::Continue(())
        };
        let latents = denoise(&bundle, &request, &mut on_step)?.expect("nobody stops it");
        ends_of_way.push(latents.clone());
        drawn.extend(out.write(drawn.len(), &bundle.decode(latents), &infotexts)?);
    }
    out.write_latents(ends_of_way)?;
    out.finish(&drawn, args.prompts.num_images_per_prompt.get(), start.elapsed())
}

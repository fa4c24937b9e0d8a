//! `pyrograph generate`.

mod inputs;
mod models;
mod output;
mod repeat;

use std::ops::ControlFlow;
use std::time::Instant;

use burn::prelude::*;
use pyrograph_pipeline::{Control, ControlMode, Infotext, Prompt, Request, StepEnd, denoise};

use self::inputs::{Batch, Canvas, Pictures, Pixels, each};
use self::models::Models;
use self::output::Output;
use self::repeat::{Settings, with_picture};
use crate::args::{ControlArgs, GenerateArgs, OutputArgs, UsageError};
use crate::{backend, progress};

pub(super) use self::output::check_folder;

pub(crate) fn generate(args: &GenerateArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let args = &with_picture(models::with_folders(args.clone(), output)?)?;
    let device = backend::open()?;
    // The small things first: a mistake in them is found before gigabytes are read.
    let pictures = Pictures::new(&args.prompts)?;
    let out = Output::new(&args.files, pictures.n_all())?;
    let n_nets = args.models.controlnet.len();
    let files = each("control_image", &args.controls.control_image, n_nets, "ControlNets", None)?;
    let controls = control_settings(&args.controls, n_nets)?;
    let canvas = Canvas::new(&args.canvas, files.first())?;
    let hints = files.iter().map(|file| canvas.hint(file)).collect::<Result<Vec<_>, _>>()?;
    let latents = args.canvas.latents.as_ref();
    let latents = latents.map(|path| inputs::latents(path, pictures.n_all(), &device)).transpose()?;

    let start = Instant::now();
    let models = Models::open(args, &device)?;
    let loading = start.elapsed();
    let bundle = &models.bundle;
    let settings = Settings {
        args,
        guidance_scale: args.steps.guidance_scale.unwrap_or_else(|| models.usual_guidance_scale()),
        size: canvas.size_or(super::trained_side(bundle)?),
        strength: canvas.strength(),
        controls,
    };
    let drawing = Drawing { models: &models, settings, canvas, hints, latents, device };
    let mut bar = progress::steps(output, pictures.n_all());
    let start = Instant::now();
    let (mut drawn, mut ends_of_way) = (Vec::new(), Vec::new());
    let syntax = args.prompts.encoding().syntax;
    let n_chunks =
        |prompt: &Prompt, negative: Option<&Prompt>| bundle.text.n_chunks(prompt, negative, syntax);
    for batch in pictures.batches(args.prompts.batch_size, n_chunks) {
        let mut on_step = |StepEnd { call, n_calls, latents, .. }: StepEnd<'_>| {
            bar(&batch.numbers, call + 1, n_calls);
            if let Some(path) = out.preview_of(call, n_calls)
                && let Err(error) = output::save(&bundle.decode(latents.clone()), path)
            {
                tracing::warn!("no preview: {error:#}");
            }
            ControlFlow::Continue(())
        };
        let latents = denoise(bundle, &drawing.request(&batch), &mut on_step)?.expect("nobody stops it");
        ends_of_way.push(latents.clone());
        drawn.extend(out.write(drawn.len(), &bundle.decode(latents), &drawing.infotexts(&batch))?);
    }
    out.write_latents(ends_of_way)?;
    out.finish(&drawn, args.prompts.num_images_per_prompt.get(), [loading, start.elapsed()])
}

/// Scale, start and end of each ControlNet.
fn control_settings(args: &ControlArgs, n_nets: usize) -> Result<Vec<[f64; 3]>, UsageError> {
    let each = |flag, values: &[f64], default| each(flag, values, n_nets, "ControlNets", Some(default));
    let scales = each("controlnet_conditioning_scale", &args.controlnet_conditioning_scale, 1.0)?;
    let starts = each("control_guidance_start", &args.control_guidance_start, 0.0)?;
    let ends = each("control_guidance_end", &args.control_guidance_end, 1.0)?;
    Ok((0..n_nets).map(|idx| [scales[idx], starts[idx], ends[idx]]).collect())
}

/// What the batches have in common.
struct Drawing<'a> {
    models: &'a Models,
    settings: Settings<'a>,
    canvas: Canvas,
    /// That of each ControlNet.
    hints: Vec<Pixels>,
    /// Of all pictures.
    latents: Option<Tensor<4>>,
    device: Device,
}

impl Drawing<'_> {
    fn request(&self, batch: &Batch) -> Request<'_> {
        let n_pictures = batch.prompts.len();
        let Self { models, settings, canvas, hints, latents, device } = self;
        let controls = models.nets.iter().zip(hints).zip(&settings.controls);
        let controls = controls.map(|((controlnet, hint), &[scale, start, end])| Control {
            controlnet,
            hints: hint.tensor(n_pictures, device),
            scale,
            start,
            end,
        });
        let GenerateArgs { prompts, steps, controls: ControlArgs { guess_mode, .. }, .. } = settings.args;
        let own = |latents: &Tensor<4>| latents.clone().narrow(0, batch.numbers.start, n_pictures);
        Request {
            negative_prompts: batch.negative_prompts.clone(),
            encoding: prompts.encoding(),
            controls: controls.collect(),
            mode: if *guess_mode { ControlMode::Guess } else { ControlMode::Balanced },
            steps: steps.steps(),
            denoising: steps.denoising_start..steps.denoising_end,
            guidance_scale: settings.guidance_scale,
            sampler: steps.scheduler,
            seeds: batch.seeds.clone(),
            latents: latents.as_ref().map(own),
            originals: canvas.originals(n_pictures, device),
            ..Request::new(batch.prompts.clone(), settings.size)
        }
    }

    /// What each picture says of itself.
    fn infotexts(&self, batch: &Batch) -> Vec<Infotext> {
        let of_picture = |(idx, prompt): (usize, &Prompt)| {
            let negative_prompt = batch.negative_prompts.as_ref().map(|all| &all[idx]);
            self.settings.of_picture(prompt, negative_prompt, batch.seeds[idx])
        };
        batch.prompts.iter().enumerate().map(of_picture).collect()
    }
}

//! What a picture was drawn with: written into it, and taken from one that is to be drawn again.

use std::path::Path;

use pyrograph_data::{Side, read_png_text};
use pyrograph_pipeline::{
    ControlMode, ControlUnit, EncodeOptions, INFOTEXT_KEYWORD, Infotext, PipelineError, Prompt, PromptSyntax,
    ScheduleType, is_xl,
};

use crate::args::{GenerateArgs, UsageError};
use crate::hub::name_of;

const STEPS: &str = "Steps";
const GUIDANCE_SCALE: &str = "CFG scale";
const SEED: &str = "Seed";
const STRENGTH: &str = "Denoising strength";
/// Of SD 1.x and 2.x, as A1111 counts: 1 leaves out no layer.
const CLIP_SKIP: &str = "Clip skip";
/// What brackets do.
const EMPHASIS: &str = "Emphasis";
const ORIGINAL: &str = "Original";
const NONE: &str = "None";
/// The others are ours. A1111 does not skip layers of SDXL, so what it says of it means nothing.
const CLIP_SKIP_XL: &str = "Clip skip XL";
const PROMPT_2: &str = "Prompt 2";
const NEGATIVE_PROMPT_2: &str = "Negative prompt 2";
const TIMESTEPS: &str = "Timesteps";
const DENOISING_START: &str = "Denoising start";
const DENOISING_END: &str = "Denoising end";

/// Files and folders that a picture only names: its settings and their flags.
const FILES: [(&str, &str); 4] = [
    ("UNet", "unet"),
    ("Init image name", "image"),
    ("Mask image name", "mask_image"),
    ("Latents name", "latents"),
];

/// What all pictures of a command have in common.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    pub(super) args: &'a GenerateArgs,
    pub(super) guidance_scale: f64,
    /// Height and width in pixels.
    pub(super) size: [usize; 2],
    pub(super) strength: Option<f64>,
    /// Scale, start and end of each ControlNet.
    pub(super) controls: Vec<[f64; 3]>,
}

impl Settings<'_> {
    /// What one picture was drawn with.
    pub(super) fn of_picture(
        &self,
        prompt: &Prompt,
        negative_prompt: Option<&Prompt>,
        seed: u64,
    ) -> Infotext {
        let GenerateArgs { models, controls, canvas, steps, .. } = self.args;
        let negative_text = negative_prompt.map(|prompt| prompt.text.clone());
        let mut infotext = Infotext::new(prompt.text.as_str(), negative_text);
        infotext.set(
            STEPS,
            match &steps.timesteps[..] {
                [] => steps.num_inference_steps.get(),
                timesteps => timesteps.len(),
            },
        );
        let schedule = if steps.karras_sigmas { ScheduleType::Karras } else { ScheduleType::Uniform };
        infotext.set_sampler(steps.scheduler, schedule);
        infotext.set(GUIDANCE_SCALE, self.guidance_scale);
        infotext.set(SEED, seed);
        let [height, width] = self.size;
        infotext.set("Size", format!("{width}x{height}"));
        infotext.set("Model", name(&models.base));
        self.set_encoding(&mut infotext, prompt, negative_prompt);
        if let Some(strength) = self.strength {
            infotext.set(STRENGTH, strength);
        }
        let files = [&models.unet, &canvas.image, &canvas.mask_image, &canvas.latents];
        if !steps.timesteps.is_empty() {
            let timesteps: Vec<String> = steps.timesteps.iter().map(usize::to_string).collect();
            infotext.set(TIMESTEPS, timesteps.join(" "));
        }
        for (setting, part, whole) in
            [(DENOISING_START, steps.denoising_start, 0.0), (DENOISING_END, steps.denoising_end, 1.0)]
        {
            if part != whole {
                infotext.set(setting, part);
            }
        }
        for ((setting, _), file) in FILES.iter().zip(files) {
            if let Some(file) = file {
                infotext.set(setting, name(file));
            }
        }
        for (path, &[weight, guidance_start, guidance_end]) in models.controlnet.iter().zip(&self.controls) {
            let mode = if controls.guess_mode { ControlMode::Guess } else { ControlMode::Balanced };
            let model = name(path);
            infotext.push_unit(&ControlUnit { model, weight, guidance_start, guidance_end, mode });
        }
        infotext.set("Version", concat!("Pyrograph ", env!("CARGO_PKG_VERSION")));
        infotext
    }

    /// What is said about how prompts are read, where it is not as usual.
    fn set_encoding(&self, infotext: &mut Infotext, prompt: &Prompt, negative_prompt: Option<&Prompt>) {
        let EncodeOptions { syntax, clip_skip } = self.args.prompts.encoding();
        match clip_skip {
            0 => {}
            _ if is_xl(&self.args.models.base, self.args.models.pickles.policy()) => {
                infotext.set(CLIP_SKIP_XL, clip_skip);
            }
            _ => infotext.set(CLIP_SKIP, clip_skip + 1),
        }
        if syntax == PromptSyntax::Plain {
            infotext.set(EMPHASIS, NONE);
        }
        let seconds = [
            (PROMPT_2, &prompt.second),
            (NEGATIVE_PROMPT_2, negative_prompt.map_or(&None, |prompt| &prompt.second)),
        ];
        for (setting, second) in seconds {
            if let Some(second) = second {
                infotext.set(setting, second);
            }
        }
    }
}

/// The arguments, and for what they do not say, those that the picture of `--from_png` was drawn with.
pub(super) fn with_picture(mut args: GenerateArgs) -> anyhow::Result<GenerateArgs> {
    let Some(path) = &args.files.from_png else { return Ok(args) };
    let text = read_png_text(path, INFOTEXT_KEYWORD)?
        .ok_or_else(|| UsageError::NothingToRepeat { path: path.clone() })?;
    let picture = Infotext::from(text.as_str());
    for (setting, flag) in FILES {
        if let (false, Some(name)) = (args.is_given(flag), picture.get(setting)) {
            return Err(UsageError::NotInPicture { flag, name: name.to_owned() }.into());
        }
    }
    take_controls(&mut args, picture.units()?)?;
    take_prompts(&mut args, &picture)?;
    take_steps(&mut args, &picture)?;
    take_canvas(&mut args, &picture)?;
    Ok(args)
}

fn take_controls(args: &mut GenerateArgs, units: Vec<ControlUnit>) -> Result<(), UsageError> {
    let found = args.models.controlnet.len();
    if units.len() != found {
        let names = units.into_iter().map(|unit| unit.model).collect();
        return Err(UsageError::ControlNetsOfPicture { found, names });
    }
    let controls = &mut args.controls;
    controls.guess_mode |= units.iter().any(|unit| unit.mode == ControlMode::Guess);
    let take = |flag: &mut Vec<f64>, setting: fn(&ControlUnit) -> f64| {
        if flag.is_empty() {
            *flag = units.iter().map(setting).collect();
        }
    };
    take(&mut controls.controlnet_conditioning_scale, |unit| unit.weight);
    take(&mut controls.control_guidance_start, |unit| unit.guidance_start);
    take(&mut controls.control_guidance_end, |unit| unit.guidance_end);
    Ok(())
}

fn take_prompts(args: &mut GenerateArgs, picture: &Infotext) -> Result<(), PipelineError> {
    let second = |name| picture.get(name).map(str::to_owned).into_iter().collect();
    if !args.is_given("prompt") {
        args.prompts.prompt = vec![picture.prompt.clone()];
        if !args.is_given("prompt_2") {
            args.prompts.prompt_2 = second(PROMPT_2);
        }
    }
    if !args.is_given("negative_prompt") {
        args.prompts.negative_prompt = picture.negative_prompt.iter().cloned().collect();
        args.prompts.negative_prompt_2 = second(NEGATIVE_PROMPT_2);
    }
    if !args.is_given("clip_skip") {
        args.prompts.clip_skip = match is_xl(&args.models.base, args.models.pickles.policy()) {
            true => picture.number(CLIP_SKIP_XL)?.unwrap_or(0),
            false => picture.number::<usize>(CLIP_SKIP)?.unwrap_or(1).saturating_sub(1),
        };
    }
    match picture.get(EMPHASIS) {
        None | Some(ORIGINAL) => {}
        Some(NONE) => args.prompts.plain_prompts = true,
        Some(emphasis) => {
            tracing::warn!(emphasis, "brackets weigh otherwise here than in the picture's program");
        }
    }
    if let (false, Some(seed)) = (args.is_given("seed"), picture.number(SEED)?) {
        args.prompts.seed = vec![seed];
    }
    Ok(())
}

fn take_steps(args: &mut GenerateArgs, picture: &Infotext) -> Result<(), PipelineError> {
    if !args.is_given("num_inference_steps") && !args.is_given("timesteps") {
        args.steps.timesteps = picture.numbers(TIMESTEPS)?;
        if let Some(n_steps) = picture.number(STEPS)? {
            args.steps.num_inference_steps = n_steps;
        }
    }
    if let (false, Some((sampler, schedule))) = (args.is_given("scheduler"), picture.sampler()?) {
        args.steps.scheduler = sampler;
        args.steps.karras_sigmas |= schedule == ScheduleType::Karras;
    }
    if !args.is_given("guidance_scale") {
        args.steps.guidance_scale = picture.number(GUIDANCE_SCALE)?;
    }
    if let (false, Some(start)) = (args.is_given("denoising_start"), picture.number(DENOISING_START)?) {
        args.steps.denoising_start = start;
    }
    if let (false, Some(end)) = (args.is_given("denoising_end"), picture.number(DENOISING_END)?) {
        args.steps.denoising_end = end;
    }
    Ok(())
}

fn take_canvas(args: &mut GenerateArgs, picture: &Infotext) -> anyhow::Result<()> {
    if let Some((width, height)) = picture.size()? {
        for (side, pixels) in [(&mut args.canvas.width, width), (&mut args.canvas.height, height)] {
            if side.is_none() {
                *side = Some(Side::try_from(pixels)?);
            }
        }
    }
    if args.canvas.image.is_some() && args.canvas.strength.is_none() {
        args.canvas.strength = picture.number(STRENGTH)?;
    }
    Ok(())
}

/// The last part of a path, and nothing of where it lies.
fn name(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    name_of(&whole)
}

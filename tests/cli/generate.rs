//! `pyrograph generate`: what it draws and what it refuses.

use std::fs;

use expect_test::{Expect, expect};
use image::{GrayImage, Luma, Rgb, RgbImage};

use pyrograph_pipeline::SamplerKind;

use super::Desk;

const GENERATE: &str = "generate --base=base --num_inference_steps=2";
const CONTROL: &str = "--controlnet=controlnet --control_image=hint.png";

fn open(desk: &Desk, name: &str) -> RgbImage {
    image::open(desk.path(name)).unwrap().to_rgb8()
}

fn draw(desk: &Desk, flags: &str) -> RgbImage {
    desk.done(&format!("{GENERATE} {flags} --output=picture.png"));
    open(desk, "picture.png")
}

/// The largest difference of two pictures, in levels of 255.
fn difference(left: &RgbImage, right: &RgbImage) -> u8 {
    assert_eq!(left.dimensions(), right.dimensions());
    left.as_raw().iter().zip(right.as_raw()).map(|(left, right)| left.abs_diff(*right)).max().unwrap_or(0)
}

#[test]
fn a_picture_of_a_batch_is_the_one_drawn_alone() {
    let desk = Desk::new();
    let prompts = format!("{CONTROL} --prompt=red --prompt=circle --num_images_per_prompt=2 --seed=5");
    desk.done(&format!("{GENERATE} {prompts} --batch_size=3 --output=all.png --grid=grid.png"));
    for (idx, prompt) in ["red", "red", "circle", "circle"].into_iter().enumerate() {
        let alone = draw(&desk, &format!("{CONTROL} --prompt={prompt} --seed={}", 5 + idx));
        assert!(difference(&alone, &open(&desk, &format!("all-{}.png", idx + 1))) <= 1);
    }
    assert!(difference(&open(&desk, "all-1.png"), &open(&desk, "all-2.png")) > 1);
    // Two rows of two pictures of 40x32 px with lines of 4 px.
    assert_eq!(open(&desk, "grid.png").dimensions(), (2 * 40 + 12, 2 * 32 + 12));
}

#[test]
fn memory_is_saved_without_changing_much() {
    let desk = Desk::new();
    let flags = format!("{CONTROL} --prompt=red --num_images_per_prompt=2");
    let draw = |more: &str| {
        desk.done(&format!("{GENERATE} {flags} --batch_size=2 {more} --output=all.png"));
        open(&desk, "all-2.png")
    };
    let whole = draw("");
    assert!(difference(&draw("--vae_slicing"), &whole) <= 1);
    // A tile of this base's VAE has 32 px, the picture 40x32.
    let tiled = draw("--vae_tiling");
    assert!(difference(&tiled, &whole) > 1);
    assert!(draw("--vae_tiling --vae_slicing --vae=base/vae") == tiled);
    let half = draw("--precision=bf16");
    assert!(half != whole);
    desk.refuses(&format!("{GENERATE} {flags} --vae=controlnet --output=all.png"), expect![[r#"
        error: cannot load the VAE
          caused by: `controlnet` is a ControlNet (ControlNetModel), not a AutoencoderKL folder

        hint: a VAE is a folder with a `config.json` of `AutoencoderKL` beside its weights, a file with the original names, or a model that has a VAE
    "#]]);
}

#[test]
fn a_variant_of_the_base_is_read_from_its_files_in_one_or_in_shards() {
    let desk = Desk::new();
    let picture = draw(&desk, "--prompt=red");
    desk.done("convert base before.safetensors --title=base");
    let rename = |from: &str, to: &str| fs::rename(desk.path(from), desk.path(to)).unwrap();
    rename(
        "base/vae/diffusion_pytorch_model.safetensors",
        "base/vae/diffusion_pytorch_model.fp16.safetensors",
    );
    rename("base/text_encoder/model.safetensors", "base/text_encoder/model.fp16.safetensors");
    let shard = "diffusion_pytorch_model.fp16-00001-of-00001.safetensors";
    rename("base/unet/diffusion_pytorch_model.safetensors", &format!("base/unet/{shard}"));
    let index = format!(r#"{{"metadata": {{}}, "weight_map": {{"conv_in.weight": "{shard}"}}}}"#);
    desk.write("base/unet/diffusion_pytorch_model.safetensors.index.fp16.json", index);
    assert_eq!(draw(&desk, "--prompt=red --variant=fp16"), picture);
    desk.done("convert base after.safetensors --title=base --variant=fp16");
    let [before, after] = ["before", "after"].map(|name| fs::read(desk.path(&format!("{name}.safetensors"))));
    assert!(before.unwrap() == after.unwrap(), "the converted files differ");
    desk.refuses(&format!("{GENERATE} --prompt=red --output=other.png"), expect![[r#"
        error: cannot load the UNet
          caused by: `base/unet` has no diffusion_pytorch_model.safetensors or model.safetensors; it has config.json, diffusion_pytorch_model.fp16-00001-of-00001.safetensors, diffusion_pytorch_model.safetensors.index.fp16.json

        hint: a base's variant is chosen with `--variant` (`fp16` for `model.fp16.safetensors`); of another model, give the file itself
    "#]]);
    fs::remove_file(desk.path(&format!("base/unet/{shard}"))).unwrap();
    desk.refuses(
        &format!("{GENERATE} --prompt=red --output=other.png --variant=fp16"),
        expect![[r#"
            error: cannot load the UNet
              caused by: `base/unet/diffusion_pytorch_model.safetensors.index.fp16.json` names the shard `diffusion_pytorch_model.fp16-00001-of-00001.safetensors`, which is not beside it

            hint: the download or the copy is incomplete; fetch the folder again
        "#]],
    );
}

#[test]
fn seeds_can_be_given_one_by_one() {
    let desk = Desk::new();
    let flags = format!("{CONTROL} --prompt=red --num_images_per_prompt=2 --seed=9 --seed=4");
    desk.done(&format!("{GENERATE} {flags} --output=all.png"));
    let alone = draw(&desk, &format!("{CONTROL} --prompt=red --seed=4"));
    assert!(alone == open(&desk, "all-2.png"));
}

#[test]
fn image_to_image_depends_on_the_image_and_on_the_strength() {
    let desk = Desk::new();
    let changed = |level: u8, strength: &str| {
        RgbImage::from_pixel(40, 32, Rgb([level, 30, 90])).save(desk.path("image.png")).unwrap();
        draw(&desk, &format!("{CONTROL} --prompt=red --image=image.png --strength={strength}"))
    };
    let first = changed(0, "0.5");
    assert!(changed(0, "0.5") == first);
    assert!(difference(&changed(255, "0.5"), &first) > 1);
    assert!(difference(&changed(0, "1"), &first) > 1);
}

#[test]
fn a_white_mask_frees_the_picture_and_a_black_one_keeps_it() {
    let desk = Desk::new();
    let masked = |prompt: &str, level: u8| {
        GrayImage::from_pixel(40, 32, Luma([level])).save(desk.path("mask.png")).unwrap();
        let flags = "--image=image.png --mask_image=mask.png";
        draw(&desk, &format!("{CONTROL} --prompt={prompt} {flags}"))
    };
    RgbImage::from_pixel(40, 32, Rgb([200, 30, 90])).save(desk.path("image.png")).unwrap();
    assert!(masked("red", 255) == draw(&desk, &format!("{CONTROL} --prompt=red")));
    assert!(masked("red", 0) == masked("blue", 0));
    assert!(difference(&masked("red", 255), &masked("blue", 255)) > 1);
}

#[test]
fn a_control_net_that_is_given_twice_with_half_the_scale_draws_as_once() {
    let desk = Desk::new();
    let once = draw(&desk, &format!("{CONTROL} --prompt=red"));
    let halves = "--controlnet_conditioning_scale=0.25 --controlnet_conditioning_scale=0.75";
    let twice = draw(&desk, &format!("{CONTROL} {CONTROL} {halves} --prompt=red"));
    assert!(difference(&once, &twice) <= 1);
    let twice_full = draw(&desk, &format!("{CONTROL} {CONTROL} --prompt=red"));
    assert!(difference(&once, &twice_full) > 1);
}

#[test]
fn a_control_net_acts_only_in_its_part_of_the_steps() {
    let desk = Desk::new();
    let window = |start: f64, end: f64| {
        let flags = format!("--control_guidance_start={start} --control_guidance_end={end}");
        draw(&desk, &format!("{CONTROL} --prompt=red {flags}"))
    };
    let uncontrolled = draw(&desk, "--prompt=red --width=40 --height=32");
    // Of two steps, none lies between a quarter and three quarters.
    assert!(window(0.25, 0.75) == uncontrolled);
    let (first, both) = (window(0.0, 0.5), window(0.0, 1.0));
    assert!(difference(&first, &uncontrolled) > 1 && difference(&first, &both) > 1);
}

#[test]
fn a_preview_is_written_on_the_way() {
    let desk = Desk::new();
    let picture = draw(&desk, &format!("{CONTROL} --prompt=red --preview=preview.png --preview_every=1"));
    assert!(difference(&picture, &open(&desk, "preview.png")) > 1);
    fs::create_dir(desk.path("folder.png")).unwrap();
    let finished = desk.run(&format!(
        "{GENERATE} {CONTROL} --prompt=red --preview=folder.png --preview_every=1 --output=none.png"
    ));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("WARN no preview: "), "{}", finished.stderr);
    assert!(desk.path("none.png").exists());
}

#[test]
fn a_way_in_two_parts_ends_as_the_whole() {
    let desk = Desk::new();
    let flags = format!("{CONTROL} --prompt=red --scheduler=euler");
    let whole = draw(&desk, &flags);
    draw(&desk, &format!("{flags} --denoising_end=0.5 --output_latents=half.safetensors"));
    let second = draw(&desk, &format!("{flags} --denoising_start=0.5 --latents=half.safetensors"));
    assert!(second == whole);
    let finished = desk.run(&format!("{GENERATE} {flags} --denoising_start=0.5 --output=none.png"));
    assert!(finished.stderr.contains("--latents <FILE>"), "{}", finished.stderr);
}

#[test]
fn timesteps_take_the_place_of_a_number_of_steps() {
    let desk = Desk::new();
    let drawn = |steps: &str, sampler: &str| {
        desk.done(&format!(
            "generate --base=base {CONTROL} --prompt=red --scheduler={sampler} {steps} --output=picture.png"
        ));
        open(&desk, "picture.png")
    };
    // Euler's two steps of a config that does not say how they are spaced.
    assert!(drawn("--timesteps=999,0", "euler") == drawn("--num_inference_steps=2", "euler"));
    assert!(difference(&drawn("--timesteps=999,1", "euler"), &drawn("--timesteps=501,1", "euler")) > 1);
    let check = |flags: &str, message: Expect| {
        desk.refuses(&format!("generate --base=base --prompt=red --output=p.png {flags}"), message);
    };
    check(
        "--scheduler=ddim --timesteps=501,1",
        expect![[r#"
            error: cannot sample
              caused by: the sampler ddim chooses its timesteps itself

            hint: ddpm, dpmpp-2m, dpmpp-2m-sde, euler, heun and lcm take timesteps
        "#]],
    );
    check(
        "--scheduler=euler --timesteps=1,501",
        expect![[r#"
            error: cannot sample
              caused by: cannot sample at the timesteps [1, 501]: they must fall, from 999 at most
        "#]],
    );
    check(
        "--scheduler=euler --timesteps=1000",
        expect![[r#"
            error: cannot sample
              caused by: cannot sample at the timesteps [1000]: they must fall, from 999 at most
        "#]],
    );
}

#[test]
fn karras_sigmas_change_the_picture_or_are_said_to_have_no_effect() {
    let desk = Desk::new();
    for sampler in SamplerKind::ALL {
        let drawn = |flag: &str| {
            let flags = format!("{CONTROL} --prompt=red --scheduler={sampler} {flag}");
            let finished = desk
                .run(&format!("generate --base=base --num_inference_steps=4 {flags} --output=picture.png"));
            assert_eq!(finished.code, Some(0), "{}", finished.stderr);
            (open(&desk, "picture.png"), finished.stderr.contains("--karras_sigmas has no effect"))
        };
        let ((plain, _), (karras, has_no_effect)) = (drawn(""), drawn("--karras_sigmas"));
        assert_eq!(plain == karras, has_no_effect, "{sampler}");
    }
}

#[test]
fn a_hint_is_stretched_to_the_picture() {
    let desk = Desk::new();
    assert_eq!(draw(&desk, &format!("{CONTROL} --prompt=red --width=24")).dimensions(), (24, 32));
    RgbImage::new(51, 45).save(desk.path("image.png")).unwrap();
    assert_eq!(draw(&desk, &format!("{CONTROL} --prompt=red --image=image.png")).dimensions(), (48, 40));
}

#[test]
fn weights_and_clip_skip_change_the_picture_and_plain_prompts_have_no_weights() {
    let desk = Desk::new();
    let plain = draw(&desk, &format!("{CONTROL} --prompt=red"));
    assert!(draw(&desk, &format!("{CONTROL} --prompt=red --plain_prompts")) == plain);
    assert!(draw(&desk, &format!("{CONTROL} --prompt=(red:1.0)")) == plain);
    let weighted = draw(&desk, &format!("{CONTROL} --prompt=(red:1.8)"));
    assert!(weighted != plain);
    assert!(draw(&desk, &format!("{CONTROL} --prompt=(red:1.8) --plain_prompts")) != weighted);
    assert!(draw(&desk, &format!("{CONTROL} --prompt=red --clip_skip=1")) != plain);
    let long = vec!["red"; 40].join(",");
    assert!(draw(&desk, &format!("{CONTROL} --prompt={long} --negative_prompt=blue")) != plain);
}

#[test]
fn a_long_prompt_lengthens_no_other_of_its_batch() {
    let desk = Desk::new();
    let long = "red,".repeat(40);
    let prompts = format!("--prompt=red --prompt=circle --prompt={long} --prompt=blue");
    desk.done(&format!("{GENERATE} {CONTROL} {prompts} --seed=5 --batch_size=4 --output=all.png"));
    for (idx, prompt) in ["red", "circle", &long, "blue"].into_iter().enumerate() {
        let alone = draw(&desk, &format!("{CONTROL} --prompt={prompt} --seed={}", 5 + idx));
        assert!(difference(&alone, &open(&desk, &format!("all-{}.png", idx + 1))) <= 1, "{prompt}");
    }
    // Beside an equally long negative prompt, the same prompt is longer.
    let beside = format!("{CONTROL} --prompt=red --seed=5 --negative_prompt");
    assert!(
        difference(&draw(&desk, &format!("{beside}={long}")), &draw(&desk, &format!("{beside}=red"))) > 1
    );
}

#[test]
fn no_weight_makes_a_picture_of_nothing() {
    let desk = Desk::new();
    let huge = format!("(red:1{})", "0".repeat(60));
    let picture = draw(&desk, &format!("{CONTROL} --prompt={huge}"));
    assert!(picture.pixels().any(|pixel| pixel != picture.get_pixel(0, 0)));
}

#[test]
fn flags_that_do_not_fit_together_are_refused_with_a_hint() {
    let desk = Desk::new();
    let check =
        |flags: &str, message: Expect| desk.refuses(&format!("{GENERATE} --output=p.png {flags}"), message);
    check(
        &format!("--prompt=red {CONTROL} --controlnet=controlnet"),
        expect![[r#"
            error: `--control_image` is given once, but the number of ControlNets is 2

            hint: give `--control_image` 2 times
        "#]],
    );
    check(
        "--prompt=red --control_image=hint.png",
        expect![[r#"
            error: `--control_image` is given once, but the number of ControlNets is 0

            hint: leave out `--control_image`: there are no ControlNets
        "#]],
    );
    check(
        &format!(
            "--prompt=red {CONTROL} --controlnet_conditioning_scale=1 --controlnet_conditioning_scale=2"
        ),
        expect![[r#"
            error: `--controlnet_conditioning_scale` is given 2 times, but the number of ControlNets is 1

            hint: give `--controlnet_conditioning_scale` once
        "#]],
    );
    check(
        "--prompt=red --prompt=blue --negative_prompt=a --negative_prompt=b --negative_prompt=c",
        expect![[r#"
            error: `--negative_prompt` is given 3 times, but the number of prompts is 2

            hint: give `--negative_prompt` 2 times
        "#]],
    );
    check(
        "--prompt=red --seed=1 --seed=2",
        expect![[r#"
            error: `--seed` is given 2 times, but the number of pictures is 1

            hint: give `--seed` once
        "#]],
    );
    check(
        "--prompt=red --width=41",
        expect![[r#"
        error: invalid value '41' for '--width <PIXELS>': 41 px is not a positive multiple of 8 up to 16384; use 40 or 48

        For more information, try '--help'.
    "#]],
    );
    check(
        "--prompt=red --prompt_2=blue",
        expect![[r#"
            error: the base model has one text encoder and cannot read a second prompt

            hint: leave out the second prompts: only SDXL has two encoders
        "#]],
    );
    check(
        "--prompt=red --clip_skip=3",
        expect![[r#"
            error: clip skip 3 leaves out more layers than the text encoder has

            hint: it is 0 to 2 for this model; 1 is usual
        "#]],
    );
    check(
        "--prompt=red --mask_image=hint.png",
        expect![[r#"
            error: the following required arguments were not provided:
              --image <FILE>

            Usage: pyrograph generate --base <DIR|FILE|NAME> --output <FILE.png> --image <FILE> --num-inference-steps <N> --prompt <PROMPT> --mask-image <FILE>

            For more information, try '--help'.
        "#]],
    );
    check(
        "--prompt=red --image=hint.png --strength=1.5",
        expect![[r#"
            error: cannot sample
              caused by: the strength 1.5 is not above 0 and at most 1, or leaves none of 2 steps

            hint: use a greater strength or more steps
        "#]],
    );
    check(
        "--prompt=red --image=hint.png --strength=0.1",
        expect![[r#"
            error: cannot sample
              caused by: the strength 0.1 is not above 0 and at most 1, or leaves none of 2 steps

            hint: use a greater strength or more steps
        "#]],
    );
    check(
        &format!("--prompt=red {CONTROL} --control_guidance_start=0.5 --control_guidance_end=0.5"),
        expect![[r#"
            error: a ControlNet cannot act from 0.5 to 0.5 of the steps

            hint: the start lies in [0, 1), the end in (0, 1] and after the start; 0 and 1 are the whole way
        "#]],
    );
    check(
        "--prompt=red --scheduler=dpm",
        expect![[r#"
            error: invalid value 'dpm' for '--scheduler <SCHEDULER>'
              [possible values: ddim, ddpm, dpmpp-2m, dpmpp-2m-sde, dpmpp-sde, euler, euler-a, heun, lcm, lms, pndm, unipc]

              tip: a similar value exists: 'ddpm'

            For more information, try '--help'.
        "#]],
    );
}

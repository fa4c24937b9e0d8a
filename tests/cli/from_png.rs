//! `pyrograph generate --from_png`: pictures say what they were drawn with, and are drawn again.

use std::fs;

use expect_test::{Expect, expect};
use image::RgbImage;
use pyrograph_data::{read_png_text, save_png_with_text};

use super::Desk;

const CONTROL: &str = "--controlnet=controlnet --control_image=hint.png";

/// Draws a picture, and again from what it says.
#[track_caller]
fn check(prompt: &str, flags: &str, flags_of_files: &str) {
    check_at(&Desk::new(), prompt, flags, flags_of_files);
}

#[track_caller]
fn check_at(desk: &Desk, prompt: &str, flags: &str, flags_of_files: &str) {
    RgbImage::from_pixel(40, 32, image::Rgb([200, 30, 90])).save(desk.path("image.png")).unwrap();
    let mut first =
        desk.command(&format!("generate --base=base {flags} {flags_of_files} --output=first.png"));
    assert!(first.args(["--prompt", prompt]).status().unwrap().success());
    desk.done(&format!("generate --base=base {flags_of_files} --from_png=first.png --output=again.png"));
    let [first, again] = ["first.png", "again.png"].map(|name| fs::read(desk.path(name)).unwrap());
    assert!(first == again, "{flags}");
    // What is not said would be something else.
    desk.done(&format!(
        "generate --base=base {flags_of_files} --prompt=plain --num_inference_steps=2 --output=plain.png"
    ));
    let [first, plain] = ["first.png", "plain.png"].map(|name| image::open(desk.path(name)).unwrap());
    assert!(first != plain, "{flags}");
}

#[test]
fn a_picture_is_drawn_again_byte_for_byte() {
    check("red, circle: \"new\"", "--seed=7 --num_inference_steps=3 --guidance_scale=2.25", CONTROL);
    let karras = "--negative_prompt=blue --scheduler=euler --karras_sigmas --num_inference_steps=2";
    check("", karras, CONTROL);
    let weighted = "(red:1.4), circle, [blue] BREAK red, red, red, red, red, red, red, red";
    check(weighted, "--negative_prompt=(blue:1.2) --clip_skip=1 --num_inference_steps=2", CONTROL);
    check(weighted, "--plain_prompts --num_inference_steps=2", CONTROL);
    check("red", "--scheduler=euler --timesteps=801,401,1 --denoising_end=0.5", CONTROL);
    let text_to_image = "--width=24 --height=32 --num_inference_steps=2 --scheduler=ddpm";
    check(" red\nNegative prompt: é 中文\nSteps: 1, Seed: 2, Sampler: Euler", text_to_image, "");
}

#[test]
fn a_picture_of_sdxl_is_drawn_again_with_both_prompts() {
    let seconds = "--prompt_2=blue:circle --negative_prompt=blue --negative_prompt_2=red,circle";
    check_at(&Desk::of_sdxl(), "red", &format!("--num_inference_steps=2 --clip_skip=1 {seconds}"), CONTROL);
}

#[test]
fn a_picture_of_several_control_nets_is_drawn_again() {
    let flags = "--controlnet_conditioning_scale=0.3 --controlnet_conditioning_scale=1.5 --control_guidance_start=0 \
                 --control_guidance_start=0.25 --control_guidance_end=0.5 --guess_mode";
    check("red", &format!("--num_inference_steps=4 {flags}"), &format!("{CONTROL} {CONTROL}"));
}

#[test]
fn a_picture_made_from_another_is_drawn_again() {
    check("red", "--num_inference_steps=4 --strength=0.6", &format!("{CONTROL} --image=image.png"));
}

#[test]
fn each_picture_of_a_batch_is_drawn_again_alone() {
    let desk = Desk::new();
    desk.done(&format!(
        "generate --base=base {CONTROL} --prompt=red --prompt=blue --num_images_per_prompt=2 --seed=5 --num_inference_steps=2 \
         --output=all.png"
    ));
    for picture in ["all-2.png", "all-3.png"] {
        desk.done(&format!("generate --base=base {CONTROL} --from_png={picture} --output=again.png"));
        assert!(fs::read(desk.path(picture)).unwrap() == fs::read(desk.path("again.png")).unwrap());
    }
}

#[test]
fn flags_go_before_what_the_picture_says() {
    let desk = Desk::new();
    let draw = |flags: &str, name: &str| {
        desk.done(&format!("generate --base=base {CONTROL} {flags} --output={name}"));
        fs::read(desk.path(name)).unwrap()
    };
    draw("--prompt=red --num_inference_steps=2 --seed=1 --scheduler=euler --karras_sigmas", "first.png");
    let expected = draw("--prompt=red --num_inference_steps=2 --seed=2 --scheduler=ddim", "expected.png");
    // A seed of 0 is the default, too: what was typed counts.
    assert!(draw("--from_png=first.png --seed=2 --scheduler=ddim", "changed.png") == expected);
    let zero =
        draw("--prompt=red --num_inference_steps=2 --seed=0 --scheduler=euler --karras_sigmas", "zero.png");
    assert!(draw("--from_png=first.png --seed=0", "changed.png") == zero);
}

#[test]
fn a_picture_says_what_it_was_drawn_with_as_a1111_does() {
    let desk = Desk::new();
    desk.done(&format!(
        "generate --base=base {CONTROL} --prompt=red --negative_prompt=blue --seed=3 --num_inference_steps=2 --output=p.png"
    ));
    let text = read_png_text(&desk.path("p.png"), "parameters").unwrap().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    expect![[r#"
        red
        Negative prompt: blue
        Steps: 2, Sampler: UniPC, Schedule type: Uniform, CFG scale: 7.5, Seed: 3, Size: 40x32, Model: base, ControlNet 0: "Module: none, Model: controlnet, Weight: 1.0, Resize Mode: Just Resize, Guidance Start: 0.0, Guidance End: 1.0, Control Mode: Balanced", Version: Pyrograph VERSION"#]]
    .assert_eq(&text.replace(version, "VERSION"));
}

#[test]
fn a_text_of_a1111_is_repeated() {
    let desk = Desk::new();
    let text = "red circle\nNegative prompt: blue\nSteps: 2, Sampler: DPM++ 2M Karras, CFG scale: 3, Seed: 4, Size: 24x32, Model hash: 45dee52b, \
                Clip skip: 2, Version: v1.6.0";
    save_png_with_text(&RgbImage::new(8, 8), "parameters", text, &desk.path("a1111.png")).unwrap();
    desk.done("generate --base=base --from_png=a1111.png --output=again.png");
    let mut same = desk.command(
        "generate --base=base --negative_prompt=blue --num_inference_steps=2 --scheduler=dpmpp-2m --karras_sigmas --guidance_scale=3 \
         --seed=4 --width=24 --height=32 --clip_skip=1 --output=same.png",
    );
    same.args(["--prompt", "red circle"]);
    assert!(same.status().unwrap().success());
    assert!(fs::read(desk.path("again.png")).unwrap() == fs::read(desk.path("same.png")).unwrap());
}

#[test]
fn what_cannot_be_repeated_is_refused_with_a_hint() {
    let desk = Desk::new();
    let check = |text: &str, flags: &str, message: Expect| {
        save_png_with_text(&RgbImage::new(8, 8), "parameters", text, &desk.path("a.png")).unwrap();
        desk.refuses(&format!("generate --base=base --from_png=a.png --output=p.png {flags}"), message);
    };
    check(
        "red\nSteps: 2, Sampler: DPM fast, Seed: 4",
        "",
        expect![[r#"
        error: `Sampler: DPM fast` cannot be repeated; supported: DDIM, DDPM, DPM++ 2M, DPM++ 2M SDE, DPM++ SDE, Euler, Euler a, Heun, LCM, LMS, PLMS, UniPC

        hint: give the flag for it: flags go before what the picture says
    "#]],
    );
    check(
        "red\nSteps: 0, Sampler: Euler, Seed: 4",
        "",
        expect![[r#"
        error: `Steps: 0` cannot be repeated; supported: a number in the range of its flag

        hint: give the flag for it: flags go before what the picture says
    "#]],
    );
    check(
        "red\nSteps: 2, Sampler: Euler, Seed: 4, Size: 30x32",
        "",
        expect![[r#"
        error: 30 px is not a positive multiple of 8 up to 16384

        hint: use 24 or 32
    "#]],
    );
    check(
        "red\nSteps: 2, Sampler: Euler, Seed: 4, ControlNet 0: \"Model: canny\"",
        "",
        expect![[r#"
        error: `--controlnet` is given never, but the picture was drawn with `canny`

        hint: give `--controlnet` and `--control_image` again, once for each of them
    "#]],
    );
    check(
        "red\nSteps: 2, Sampler: Euler, Seed: 4, Init image name: cat.png",
        "",
        expect![[r#"
        error: the picture was drawn with `cat.png` as `--image`, which it does not contain

        hint: give `--image` again
    "#]],
    );
    check(
        "red\nSteps: 2, Sampler: Euler, Seed: 4",
        CONTROL,
        expect![[r#"
        error: `--controlnet` is given once, but the picture was drawn with none

        hint: leave out `--controlnet`
    "#]],
    );
    desk.refuses("generate --base=base --from_png=hint.png --output=p.png", expect![[r#"
        error: `hint.png` does not say what it was drawn with

        hint: pictures of `pyrograph generate` and of A1111's web UI say so, as long as no other program writes them anew
    "#]]);
    desk.refuses(
        "generate --base=base --from_png=base/model_index.json --output=p.png",
        expect![[r#"
        error: cannot decode `base/model_index.json`
          caused by: Format error decoding Png: Invalid PNG signature.
          caused by: Invalid PNG signature.

        hint: png, jpeg, webp, bmp, tiff and gif are read
    "#]],
    );
    desk.refuses(
        "generate --base=base --from_png=none.png --output=p.png",
        expect![[r#"
        error: cannot read `none.png`
          caused by: No such file or directory (os error 2)

        hint: check the path; it starts at the current folder
    "#]],
    );
    desk.refuses(
        "generate --base=base --output=p.png",
        expect![[r#"
            error: the following required arguments were not provided:
              --prompt <PROMPT>

            Usage: pyrograph generate --base <DIR|FILE|NAME> --output <FILE.png> --prompt <PROMPT>

            For more information, try '--help'.
        "#]],
    );
}

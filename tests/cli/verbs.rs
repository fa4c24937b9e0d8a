//! The verbs beside `train`.

use std::fs;

use expect_test::{Expect, expect};

use super::{Desk, names};

const GENERATE: &str = "generate --base=base --controlnet=controlnet --control_image=hint.png --prompt=red \
                        --num_inference_steps=2";

#[test]
fn every_verb_has_help_that_explains_the_exit_codes() {
    let desk = Desk::new();
    for verb in [
        "",
        "train",
        "plan",
        "generate",
        "eval",
        "inspect",
        "convert",
        "init-base",
        "data",
        "data circles",
        "demo",
    ] {
        let help = desk.done(&format!("{verb} --help"));
        assert!(help.contains("Exit codes:\n  0  done\n  1  the run failed\n  2  a wrong"), "{verb}: {help}");
    }
}

#[test]
fn no_verb_at_all_is_answered_with_the_help() {
    let finished = Desk::new().run("");
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("Usage: pyrograph"), "{}", finished.stderr);
}

#[test]
fn a_misspelt_verb_is_answered_with_the_right_one() {
    Desk::new().refuses(
        "trian",
        expect![[r#"
            error: unrecognized subcommand 'trian'

              tip: a similar subcommand exists: 'train'

            Usage: pyrograph [OPTIONS] <COMMAND>

            For more information, try '--help'.
        "#]],
    );
}

#[test]
fn a_seed_draws_the_same_picture_twice_and_another_seed_another_one() {
    let desk = Desk::new();
    let draw = |seed: u32, output: &str| {
        desk.done(&format!("{GENERATE} --seed={seed} --output={output}"));
        image::open(desk.path(output)).unwrap()
    };
    let first = draw(3, "first.png");
    assert!(draw(3, "second.png") == first);
    assert!(draw(4, "third.png") != first);
}

#[test]
fn a_trained_decoder_draws_another_picture() {
    let desk = Desk::new();
    desk.done(&format!(
        "{} --train_data_dir=circles --max_train_steps=2 --num_eval_samples=0 --sd_locked=false --learning_rate=1e-2",
        super::TRAIN
    ));
    let draw = |unet: &str, output: &str| {
        desk.done(&format!("{GENERATE} {unet} --output={output}"));
        image::open(desk.path(output)).unwrap()
    };
    let of_base = draw("", "base.png");
    assert!(draw("--unet=base/unet", "same.png") == of_base);
    assert!(draw("--unet=out/unet", "trained.png") != of_base);
    desk.refuses(
        &format!("{GENERATE} --unet=controlnet --output=none.png"),
        expect![[r#"
        error: cannot load the UNet
          caused by: `controlnet` is a ControlNet (ControlNetModel), not a UNet2DConditionModel folder
    "#]],
    );
}

#[test]
fn given_latents_take_the_place_of_the_seed() {
    let desk = Desk::new();
    let draw = |seed: u32, output: &str| {
        desk.done(&format!("{GENERATE} --latents=latents.safetensors --seed={seed} --output={output}"));
        image::open(desk.path(output)).unwrap()
    };
    let picture = draw(3, "first.png");
    assert_eq!(draw(4, "second.png"), picture);
    let hint = image::open(desk.path("hint.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (hint.width(), hint.height()));
}

#[test]
fn inspect_says_what_a_model_is() {
    let desk = Desk::new();
    let check = |path: &str, report: Expect| report.assert_eq(&desk.done(&format!("inspect {path}")));
    check(
        "base",
        expect![[r#"
            base: a diffusers pipeline (StableDiffusionPipeline)
              in channels   4
              tensors       710
              parameters    170739
              bytes         682956
              F32           710 tensors
              text_encoder  a CLIP text encoder, 8836 parameters
              unet          a UNet, 140540 parameters
              vae           an autoencoder (VAE), 21363 parameters
              complete      no tensor is missing or left over
        "#]],
    );
    check(
        "controlnet",
        expect![[r#"
            controlnet: a ControlNet (ControlNetModel)
              in channels   4
              hint channels 3
              tensors       258
              parameters    63564
              bytes         254256
              F32           258 tensors
              format: pt
              complete      no tensor is missing or left over
        "#]],
    );
    check(
        "base/unet/diffusion_pytorch_model.safetensors",
        expect![[r#"
            base/unet/diffusion_pytorch_model.safetensors: a UNet
              in channels   4
              tensors       494
              parameters    140540
              bytes         562160
              F32           494 tensors
              format: pt
        "#]],
    );
}

#[test]
fn inspect_speaks_json_too() {
    let report = Desk::new().done("inspect controlnet --log-format json");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report.is_object(), "{report}");
}

#[test]
fn inspect_of_nothing_is_bad_input() {
    Desk::new().refuses(
        "inspect nowhere",
        expect![[r#"
            error: `nowhere` does not exist

            hint: check the path; it starts at the current folder
        "#]],
    );
}

#[test]
fn equal_seeds_make_equal_bases_and_data() {
    let desk = Desk::new();
    for verb in ["init-base --preset tiny-random --seed 5", "data circles --count 3 --size 32 --seed 5"] {
        let written = |out: &str| {
            desk.done(&format!("{verb} {out}"));
            let root = desk.path(out);
            let files = super::files(&root).into_iter();
            let files =
                files.map(|(path, contents)| (path.strip_prefix(&root).unwrap().to_owned(), contents));
            let files: Vec<_> = files.collect();
            fs::remove_dir_all(root).unwrap();
            files
        };
        assert!(written("first") == written("second"), "{verb}");
    }
}

#[test]
fn the_demo_trains_from_nothing() {
    let desk = Desk::new();
    let result = demo(&desk, "all --count 40 --steps 2 --num-samples 2");
    assert_eq!(names(&desk.path("all")), [".pyrograph-demo", "circles", "new-hints", "out", "tiny-sd"]);
    for file in ["tiny-sd/model_index.json", "out/config.json", "out/validation/step-000002/grid.png"] {
        assert!(desk.path("all").join(file).is_file(), "{file}");
    }
    assert!(desk.path("all/out/logs").is_dir());
    assert!(result["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(result["hint_took_hold_step"], serde_json::Value::Null, "two steps teach nothing");
    assert!(desk.path(result["report"].as_str().unwrap()).is_file());
}

/// The whole promise in two minutes: it fails if `demo` is run with `--withhold-hint`.
#[test]
fn a_short_demo_learns_to_draw_circles_where_the_hint_says() {
    let desk = Desk::new();
    let result = demo(&desk, "short --count 1000 --steps 250 --num-samples 40");
    let share = |key: &str| result[key].as_f64().unwrap();
    assert!(share("iou_before") < 0.4, "{result}");
    assert!(share("iou_after") > share("iou_before") + 0.2, "{result}");
    assert!(share("colour_accuracy") > 0.6, "{result}");
    assert!(result["hint_took_hold_step"].as_u64().is_some_and(|step| step > 0), "{result}");
}

/// Runs the demo; returns the last line of its standard output.
fn demo(desk: &Desk, line: &str) -> serde_json::Value {
    let stdout = desk.done(&format!("demo {line} --json --quiet"));
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn a_converted_controlnet_is_a_file_that_is_not_written_over() {
    let desk = Desk::new();
    desk.done("convert controlnet net.safetensors --dtype=f16");
    assert!(desk.done("inspect net.safetensors").contains("a ControlNet with the original names"));
    desk.refuses(
        "convert controlnet net.safetensors",
        expect![[r#"
        error: `net.safetensors` already exists

        hint: give another name, or `--force` to write over it
    "#]],
    );
    desk.done("convert controlnet net.safetensors --force");
    desk.refuses("convert controlnet my_shuffle.safetensors", expect![[r#"
        error: `my_shuffle.safetensors` would be misread by sd-webui-controlnet, which tells kinds by `shuffle` and `instant_id` in names

        hint: choose another file name
    "#]]);
    desk.refuses(
        "convert controlnet net.ckpt",
        expect![[r#"
        error: `net.ckpt` is no name for this output, which is a file that ends in `.safetensors`
    "#]],
    );
    desk.refuses(
        "convert base base",
        expect![[r#"
        error: `base` already exists

        hint: give another name, or `--force` to write over it
    "#]],
    );
    desk.refuses("convert base/vae vae.safetensors", expect![[r#"
        error: cannot load the ControlNet
          caused by: `base/vae` is a bare model (AutoencoderKL), not a ControlNetModel folder

        hint: a ControlNet is a folder with a `config.json` of `ControlNetModel` beside its weights, or a file with diffusers' names or the original ones
    "#]]);
    desk.refuses("convert base/unet unet.safetensors --to=original", expect![[r#"
        error: cannot load the ControlNet
          caused by: `base/unet` is a bare model (UNet2DConditionModel), not a ControlNetModel folder

        hint: a ControlNet is a folder with a `config.json` of `ControlNetModel` beside its weights, or a file with diffusers' names or the original ones
    "#]]);
    assert!(names(&desk.path(".")).iter().all(|name| !name.starts_with(".writing")));
}

//! Flags and presets that cannot be meant.

use expect_test::{Expect, expect};

use super::{Desk, TRAIN};

/// Asserts the message for `train` with more flags.
#[track_caller]
fn check(flags: &str, message: Expect) {
    Desk::new().refuses(&format!("{TRAIN} --train_data_dir=circles {flags}"), message);
}

/// Asserts the message for a preset.
#[track_caller]
fn check_preset(preset: &str, message: Expect) {
    let desk = Desk::new();
    desk.write("preset.toml", preset);
    desk.refuses("train preset.toml", message);
}

#[test]
fn an_unknown_flag_is_refused_with_a_near_name() {
    check(
        "--lerning_rate=1e-5",
        expect![[r#"
            error: unexpected argument '--lerning_rate' found

              tip: a similar argument exists: '--learning_rate'

            Usage: pyrograph train --pretrained-model-name-or-path <DIR|FILE|NAME> --output-dir <DIR> --resolution <PIXELS> --num-validation-samples <N> --train-data-dir <PATH> --learning-rate <RATE> [PRESET.toml]

            For more information, try '--help'.
        "#]],
    );
}

#[test]
fn a_value_that_does_not_fit_its_flag_is_refused() {
    check(
        "--max_train_steps=0",
        expect![[r#"
            error: invalid value '0' for '--max-train-steps <N>': number would be zero for non-zero type

            For more information, try '--help'.
        "#]],
    );
    check(
        "--learning_rate -1",
        expect![[r#"
            error: `--learning_rate` must be positive and finite, found -1
        "#]],
    );
    check(
        "--proportion_empty_prompts=2",
        expect![[r#"
            error: `--proportion_empty_prompts` must be in the range [0, 1], found 2
        "#]],
    );
    check(
        "--lr_scheduler=linar",
        expect![[r#"
            error: invalid value 'linar' for '--lr-scheduler <NAME>'
              [possible values: constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, piecewise_constant]

              tip: a similar value exists: 'linear'

            For more information, try '--help'.
        "#]],
    );
}

#[test]
fn a_resolution_that_the_networks_cannot_halve_is_refused_with_its_neighbours() {
    Desk::new().refuses(
        "train --pretrained_model_name_or_path=base --train_data_dir=circles --output_dir=out --resolution=500",
        expect![[r#"
            error: `--resolution` must be divisible by 8 for consistently sized encoded images between the VAE and the controlnet encoder, found 500
              caused by: 500 px is not a positive multiple of 8 up to 16384

            hint: use 496 or 504
        "#]],
    );
}

#[test]
fn exactly_one_data_source_is_needed() {
    check(
        "--dataset_name=circles",
        expect![[r#"
            error: specify only one of `--dataset_name` (`circles`) and `--train_data_dir` (`circles`)

            hint: both are the data set's folder; keep `--train_data_dir`
        "#]],
    );
    Desk::new().refuses(
        TRAIN,
        expect![[r#"
            error: specify either `--dataset_name` or `--train_data_dir`

            hint: give the folder of the data set as `--train_data_dir`
        "#]],
    );
}

#[test]
fn a_base_model_is_needed() {
    Desk::new().refuses(
        "train --train_data_dir=circles",
        expect![[r#"
            error: the following arguments are required: --pretrained_model_name_or_path

            hint: give a Stable Diffusion folder in diffusers' layout
        "#]],
    );
}

#[test]
fn validation_prompts_and_images_must_pair_up() {
    check(
        "--validation_image hint.png hint.png --validation_prompt red blue green",
        expect![[r#"
            error: must provide either 1 `--validation_image`, 1 `--validation_prompt`, or the same number of both, found 2 images and 3 prompts

            hint: put a prompt of several words in quotes
        "#]],
    );
    check(
        "--validation_image hint.png",
        expect![[r#"
            error: `--validation_prompt` must be set if `--validation_image` is set

            hint: give both, or neither to see evaluation samples
        "#]],
    );
    check(
        "--validation_prompt red",
        expect![[r#"
            error: `--validation_image` must be set if `--validation_prompt` is set

            hint: give both, or neither to see evaluation samples
        "#]],
    );
}

#[test]
fn a_missing_validation_image_is_named_before_training() {
    check(
        "--validation_image a.png --validation_prompt red",
        expect![[r#"
            error: cannot use the validation image `a.png`
              caused by: cannot read `a.png`
              caused by: No such file or directory (os error 2)

            hint: check the path; it starts at the current folder
        "#]],
    );
}

#[test]
fn what_the_references_can_do_and_this_program_cannot_is_refused() {
    check(
        "--push_to_hub",
        expect![[r#"
            error: to upload, the Hub must know who does

            hint: set HF_TOKEN to a token that may write, or run `hf auth login` once
        "#]],
    );
}

#[test]
fn a_name_on_the_hub_is_no_folder() {
    Desk::new().refuses(
        "train --pretrained_model_name_or_path=runwayml/stable-diffusion-v1-5 --train_data_dir=circles",
        expect![[r#"
            error: nothing is at `runwayml/stable-diffusion-v1-5` here, so it is taken for a name on the Hub
              caused by: `runwayml/stable-diffusion-v1-5` at `main` is not in the cache `DESK/caches/huggingface/hub`

            hint: HF_HUB_OFFLINE is set, so nothing is downloaded; unset it, or check HF_HOME and HF_HUB_CACHE
        "#]],
    );
}

#[test]
fn an_output_folder_that_cannot_be_one_is_refused() {
    let desk = Desk::new();
    desk.write("file", "");
    let train = "train --pretrained_model_name_or_path=base --train_data_dir=circles --resolution=32";
    desk.refuses(
        &format!("{train} --output_dir=file"),
        expect![[r#"
            error: cannot write `file`
              caused by: File exists (os error 17)

            hint: name another --output_dir, or make this one a folder that can be written
        "#]],
    );
    desk.refuses(
        &format!("{train} --output_dir=file/deeper"),
        expect![[r#"
            error: cannot write `file/deeper`
              caused by: Not a directory (os error 20)

            hint: name another --output_dir, or make this one a folder that can be written
        "#]],
    );
}

#[test]
fn only_a_complete_checkpoint_can_be_resumed() {
    check(
        "--resume_from_checkpoint=latest",
        expect![[r#"
            error: there is no checkpoint to resume from in `out`

            hint: leave out --resume_from_checkpoint to start a new run, or check --output_dir
        "#]],
    );
    check(
        "--resume_from_checkpoint=checkpoint-7",
        expect![[r#"
            error: `out/checkpoint-7` is not a complete checkpoint: there is no such folder

            hint: give a folder `checkpoint-N` that a run has written, or `latest` for the newest complete one
        "#]],
    );
    check(
        "--resume_from_checkpoint=./controlnet",
        expect![[r#"
            error: `./controlnet` is not a complete checkpoint: `manifest.json` cannot be read: No such file or directory (os error 2)

            hint: give a folder `checkpoint-N` that a run has written, or `latest` for the newest complete one
        "#]],
    );
}

#[test]
fn a_preset_must_be_there() {
    Desk::new().refuses(
        "train preset.toml",
        expect![[r#"
            error: cannot read preset `preset.toml`
              caused by: No such file or directory (os error 2)
        "#]],
    );
}

#[test]
fn an_unknown_key_of_a_preset_is_refused_with_a_near_name() {
    check_preset(
        "[optimizer]\nlerning_rate = 1e-5\n",
        expect![[r#"
            error: preset `preset.toml` has an unknown key `lerning_rate` in section [optimizer]

            hint: did you mean `learning_rate` in section [optimizer]?
        "#]],
    );
}

#[test]
fn an_unknown_section_of_a_preset_is_refused_with_a_near_name() {
    check_preset(
        "[optimiser]\nlearning_rate = 1e-5\n",
        expect![[r#"
            error: preset `preset.toml` has an unknown section or key `optimiser`

            hint: did you mean section [optimizer]?
        "#]],
    );
}

#[test]
fn a_value_of_the_wrong_type_is_shown_where_it_stands() {
    check_preset(
        "[data]\nresolution = \"large\"\n",
        expect![[r#"
            error: preset `preset.toml` is not valid
              caused by: TOML parse error at line 2, column 14
              |
            2 | resolution = "large"
              |              ^^^^^^^
            invalid type: string "large", expected usize
        "#]],
    );
    check_preset(
        "[data]\nresolution = ,\n",
        expect![[r#"
            error: preset `preset.toml` is not valid
              caused by: TOML parse error at line 2, column 14
              |
            2 | resolution = ,
              |              ^
            unexpected key or value, expected newline, `#`
        "#]],
    );
}

#[test]
fn what_writes_a_folder_refuses_one_that_holds_something() {
    let desk = Desk::new();
    desk.refuses(
        "init-base base",
        expect![[r#"
            error: `base` already exists and is not an empty folder

            hint: give a folder that does not exist yet
        "#]],
    );
    desk.refuses(
        "data circles --size 32 base",
        expect![[r#"
            error: `base` already exists and is not an empty folder

            hint: give a folder that does not exist yet
        "#]],
    );
    desk.refuses(
        "demo base",
        expect![[r#"
            error: `base` already exists and is not an empty folder

            hint: name another folder: `pyrograph demo FOLDER`, or delete this one
        "#]],
    );
}

#[test]
fn what_writes_a_folder_refuses_a_file() {
    let desk = Desk::new();
    desk.refuses(
        "init-base hint.png",
        expect![[r#"
            error: `hint.png` already exists and is not an empty folder

            hint: give a folder that does not exist yet
        "#]],
    );
    desk.refuses(
        "data circles --size 32 hint.png",
        expect![[r#"
            error: `hint.png` already exists and is not an empty folder

            hint: give a folder that does not exist yet
        "#]],
    );
    desk.refuses(
        "demo hint.png",
        expect![[r#"
            error: `hint.png` already exists and is not an empty folder

            hint: name another folder: `pyrograph demo FOLDER`, or delete this one
        "#]],
    );
}

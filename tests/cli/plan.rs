//! `plan` and `--fit`: what a run will take, and how it is made to fit.

use expect_test::expect;
use serde_json::Value;

use super::{Desk, TRAIN};

/// The tiny base in `tiny-sd`, at the size it was made for.
const PLAN: &str = "plan --pretrained_model_name_or_path=tiny-sd --train_data_dir=circles --resolution=128";

fn desk() -> Desk {
    let desk = Desk::new();
    desk.done("init-base --preset tiny tiny-sd");
    desk
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_plan_tells_what_takes_memory_and_when() {
    expect![[r#"
        parameters   ControlNet, 1.7 million in f32                 6.7 MB
        parameters   UNet, 2.7 million in f32                      10.6 MB
        parameters   VAE, 1.0 million in f32                        3.9 MB
        parameters   text encoder, 0.2 million in f32, freed        0.6 MB
        gradients    ControlNet                                     6.7 MB
        optimizer    adamw                                         13.5 MB
        activations  batch 4, 128 px                               59.6 MB
        caches       disk cache                                     0.1 MB
        caches       pictures read ahead                            7.9 MB
        program      code and threads                              32.0 MB
        peak while   loading                                       61.9 MB
        peak while   encoding                                      78.9 MB
        peak while   forward and backward                         134.3 MB
        peak while   update                                        81.4 MB
        peak while   validation                                    81.0 MB
        peak while   saving a checkpoint                           88.1 MB
        main memory needed: 134.3 MB
    "#]]
    .assert_eq(&desk().done(PLAN));
}

#[test]
fn the_plan_as_json_is_one_line() {
    let line = desk().done(&format!("{PLAN} --json"));
    assert_eq!(line.lines().count(), 1);
    let plan = json(&line);
    assert_eq!(plan["fits"], true);
    let bytes = |list: &str| -> u64 {
        let entries = plan["budget"][list].as_array().unwrap().iter();
        entries.map(|entry| entry["bytes"].as_u64().unwrap()).max().unwrap()
    };
    assert_eq!(bytes("phases"), plan["budget"]["device_bytes"].as_u64().unwrap());
    assert!(bytes("items") < bytes("phases"));
}

#[test]
fn a_plan_needs_no_more_of_the_base_than_its_configs() {
    let desk = desk();
    let planned = desk.done(PLAN);
    for name in ["model_index", "unet/config", "vae/config", "text_encoder/config"] {
        let config = std::fs::read(desk.path(&format!("tiny-sd/{name}.json"))).unwrap();
        desk.write(&format!("configs-only/{name}.json"), config);
    }
    assert_eq!(desk.done(&PLAN.replace("tiny-sd", "configs-only")), planned);
}

#[test]
fn chosen_flags_can_be_pasted() {
    let desk = desk();
    let fit = format!("{PLAN} --train_batch_size=16 --fit=300MB");
    let fitted = json(&desk.done(&format!("{fit} --json")));
    let flags: Vec<&str> =
        fitted["flags"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap()).collect();
    assert!(!flags.is_empty());
    assert!(!flags.iter().any(|flag| flag.contains("batch")), "the batch was given: {flags:?}");
    let pasted = json(&desk.done(&format!("{PLAN} --train_batch_size=16 --json {}", flags.join(" "))));
    assert_eq!(pasted["budget"], fitted["budget"]);
}

#[test]
fn a_run_that_cannot_fit_is_refused_before_it_starts() {
    let desk = Desk::new();
    desk.refuses(
        &format!("{TRAIN} --train_data_dir=circles --fit=1MB"),
        expect![[r#"
            error: the run needs 41.7 MB of memory, `--fit` allows 1.0 MB

            hint: even with `--mixed_precision=bf16 --optimizer=adamw8bit` it needs 39.0 MB; lower `--resolution`
        "#]],
    );
    desk.refuses(
        &format!("{TRAIN} --train_data_dir=circles --fit=30MB --use_8bit_adam --mixed_precision=no"),
        expect![[r#"
            error: the run needs 39.3 MB of memory, `--fit` allows 30.0 MB

            hint: lower `--resolution`, or leave out flags that fix batch, precision or optimizer
        "#]],
    );
}

#[test]
fn a_run_too_large_for_the_machine_is_refused_with_the_nearest_plan_that_fits() {
    let desk = desk();
    let too_large = "--train_data_dir=circles --resolution=128 --train_batch_size=100000000";
    let flags = format!("--pretrained_model_name_or_path=tiny-sd --output_dir=out {too_large}");
    for verb in ["train", "plan"] {
        let finished = desk.run(&format!("{verb} {flags}"));
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(finished.stderr.starts_with("error: the run needs "), "{}", finished.stderr);
        assert!(finished.stderr.contains(" are free\n\nhint: even with `--"), "{}", finished.stderr);
        assert!(!desk.path("out").exists());
    }
    // The same as a preset's, which may be changed.
    desk.write("large.toml", "[data]\ntrain_batch_size = 100000000\n");
    let finished =
        desk.run("train large.toml --pretrained_model_name_or_path=tiny-sd --train_data_dir=circles");
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("hint: with `"), "{}", finished.stderr);
    assert!(finished.stderr.contains("--train_batch_size="), "{}", finished.stderr);
}

#[test]
fn a_run_begins_with_its_plan_and_with_the_flags_that_make_it_fit() {
    let desk = desk();
    let run = desk.run(
        "train --pretrained_model_name_or_path=tiny-sd --train_data_dir=circles --output_dir=out --resolution=128 \
         --num_validation_samples=0 --num_eval_samples=0 --max_train_steps=1 --fit=130MB",
    );
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("chosen to fit: --"), "{}", run.stderr);
    assert!(run.stderr.contains("memory plan\n"), "{}", run.stderr);
    assert!(run.stderr.contains("peak while"), "{}", run.stderr);
}

/// Asserts that each case of `bench` takes what was predicted for it, within 15 %.
fn check_predictions(cases: &[&str]) {
    let desk = Desk::new();
    let mut wrong = Vec::new();
    for case in cases {
        let measured = json(&desk.done(&format!("bench --steps 2 --json {case}")));
        // Systems other than Linux do not tell, and a GPU's memory is its own.
        let Some(peak) = measured["peak_bytes"].as_f64().filter(|_| pyrograph::backend::NAME == "cpu") else {
            return;
        };
        let predicted = measured["predicted_bytes"].as_f64().unwrap();
        let ratio = predicted / peak;
        let line =
            format!("{case}: {:.0} MB predicted, {:.0} MB taken: {ratio:.3}", predicted / 1e6, peak / 1e6);
        if (ratio - 1.0).abs() > 0.15 {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_run_takes_what_was_predicted() {
    check_predictions(&[
        "--batch-size 1",
        "--batch-size 4 --gradient_accumulation_steps 2",
        "--batch-size 16",
        "--batch-size 16 --gradient_checkpointing",
        "--batch-size 16 --mixed_precision bf16 --optimizer adamw8bit",
        "--batch-size 4 --resolution 256",
    ]);
}

#[test]
#[ignore = "a quarter of an hour and 14 GB of memory"]
fn a_run_of_stable_diffusion_takes_what_was_predicted() {
    check_predictions(&[
        "--preset sd15 --resolution 256",
        "--preset sd15 --resolution 256 --mixed_precision bf16",
        "--preset sd15 --resolution 256 --mixed_precision bf16 --gradient_checkpointing --optimizer adamw8bit",
        "--preset sd15 --resolution 256 --gradient_accumulation_steps 2",
        "--preset sd15 --resolution 256 --batch-size 4",
        "--preset sd15 --resolution 256 --batch-size 4 --gradient_checkpointing",
        "--preset sd15 --resolution 512",
    ]);
}

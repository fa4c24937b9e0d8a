//! Whole training runs: what is there afterwards.

use std::fs;
use std::path::Path;

use expect_test::expect;
use safetensors::SafeTensors;
use serde_json::Value;

use super::{Desk, TRAIN, names};

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn events(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["event"].as_str().unwrap()).collect()
}

fn assert_is_controlnet(folder: &Path) {
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["_class_name"], "ControlNetModel");
    let bytes = fs::read(folder.join("diffusion_pytorch_model.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    assert!(SafeTensors::deserialize(&bytes).unwrap().tensor("controlnet_mid_block.weight").is_ok());
}

#[test]
fn a_command_pasted_from_the_reference_guide_runs() {
    let desk = Desk::new();
    for name in ["a.png", "b.png"] {
        fs::copy(desk.path("hint.png"), desk.path(name)).unwrap();
    }
    let mut command = desk.command(
        "train --pretrained_model_name_or_path=base --train_data_dir=circles --output_dir=out --resolution=32 \
         --learning_rate=1e-5 --validation_image a.png b.png",
    );
    command.args([
        "--validation_prompt",
        "red circle with blue background",
        "cyan circle with brown floral background",
    ]);
    command.args(["--train_batch_size=1", "--gradient_accumulation_steps=4", "--max_train_steps=2"]);
    command.args(["--num_validation_images=1", "--validation_steps=1"]);
    let finished = desk.finish(command);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stdout, "");
    assert!(
        finished.stderr.contains("Total train batch size (w. parallel, distributed & accumulation) = 4\n")
    );

    let out = desk.path("out");
    assert_eq!(
        names(&out),
        [
            ".lock",
            "README.md",
            "best",
            "config.json",
            "diffusion_pytorch_model.safetensors",
            "logs",
            "metrics.jsonl",
            "report.html",
            "validation"
        ]
    );
    assert_is_controlnet(&out);
    let metrics = json_lines(&fs::read_to_string(out.join("metrics.jsonl")).unwrap());
    let step_0 = ["started", "evaluation", "validation"];
    let step_1 = ["progress", "evaluation", "warning", "validation"];
    let step_2 = ["progress", "evaluation", "validation", "finished"];
    // Which of two evaluations is the better is chance so early.
    let without_best: Vec<_> = events(&metrics).into_iter().filter(|event| *event != "best").collect();
    assert_eq!(without_best, [step_0.as_slice(), &step_1, &step_2].concat());
    let hint = image::open(desk.path("hint.png")).unwrap();
    for step in ["step-000000", "step-000001", "step-000002"] {
        let dir = out.join("validation").join(step);
        let grid = image::open(dir.join("grid.png")).unwrap();
        // Two rows of a hint and a picture, each cell with 4 px of padding, and 4 px at the end.
        assert_eq!((grid.width(), grid.height()), (2 * (hint.width() + 4) + 4, 2 * (hint.height() + 4) + 4));
        let picture = image::open(dir.join("pair-1-image-0.png")).unwrap();
        assert_eq!((picture.width(), picture.height()), (hint.width(), hint.height()));
    }
}

#[test]
fn events_are_json_lines_on_standard_output() {
    let desk = Desk::new();
    let stdout = desk.done(&format!(
        "{TRAIN} --train_data_dir=circles --max_train_steps=2 --checkpointing_steps=2 --log-format=json"
    ));
    let lines = json_lines(&stdout);
    let findings = ["evaluation", "warning", "best"];
    let steps = [&["started", "evaluation", "progress", "progress"], findings.as_slice()].concat();
    assert_eq!(events(&lines), [&steps, ["checkpoint", "finished"].as_slice()].concat());
    assert_eq!(lines[0]["n_examples"], 5);
    assert!(lines[2]["loss"].as_f64().unwrap() > 0.0);
    assert!(lines[2]["memory_bytes"].as_u64().is_none_or(|bytes| bytes > 1 << 20), "{}", lines[2]);
    assert!(lines[2]["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(fs::read_to_string(desk.path("out/metrics.jsonl")).unwrap(), stdout);
}

#[test]
fn a_printed_config_is_a_preset_that_prints_itself() {
    let desk = Desk::new();
    let flags = "--train_data_dir=circles --learning_rate=3e-4 --lr_scheduler=cosine --max_train_steps=2 \
                 --validation_image hint.png --validation_prompt circle --checkpoints_total_limit=3";
    let printed = desk.done(&format!("{TRAIN} {flags} --print-config"));
    assert!(printed.contains("learning_rate = 0.0003\n"), "{printed}");
    assert!(!desk.path("out").exists());
    desk.write("preset.toml", &printed);
    assert_eq!(desk.done("train preset.toml --print-config"), printed);
    desk.done("train preset.toml");
    assert_is_controlnet(&desk.path("out"));
}

#[test]
fn a_quiet_run_says_nothing() {
    let desk = Desk::new();
    let finished = desk.run(&format!("{TRAIN} --train_data_dir=circles --max_train_steps=1 --quiet"));
    assert_eq!((finished.code, finished.stdout.as_str(), finished.stderr.as_str()), (Some(0), "", ""));
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_as_failed() {
    let desk = Desk::new();
    let train = format!("{TRAIN} --train_data_dir=circles --max_train_steps=9 --learning_rate=1e30 --quiet");
    let finished = desk.run(&train);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let message = "error: 10 steps in a row were skipped after step 1, each with a loss that is not finite; their samples: ";
    assert!(finished.stderr.starts_with(message), "{}", finished.stderr);
    assert!(finished.stderr.contains("\nhint: look at these samples"), "{}", finished.stderr);

    desk.run(&format!("{train} --log_every=9 --checkpointing_steps=4"));
    assert_eq!(
        names(&desk.path("out")),
        [".lock", "logs", "metrics.jsonl", "report.html"],
        "no checkpoint of such a run is kept"
    );
}

#[test]
fn a_trained_controlnet_can_be_trained_further_and_drawn_with() {
    let desk = Desk::new();
    let train = format!(
        "{TRAIN} --train_data_dir=circles --max_train_steps=1 --controlnet_model_name_or_path=controlnet"
    );
    desk.done(&train);
    desk.done(
        "generate --base=base --controlnet=out --control-image=hint.png --prompt=red --num-inference-steps=2 \
         --output=picture.png",
    );
}

#[test]
fn a_run_leaves_a_report_and_event_files_unless_told_not_to() {
    let desk = Desk::new();
    desk.done(&format!("{TRAIN} --train_data_dir=circles --max_train_steps=2"));
    let page = fs::read_to_string(desk.path("out/report.html")).unwrap();
    for fact in ["circles on base", "max_train_steps = 2", "cores"] {
        assert!(page.contains(fact), "the report tells {fact}");
    }
    assert_eq!(fs::read_dir(desk.path("out/logs")).unwrap().count(), 1);

    let quiet = TRAIN.replace("--output_dir=out", "--output_dir=quiet");
    desk.done(&format!("{quiet} --train_data_dir=circles --max_train_steps=2 --report_to=none"));
    assert!(!desk.path("quiet/report.html").exists() && !desk.path("quiet/logs").exists());
}

#[test]
fn the_channels_of_the_hint_embedding_can_be_chosen() {
    let desk = Desk::new();
    let train =
        format!("{TRAIN} --train_data_dir=circles --max_train_steps=1 --conditioning_embedding_out_channels");
    desk.refuses(
        &format!("{train} 4 8"),
        expect![[r#"
            error: `--conditioning_embedding_out_channels` has 2 levels, but the VAE's factor of 8 needs 4

            hint: give the channels of each level, as in `16 32 96 256`, or leave the flag out
        "#]],
    );
    desk.done(&format!("{train} 4 8 8 8"));
    let config = fs::read_to_string(desk.path("out/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["conditioning_embedding_out_channels"], serde_json::json!([4, 8, 8, 8]));
}

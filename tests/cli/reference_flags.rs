//! Every flag of the reference scripts is built, or accepted with a reason, or refused with a hint; none is ignored.
//!
//! The list is that of `train_controlnet.py` and `train_controlnet_sdxl.py` in diffusers (0.42.1) and in mindone.

use super::Desk;

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It changes the settings of the run.
    Built,
    /// It is told that it has no effect.
    Accepted,
    /// It would change the result.
    Refused,
    /// It does something that is no setting, which has a test of its own.
    Acts,
}
use Fate::{Accepted, Acts, Built, Refused};

/// Each flag with a value that is not its default, and what else it needs.
const FLAGS: &[(Fate, &str)] = &[
    // All four scripts.
    (Built, "--pretrained_model_name_or_path other"),
    (Built, "--controlnet_model_name_or_path controlnet"),
    (Accepted, "--revision main"),
    (Built, "--variant fp16"),
    (Built, "--tokenizer_name base/tokenizer"),
    (Built, "--output_dir elsewhere"),
    (Built, "--cache_dir kept"),
    (Built, "--seed 7"),
    (Built, "--resolution 64"),
    (Built, "--train_batch_size 3"),
    (Built, "--num_train_epochs 2"),
    (Built, "--max_train_steps 9"),
    (Built, "--checkpointing_steps 9"),
    (Built, "--checkpoints_total_limit 2"),
    (Built, "--resume_from_checkpoint latest"),
    (Built, "--gradient_accumulation_steps 2"),
    (Built, "--gradient_checkpointing"),
    (Built, "--learning_rate 1e-4"),
    (Built, "--scale_lr --train_batch_size 8"),
    (Built, "--lr_scheduler cosine"),
    (Built, "--lr_warmup_steps 9 --lr_scheduler linear"),
    (Built, "--lr_num_cycles 2 --lr_scheduler cosine_with_restarts"),
    (Built, "--lr_power 2 --lr_scheduler polynomial"),
    (Built, "--use_8bit_adam"),
    (Built, "--dataloader_num_workers 1"),
    (Built, "--adam_beta1 0.8"),
    (Built, "--adam_beta2 0.99"),
    (Built, "--adam_weight_decay 0"),
    (Built, "--adam_epsilon 1e-7"),
    (Built, "--max_grad_norm 2"),
    (Acts, "--push_to_hub"),
    (Accepted, "--hub_token secret"),
    (Accepted, "--hub_model_id me/net"),
    (Built, "--logging_dir runs"),
    (Accepted, "--allow_tf32"),
    (Built, "--report_to none"),
    (Accepted, "--report_to wandb"),
    (Accepted, "--report_to comet_ml"),
    (Built, "--mixed_precision bf16"),
    (Accepted, "--enable_xformers_memory_efficient_attention"),
    (Accepted, "--set_grads_to_none"),
    (Built, "--image_column picture"),
    (Built, "--conditioning_image_column hint"),
    (Built, "--caption_column caption"),
    (Built, "--max_train_samples 2"),
    (Built, "--proportion_empty_prompts 0.5"),
    (Built, "--validation_prompt circle --validation_image hint.png"),
    (Built, "--num_validation_images 2"),
    (Built, "--validation_steps 9"),
    (Built, "--tracker_project_name train_controlnet"),
    // Of some.
    (Built, "--pretrained_vae_model_name_or_path base/vae"),
    (Built, "--crops_coords_top_left_h 8"),
    (Built, "--crops_coords_top_left_w 8"),
    (Accepted, "--enable_npu_flash_attention"),
    (Built, "--image_interpolation_mode lanczos"),
    (Accepted, "--enable_mindspore_data_sink"),
    (Refused, "--distributed"),
    // Of the original code.
    (Built, "--sd_locked=false"),
    (Built, "--only_mid_control"),
];

/// What every command has, so that what a flag needs beside it is no difference.
fn config(desk: &Desk, flags: &str) -> super::Finished {
    let base = if flags.contains("--pretrained_model_name_or_path") {
        ""
    } else {
        "--pretrained_model_name_or_path base"
    };
    desk.run(&format!("train --print-config {base} --train_data_dir circles {flags}"))
}

#[test]
fn every_flag_of_the_references_is_built_accepted_or_refused() {
    let desk = Desk::new();
    super::copy(&desk.path("base"), &desk.path("other"));
    for (fate, flags) in FLAGS {
        let (flag, rest) = flags.split_once(' ').unwrap_or((flags, ""));
        // The same without the flag: its value goes, what else it needs stays.
        let others = rest.find("--").map_or("", |at| &rest[at..]);
        let with = config(&desk, flags);
        let without =
            if others.contains("--validation_image") { String::new() } else { config(&desk, others).stdout };
        let has_effect = with.stdout != without;
        let is_told =
            with.stderr.matches(&format!("{flag} ")).count() == 1 && with.stderr.contains("has no effect: ");
        let is_told = is_told || with.stderr.matches(&format!("{flag} has no effect: ")).count() == 1;
        let found = match (with.code, has_effect, is_told) {
            (Some(0), true, false) => Built,
            (Some(0), false, true) => Accepted,
            (Some(0), false, false) if *fate == Acts => Acts,
            (Some(2), _, false) if with.stderr.contains("is not supported") => {
                assert!(with.stderr.contains("\nhint: "), "{flags}: {}", with.stderr);
                Refused
            }
            other => panic!("{flags}: {other:?}\n{}", with.stderr),
        };
        assert_eq!(found, *fate, "{flags}\n{}", with.stderr);
    }
    // The two names of the data set exclude each other.
    assert_eq!(
        desk.run("train --print-config --pretrained_model_name_or_path base --dataset_name circles").code,
        Some(0)
    );
}

#[test]
fn a_tracker_project_is_a_folder_of_its_own() {
    let desk = Desk::new();
    desk.done(
        "train --pretrained_model_name_or_path=base --train_data_dir=circles --output_dir=out --resolution=32 \
         --max_train_steps=1 --num_validation_samples=0 --num_eval_samples=0 --tracker_project_name=mine",
    );
    assert_eq!(super::names(&desk.path("out/logs")), ["mine"]);
    let files = super::names(&desk.path("out/logs/mine"));
    assert!(files.iter().all(|name| name.starts_with("events.out.tfevents.")), "{files:?}");
}

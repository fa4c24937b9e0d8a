//! Where an option comes from.

use std::fmt;

/// Whose users know an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `train_controlnet.py` of diffusers (0.42.1) and of mindone, which has the same flags.
    Diffusers,
    /// `train_controlnet_sdxl.py` of either.
    DiffusersSdxl,
    /// Another script or class of diffusers.
    DiffusersElsewhere,
    /// Mindone's scripts alone.
    Mindone,
    /// The original ControlNet code.
    Original,
    /// This program.
    Ours,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Diffusers => "diffusers, mindone",
            Self::DiffusersSdxl => "diffusers, SDXL",
            Self::DiffusersElsewhere => "diffusers, other scripts",
            Self::Mindone => "mindone",
            Self::Original => "original",
            Self::Ours => "ours",
        })
    }
}

impl Origin {
    /// That of a flag of `train`, by its name with underscores.
    pub(crate) fn of(flag: &str) -> Self {
        const KNOWN: [(Origin, &[&str]); 5] = [
            (Origin::Diffusers, DIFFUSERS),
            (Origin::DiffusersSdxl, DIFFUSERS_SDXL),
            (Origin::DiffusersElsewhere, DIFFUSERS_ELSEWHERE),
            (Origin::Mindone, MINDONE),
            (Origin::Original, &["only_mid_control", "sd_locked"]),
        ];
        let found = KNOWN.iter().find(|(_, flags)| flags.contains(&flag));
        found.map_or(Self::Ours, |(origin, _)| *origin)
    }
}

const DIFFUSERS: &[&str] = &[
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "adam_weight_decay",
    "allow_tf32",
    "cache_dir",
    "caption_column",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "conditioning_image_column",
    "controlnet_model_name_or_path",
    "dataloader_num_workers",
    "dataset_config_name",
    "dataset_name",
    "enable_xformers_memory_efficient_attention",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "hub_model_id",
    "hub_token",
    "image_column",
    "learning_rate",
    "logging_dir",
    "lr_num_cycles",
    "lr_power",
    "lr_scheduler",
    "lr_warmup_steps",
    "max_grad_norm",
    "max_train_samples",
    "max_train_steps",
    "mixed_precision",
    "num_train_epochs",
    "num_validation_images",
    "output_dir",
    "pretrained_model_name_or_path",
    "proportion_empty_prompts",
    "push_to_hub",
    "report_to",
    "resolution",
    "resume_from_checkpoint",
    "revision",
    "scale_lr",
    "seed",
    "set_grads_to_none",
    "tokenizer_name",
    "tracker_project_name",
    "train_batch_size",
    "train_data_dir",
    "use_8bit_adam",
    "validation_image",
    "validation_prompt",
    "validation_steps",
    "variant",
];

const DIFFUSERS_SDXL: &[&str] = &[
    "crops_coords_top_left_h",
    "crops_coords_top_left_w",
    "enable_npu_flash_attention",
    "image_interpolation_mode",
    "pretrained_vae_model_name_or_path",
];

const DIFFUSERS_ELSEWHERE: &[&str] = &[
    "conditioning_embedding_out_channels",
    "ema_decay",
    "ema_inv_gamma",
    "ema_power",
    "ema_update_after_step",
    "huber_c",
    "huber_schedule",
    "loss_type",
    "noise_offset",
    "optimizer",
    "rescale_betas_zero_snr",
    "snr_gamma",
    "use_ema",
    "use_ema_warmup",
];

const MINDONE: &[&str] = &["distributed", "enable_mindspore_data_sink"];

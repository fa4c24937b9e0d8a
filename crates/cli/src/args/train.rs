//! Arguments of `train`.
//!
//! A flag that is not given leaves the preset's value, and that the default, so every flag is an `Option`.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::Args;
use pyrograph_data::{HintMaker, Interpolation};
use pyrograph_train::{
    Bytes, CacheKind, Knob, LrScheduler, PlanError, ReportSection, StepRules, TrainConfig,
};

use super::choice::{choice, named};
use super::ema::EmaArgs;
use super::hub::{HubArgs, PushArgs};
use super::loss::LossArgs;
use super::memory::MemoryArgs;
use super::optimizer::OptimizerArgs;
use super::reference::{ReferenceArgs, UsageError};
use super::trackers::Trackers;
use super::{set, set_some};

const AFTER_HELP: &str = r#"A flag wins over the preset, the preset over the default. A preset's keys have the names of the
flags, with underscores; --print-config shows them all.

Examples:
  pyrograph train configs/quickstart.toml --output-dir out
  pyrograph train --pretrained_model_name_or_path=sd15 --train_data_dir=circles \
    --output_dir=out --resolution=512 --learning_rate=1e-5 \
    --train_batch_size=1 --gradient_accumulation_steps=4 \
    --validation_image a.png b.png --validation_prompt "red circle" "cyan circle""#;

/// Train a ControlNet.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, allow_negative_numbers = true)]
pub(crate) struct TrainArgs {
    /// A TOML file with any of the settings below.
    #[arg(value_name = "PRESET.toml")]
    preset: Option<PathBuf>,
    /// Check the settings, print them all as a preset, and stop.
    #[arg(long)]
    pub(crate) print_config: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    optimizer: OptimizerArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    loss: LossArgs,
    #[command(flatten)]
    ema: EmaArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Change precision, checkpointing, micro-batch and optimizer, as little as needed and nothing that is given as a
    /// flag, so that the run takes no more than this: see docs/memory.md.
    #[arg(long, help_heading = "Memory", value_name = "12GiB")]
    pub(crate) fit: Option<Bytes>,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    validation: ValidationArgs,
    #[command(flatten)]
    evaluation: EvaluationArgs,
    #[command(flatten)]
    report: ReportArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    /// Upload the trained ControlNet with its model card.
    #[arg(long, help_heading = "Hub")]
    pub(crate) push_to_hub: bool,
    #[command(flatten)]
    pub(crate) push: PushArgs,
    #[command(flatten)]
    reference: ReferenceArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
struct ModelArgs {
    /// A Stable Diffusion folder in diffusers' layout, one file with the original names, or a name on the Hub [required, here
    /// or in the preset].
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pretrained_model_name_or_path: Option<PathBuf>,
    /// Another VAE: its folder, file or name on the Hub, or that of a model with one [default: the base model's].
    #[arg(long, value_name = "DIR|FILE|NAME")]
    pretrained_vae_model_name_or_path: Option<PathBuf>,
    /// The ControlNet to start from, a folder, a file or a name on the Hub [default: a new one made from the UNet].
    #[arg(long, value_name = "DIR|FILE|NAME")]
    controlnet_model_name_or_path: Option<PathBuf>,
    /// Channels of a new ControlNet's hint embedding, finest level first [default: 16 32 96 256].
    #[arg(long, num_args = 1.., value_name = "N")]
    conditioning_embedding_out_channels: Option<Vec<NonZeroUsize>>,
    /// The tokenizer's folder or name on the Hub [default: that of the Stable Diffusion folder].
    #[arg(long, value_name = "DIR|NAME")]
    tokenizer_name: Option<PathBuf>,
    /// Read the frozen models from weight files of this variant, such as fp16.
    #[arg(long)]
    variant: Option<String>,
    /// Read pickled weight files (.bin, .ckpt, .pth) where there are no others; nothing in them is run.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    allow_pickle: Option<bool>,
    /// Leave the base model as it is; with --sd_locked=false its UNet's decoder is trained, too [default: true].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    sd_locked: Option<bool>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
struct DataArgs {
    /// The data set: a folder or a file of any layout that is read [required, here or in the preset].
    #[arg(long, value_name = "PATH")]
    train_data_dir: Option<PathBuf>,
    /// The same, or its name on the Hub.
    #[arg(long, value_name = "DIR|NAME")]
    dataset_name: Option<PathBuf>,
    /// The configuration of the data set: one of its sub-folders.
    #[arg(long, value_name = "NAME")]
    dataset_config_name: Option<String>,
    /// The split of the data set [default: train].
    #[arg(long, value_name = "NAME")]
    dataset_split: Option<String>,
    /// A folder of hints that are named as the images in the data set's folder.
    #[arg(long, value_name = "DIR")]
    conditioning_data_dir: Option<PathBuf>,
    /// Read rows as they come, for data sets of any size, instead of listing them all first [default: false].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    streaming: Option<bool>,
    /// With --streaming: draw the next row from so many [default: 1000].
    #[arg(long, value_name = "N")]
    shuffle_buffer: Option<NonZeroUsize>,
    /// Leave out at most so many samples that cannot be read or decoded [default: a tenth of all, but one at least].
    #[arg(long, value_name = "N")]
    max_bad_samples: Option<usize>,
    /// The column of target images [default: image].
    #[arg(long, value_name = "NAME")]
    image_column: Option<String>,
    /// The column of conditioning images [default: conditioning_image].
    #[arg(long, value_name = "NAME")]
    conditioning_image_column: Option<String>,
    /// The column of captions, each a string or a list of strings [default: text].
    #[arg(long, value_name = "NAME")]
    caption_column: Option<String>,
    /// Make the hints of the target images, such as canny or tile:2..8, instead of reading them: a folder of images with
    /// captions is enough then. `pyrograph data hint --help` lists them [default: hints are read].
    #[arg(long, value_name = "HINT")]
    hint: Option<HintMaker>,
    /// A list of samples to leave out, as `pyrograph data check --quarantine` writes it [default: quarantine.txt in the data
    /// set's folder, if it is there].
    #[arg(long, value_name = "FILE.txt")]
    quarantine: Option<PathBuf>,
    /// Train on so many samples, drawn by the seed [default: all].
    #[arg(long, value_name = "N")]
    max_train_samples: Option<NonZeroUsize>,
    /// Width and height of the training images in pixels, a multiple of 8 [default: 512].
    #[arg(long, value_name = "PIXELS")]
    resolution: Option<usize>,
    /// Give each image the size, of about as many pixels as the square, that is nearest to its shape, instead of cutting all
    /// to squares [default: false].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    aspect_buckets: Option<bool>,
    /// Widths and heights of aspect buckets are multiples of it [default: 64, or an eighth of a resolution below 512].
    #[arg(long, value_name = "PIXELS")]
    bucket_reso_steps: Option<usize>,
    /// Cut pairs anywhere, drawn anew in each epoch; latents are then not kept [default: false].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    random_crop: Option<bool>,
    /// Cut pairs in the middle, which is what is done unless a preset or a flag says otherwise.
    #[arg(long, conflicts_with = "random_crop")]
    center_crop: bool,
    /// Mirror half of the pairs, left to right, drawn anew in each epoch [default: false].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    random_flip: Option<bool>,
    /// The filter that images are resized with [default: lanczos for SDXL, else bilinear].
    #[arg(long, value_parser = choice::<Interpolation>(Interpolation::ALL.map(Interpolation::name)), value_name = "FILTER")]
    image_interpolation_mode: Option<Interpolation>,
    /// Tell SDXL of every sample that its file had the size of the training and was cropped so far from the top [default:
    /// each sample's real size and crop].
    #[arg(long, value_name = "PIXELS")]
    crops_coords_top_left_h: Option<usize>,
    /// The same from the left.
    #[arg(long, value_name = "PIXELS")]
    crops_coords_top_left_w: Option<usize>,
    /// The share of captions replaced by the empty one, from 0 to 1 [default: 0].
    #[arg(long, value_name = "SHARE")]
    proportion_empty_prompts: Option<f64>,
    /// Samples per micro-batch [default: 4].
    #[arg(long, value_name = "N")]
    train_batch_size: Option<NonZeroUsize>,
    /// Threads that decode images [default: 2].
    #[arg(long, value_name = "N")]
    dataloader_num_workers: Option<usize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Cache")]
struct CacheArgs {
    /// Where latents and prompt embeddings are kept: nowhere, in memory for this run, or on disk for all [default: disk].
    #[arg(long, value_parser = named::<CacheKind>(), value_name = "WHERE")]
    cache: Option<CacheKind>,
    /// The folder on disk, which runs may share [default: pyrograph in $XDG_CACHE_HOME or ~/.cache].
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Schedule")]
struct ScheduleArgs {
    /// Passes over the data set [default: 1].
    #[arg(long, value_name = "N")]
    num_train_epochs: Option<NonZeroU64>,
    /// Updates of the ControlNet; overrides the epochs.
    #[arg(long, value_name = "N")]
    max_train_steps: Option<NonZeroU64>,
    /// How the learning rate moves [default: constant].
    #[arg(long, value_parser = choice::<LrScheduler>(LrScheduler::ALL.map(LrScheduler::name)), value_name = "NAME")]
    lr_scheduler: Option<LrScheduler>,
    /// Updates of the linear warmup, if the schedule has one [default: 500].
    #[arg(long, value_name = "N")]
    lr_warmup_steps: Option<u64>,
    /// Restarts of cosine_with_restarts [default: 1].
    #[arg(long, value_name = "N")]
    lr_num_cycles: Option<NonZeroU64>,
    /// The power of polynomial [default: 1].
    #[arg(long, value_name = "POWER")]
    lr_power: Option<f64>,
    /// The pieces of piecewise_constant: a factor and where it ends, and so on, and the last factor.
    #[arg(long, value_name = "1:10,0.1:20,0.005")]
    lr_step_rules: Option<StepRules>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Checkpoints")]
struct CheckpointArgs {
    /// Updates between two checkpoints [default: 500].
    #[arg(long, value_name = "N")]
    checkpointing_steps: Option<NonZeroU64>,
    /// The most checkpoints to keep [default: all].
    #[arg(long, value_name = "N")]
    checkpoints_total_limit: Option<NonZeroUsize>,
    /// Continue from a checkpoint: its path, its name in the output folder, or `latest`.
    #[arg(long, value_name = "latest|PATH")]
    resume_from_checkpoint: Option<PathBuf>,
    /// Continue from a checkpoint of another data set, base model, seed or batch, too.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    force_resume: Option<bool>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Validation")]
struct ValidationArgs {
    /// Prompts to make pictures of on the way [default: samples of the evaluation].
    #[arg(long, num_args = 1.., value_name = "PROMPT")]
    validation_prompt: Option<Vec<String>>,
    /// Their conditioning images: as many, one for all prompts, or several for one prompt.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    validation_image: Option<Vec<PathBuf>>,
    /// Evaluation samples to make pictures of where no prompt is given; 0 for none [default: 2].
    #[arg(long, value_name = "N")]
    num_validation_samples: Option<usize>,
    /// Pictures of each pair or sample [default: 4].
    #[arg(long, value_name = "N")]
    num_validation_images: Option<NonZeroUsize>,
    /// Updates between two validations [default: 100].
    #[arg(long, value_name = "N")]
    validation_steps: Option<NonZeroU64>,
    /// Denoising steps of a picture [default: 20].
    #[arg(long, value_name = "N")]
    validation_inference_steps: Option<NonZeroUsize>,
    /// Classifier-free guidance of a picture; 1 turns it off [default: 7.5].
    #[arg(long, value_name = "SCALE")]
    validation_guidance_scale: Option<f64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Evaluation")]
struct EvaluationArgs {
    /// Samples to keep out of training and evaluate on, at most a tenth of all; 0 turns evaluation off [default: 16].
    #[arg(long, value_name = "N")]
    num_eval_samples: Option<usize>,
    /// Updates between two evaluations [default: validation_steps].
    #[arg(long, value_name = "N")]
    eval_steps: Option<NonZeroU64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
struct ReportArgs {
    /// The trackers written beside report.html: tensorboard, all, or none, which writes no page either. Others, as in
    /// `tensorboard,wandb`, are told of and left out [default: tensorboard].
    #[arg(long, value_name = "TRACKERS")]
    report_to: Option<Trackers>,
    /// Where TensorBoard's event files go, relative to the output folder [default: logs].
    #[arg(long, value_name = "DIR")]
    logging_dir: Option<PathBuf>,
    /// A folder in there for this run's.
    #[arg(long, value_name = "NAME")]
    tracker_project_name: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
struct RunArgs {
    /// Where everything is written [default: controlnet-model].
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Decides every random number of the run [default: 0].
    #[arg(long)]
    seed: Option<u64>,
    /// Updates between two reports of the loss [default: 1].
    #[arg(long, value_name = "N")]
    log_every: Option<NonZeroU64>,
}

impl TrainArgs {
    /// Checks what needs no file and warns of flags without effect.
    ///
    /// # Errors
    /// If a flag of the reference asks for something that this program cannot do.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        if let Some(trackers) = &self.report.report_to {
            trackers.tell();
        }
        if self.push.hub_model_id.is_some() && !self.push_to_hub {
            tracing::warn!("--hub_model_id has no effect: without --push_to_hub nothing is uploaded");
        }
        self.reference.check()
    }

    /// What was given as a flag and so must stay.
    pub(crate) fn pinned(&self) -> Vec<Knob> {
        let batch_size = self.data.train_batch_size.is_some();
        let given = [
            (Knob::Precision, self.memory.gives_precision()),
            (Knob::Checkpointing, self.memory.gives_checkpointing()),
            (Knob::MicroBatch, batch_size || self.optimizer.gives_accumulation()),
            (Knob::Optimizer, self.optimizer.gives_optimizer()),
        ];
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(knob, _)| knob).collect()
    }

    /// The preset, if there is one, with the flags over it.
    ///
    /// # Errors
    /// If the preset cannot be read.
    pub(crate) fn config(&self) -> Result<TrainConfig, PlanError> {
        let mut config =
            self.preset.as_deref().map_or_else(|| Ok(TrainConfig::default()), TrainConfig::read)?;
        self.model.apply(&mut config);
        set_some(&mut config.model.revision, &self.hub.revision);
        self.data.apply(&mut config);
        set_some(&mut config.cache.cache, &self.cache.cache);
        set_some(&mut config.cache.cache_dir, &self.cache.cache_dir);
        self.optimizer.apply(&mut config.optimizer);
        self.schedule.apply(&mut config);
        self.loss.apply(&mut config.loss);
        self.ema.apply(&mut config.ema);
        self.memory.apply(&mut config.precision, &mut config.memory);
        self.checkpoint.apply(&mut config);
        self.validation.apply(&mut config);
        set(&mut config.evaluation.num_eval_samples, &self.evaluation.num_eval_samples);
        set_some(&mut config.evaluation.eval_steps, &self.evaluation.eval_steps);
        self.report.apply(&mut config.report);
        set(&mut config.run.output_dir, &self.run.output_dir);
        set(&mut config.run.seed, &self.run.seed);
        set(&mut config.run.log_every, &self.run.log_every);
        Ok(config)
    }
}

impl ReportArgs {
    fn apply(&self, report: &mut ReportSection) {
        set(&mut report.report_to, &self.report_to.as_ref().map(Trackers::written));
        set(&mut report.logging_dir, &self.logging_dir);
        set_some(&mut report.tracker_project_name, &self.tracker_project_name);
    }
}

impl ModelArgs {
    fn apply(&self, config: &mut TrainConfig) {
        let model = &mut config.model;
        set_some(&mut model.pretrained_model_name_or_path, &self.pretrained_model_name_or_path);
        set_some(&mut model.pretrained_vae_model_name_or_path, &self.pretrained_vae_model_name_or_path);
        set_some(&mut model.controlnet_model_name_or_path, &self.controlnet_model_name_or_path);
        set_some(&mut model.conditioning_embedding_out_channels, &self.conditioning_embedding_out_channels);
        set_some(&mut model.tokenizer_name, &self.tokenizer_name);
        set_some(&mut model.variant, &self.variant);
        set(&mut model.allow_pickle, &self.allow_pickle);
        set(&mut model.sd_locked, &self.sd_locked);
    }
}

impl DataArgs {
    fn apply(&self, config: &mut TrainConfig) {
        let data = &mut config.data;
        if self.train_data_dir.is_some() || self.dataset_name.is_some() {
            // Either flag replaces the preset's data set, under whichever name that has it.
            data.train_data_dir.clone_from(&self.train_data_dir);
            data.dataset_name.clone_from(&self.dataset_name);
        }
        set_some(&mut data.dataset_config_name, &self.dataset_config_name);
        set(&mut data.dataset_split, &self.dataset_split);
        set_some(&mut data.conditioning_data_dir, &self.conditioning_data_dir);
        set(&mut data.streaming, &self.streaming);
        set(&mut data.shuffle_buffer, &self.shuffle_buffer);
        set_some(&mut data.max_bad_samples, &self.max_bad_samples);
        set(&mut data.image_column, &self.image_column);
        set(&mut data.conditioning_image_column, &self.conditioning_image_column);
        set(&mut data.caption_column, &self.caption_column);
        set_some(&mut data.hint, &self.hint);
        set_some(&mut data.quarantine, &self.quarantine);
        set_some(&mut data.max_train_samples, &self.max_train_samples);
        set(&mut data.resolution, &self.resolution);
        set(&mut data.aspect_buckets, &self.aspect_buckets);
        set_some(&mut data.bucket_reso_steps, &self.bucket_reso_steps);
        set(&mut data.random_crop, &self.random_crop.or(self.center_crop.then_some(false)));
        set(&mut data.random_flip, &self.random_flip);
        set_some(&mut data.image_interpolation_mode, &self.image_interpolation_mode);
        set_some(&mut data.crops_coords_top_left_h, &self.crops_coords_top_left_h);
        set_some(&mut data.crops_coords_top_left_w, &self.crops_coords_top_left_w);
        set(&mut data.proportion_empty_prompts, &self.proportion_empty_prompts);
        set(&mut data.train_batch_size, &self.train_batch_size);
        set(&mut data.dataloader_num_workers, &self.dataloader_num_workers);
    }
}

impl ScheduleArgs {
    fn apply(&self, config: &mut TrainConfig) {
        let schedule = &mut config.schedule;
        if self.num_train_epochs.is_some() {
            // A number of steps in the preset would override the epochs of the flag.
            schedule.max_train_steps = None;
        }
        set(&mut schedule.num_train_epochs, &self.num_train_epochs);
        set_some(&mut schedule.max_train_steps, &self.max_train_steps);
        set(&mut schedule.lr_scheduler, &self.lr_scheduler);
        set(&mut schedule.lr_warmup_steps, &self.lr_warmup_steps);
        set(&mut schedule.lr_num_cycles, &self.lr_num_cycles);
        set(&mut schedule.lr_power, &self.lr_power);
        set_some(&mut schedule.lr_step_rules, &self.lr_step_rules);
    }
}

impl CheckpointArgs {
    fn apply(&self, config: &mut TrainConfig) {
        let checkpoint = &mut config.checkpoint;
        set(&mut checkpoint.checkpointing_steps, &self.checkpointing_steps);
        set_some(&mut checkpoint.checkpoints_total_limit, &self.checkpoints_total_limit);
        set_some(&mut checkpoint.resume_from_checkpoint, &self.resume_from_checkpoint);
        set(&mut checkpoint.force_resume, &self.force_resume);
    }
}

impl ValidationArgs {
    fn apply(&self, config: &mut TrainConfig) {
        let validation = &mut config.validation;
        set(&mut validation.validation_prompt, &self.validation_prompt);
        set(&mut validation.validation_image, &self.validation_image);
        set(&mut validation.num_validation_samples, &self.num_validation_samples);
        set(&mut validation.num_validation_images, &self.num_validation_images);
        set(&mut validation.validation_steps, &self.validation_steps);
        set(&mut validation.validation_inference_steps, &self.validation_inference_steps);
        set(&mut validation.validation_guidance_scale, &self.validation_guidance_scale);
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::Write;

    use tempfile::NamedTempFile;

    use super::super::{Command, parse};
    use super::*;

    fn train(argv: &[&str]) -> Box<TrainArgs> {
        let argv = ["pyrograph", "train"].iter().chain(argv).map(OsString::from);
        match parse(argv).unwrap_or_else(|error| panic!("{error}")).command {
            Command::Train(args) => args,
            other => panic!("{other:?}"),
        }
    }

    /// The config of a preset's text and flags.
    fn config(preset: &str, argv: &[&str]) -> TrainConfig {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(preset.as_bytes()).unwrap();
        train(&[&[file.path().to_str().unwrap()], argv].concat()).config().unwrap()
    }

    #[test]
    fn a_command_pasted_from_the_reference_guide_is_understood() {
        let args = train(&[
            "--pretrained_model_name_or_path=sd15",
            "--train_data_dir=circles",
            "--output_dir=out",
            "--resolution=512",
            "--learning_rate=1e-5",
            "--validation_image",
            "a.png",
            "b.png",
            "--validation_prompt",
            "red circle with blue background",
            "cyan circle with brown floral background",
            "--train_batch_size=1",
            "--gradient_accumulation_steps=4",
            "--gradient_checkpointing",
            "--set_grads_to_none",
            "--mixed_precision",
            "no",
        ]);
        args.check().unwrap();
        let config = args.config().unwrap();
        assert_eq!(config.model.pretrained_model_name_or_path, Some("sd15".into()));
        assert_eq!(config.optimizer.learning_rate, Some(1e-5));
        assert_eq!(config.optimizer.gradient_accumulation_steps.get(), 4);
        assert_eq!(config.data.train_batch_size.get(), 1);
        assert!(config.memory.gradient_checkpointing);
        assert_eq!(config.validation.validation_image, [PathBuf::from("a.png"), PathBuf::from("b.png")]);
        assert_eq!(config.validation.validation_prompt[1], "cyan circle with brown floral background");
    }

    #[test]
    fn a_flag_wins_over_the_preset_and_that_over_the_default() {
        let preset = "[optimizer]\nlearning_rate = 2e-5\nmax_grad_norm = 3.0\nscale_lr = true";
        let optimizer = config(preset, &["--learning-rate=1e-4", "--scale-lr=false"]).optimizer;
        assert_eq!(optimizer.learning_rate, Some(1e-4));
        assert_eq!(optimizer.max_grad_norm, 3.0);
        assert!(!optimizer.scale_lr);
        assert_eq!(optimizer.adam_beta1, 0.9);
    }

    #[test]
    fn no_flag_leaves_every_setting_of_a_preset() {
        let mut full = TrainConfig::default();
        full.data.quarantine = Some("bad.txt".into());
        full.data.aspect_buckets = true;
        full.data.bucket_reso_steps = Some(16);
        full.data.random_crop = true;
        full.data.random_flip = true;
        full.data.hint = Some("tile:2..8".parse().unwrap());
        full.data.resolution = 64;
        full.data.image_interpolation_mode = Some(Interpolation::Lanczos);
        full.data.crops_coords_top_left_w = Some(3);
        full.cache.cache = Some(CacheKind::Memory);
        full.cache.cache_dir = Some("here".into());
        full.schedule.lr_scheduler = LrScheduler::Cosine;
        full.checkpoint.resume_from_checkpoint = Some("latest".into());
        full.run.seed = 7;
        full.run.log_every = const { NonZeroU64::new(9).expect("9 is not 0") };
        assert_eq!(config(&full.to_toml().unwrap(), &[]), full);
    }

    #[test]
    fn a_flag_replaces_what_would_override_it_in_the_preset() {
        let preset = "[schedule]\nmax_train_steps = 9\n[data]\ntrain_data_dir = 'old'";
        let changed = config(preset, &["--num-train-epochs=2", "--dataset-name=new"]);
        assert_eq!(changed.schedule.max_train_steps, None);
        assert_eq!(changed.data.train_data_dir, None);
        assert_eq!(changed.data.dataset_name, Some("new".into()));
    }

    #[test]
    fn a_misspelt_flag_or_value_is_refused_with_the_nearest() {
        let refused = |argv: &[&str]| {
            let argv = ["pyrograph", "train"].iter().chain(argv).map(OsString::from);
            parse(argv).expect_err("it is misspelt").to_string()
        };
        assert!(refused(&["--lerning-rate=1"]).contains("--learning-rate"));
        assert!(refused(&["--lr-scheduler=cosin"]).contains("cosine"));
        assert!(refused(&["--train-batch-size=0"]).contains("zero"));
    }
}

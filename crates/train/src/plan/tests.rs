use std::path::Path;

use super::*;
use crate::config::{CacheKind, CacheSection};
use crate::lr::LrScheduler;

/// A config with only what is required.
fn minimal() -> TrainConfig {
    let mut config = TrainConfig::default();
    config.model.pretrained_model_name_or_path = Some("sd".into());
    config.data.train_data_dir = Some("circles".into());
    config
}

fn plan(change: impl FnOnce(&mut TrainConfig)) -> Result<TrainPlan, PlanError> {
    let mut config = minimal();
    change(&mut config);
    TrainPlan::try_from(config)
}

/// Asserts that a changed config is refused with a message that begins so.
fn check_refused(message: &str, change: impl FnOnce(&mut TrainConfig)) {
    let error = plan(change).expect_err(message);
    assert!(error.to_string().starts_with(message), "expected `{message}`, found `{error}`");
}

#[test]
fn defaults_are_those_of_the_reference() {
    let plan = plan(|_| {}).expect("a minimal config");
    assert_eq!(plan.optimizer.learning_rate, 5e-6);
    assert_eq!(plan.optimizer.lr_schedule, LrSchedule::Constant);
    assert_eq!(plan.data.transform.side.get(), 512);
    assert_eq!(plan.data.batch_size.get(), 4);
    assert_eq!(plan.length, Length::Epochs(NonZeroU64::MIN));
    assert_eq!(plan.output_dir, Path::new("controlnet-model"));
    assert_eq!(plan.seed, 0);
}

#[test]
fn the_references_crop_is_told_of_every_sample() {
    assert_eq!(plan(|_| {}).expect("a plan").data.sizes, SizeConditioning::OfEachPicture);
    let plan = plan(|config| config.data.crops_coords_top_left_w = Some(7)).expect("a plan");
    assert_eq!(plan.data.sizes, SizeConditioning::Constant { crop: [0, 7] });
    assert_eq!(TrainConfig::from(plan).data.crops_coords_top_left_h, Some(0));
}

#[test]
fn what_cannot_be_run_is_refused_with_the_references_words() {
    check_refused("the following arguments are required: --pretrained_model_name_or_path", |config| {
        config.model.pretrained_model_name_or_path = None;
    });
    check_refused("specify either `--dataset_name` or `--train_data_dir`", |config| {
        config.data.train_data_dir = None;
    });
    check_refused("specify only one of", |config| config.data.dataset_name = Some("fill50k".into()));
    check_refused("`--proportion_empty_prompts` must be in the range [0, 1], found 1.5", |config| {
        config.data.proportion_empty_prompts = 1.5;
    });
    check_refused("`--proportion_empty_prompts` must be", |config| {
        config.data.proportion_empty_prompts = f64::NAN;
    });
    check_refused("`--validation_image` must be set if `--validation_prompt` is set", |config| {
        config.validation.validation_prompt = vec!["a circle".into()];
    });
    check_refused("`--validation_prompt` must be set if `--validation_image` is set", |config| {
        config.validation.validation_image = vec!["a.png".into()];
    });
    check_refused("must provide either 1 `--validation_image`, 1 `--validation_prompt`", |config| {
        config.validation.validation_image = vec!["a.png".into(), "b.png".into()];
        config.validation.validation_prompt = vec!["red".into(), "green".into(), "blue".into()];
    });
    check_refused("`--validation_guidance_scale` must be 0 or more, found NaN", |config| {
        config.validation.validation_guidance_scale = f64::NAN;
    });
    check_refused("`--num_eval_samples` must be 0 or at least 2", |config| {
        config.evaluation.num_eval_samples = 1;
    });
    check_refused("`--resolution` must be divisible by 8", |config| config.data.resolution = 500);
    check_refused("`--learning_rate` must be positive", |config| config.optimizer.learning_rate = Some(0.0));
    check_refused("`--adam_beta2` must be in the range [0, 1), found 1", |config| {
        config.optimizer.adam_beta2 = Some(1.0);
    });
    check_refused("lr_end (1e-7) must be smaller than initial lr (1e-7)", |config| {
        config.optimizer.learning_rate = Some(1e-7);
        config.schedule.lr_scheduler = LrScheduler::Polynomial;
    });
    check_refused("`--lr_scheduler piecewise_constant` needs", |config| {
        config.schedule.lr_scheduler = LrScheduler::PiecewiseConstant;
    });
    check_refused("`--cache disk` needs `--cache_dir`", |config| config.cache.cache = Some(CacheKind::Disk));
    check_refused("`--seed` must be below", |config| config.run.seed = u64::MAX);
}

#[test]
fn a_wrong_resolution_hints_at_its_neighbours() {
    let error = plan(|config| config.data.resolution = 500).expect_err("500 = 8 * 62.5");
    assert_eq!(error.hint().as_deref(), Some("use 496 or 504"));
}

/// Asserts how images and prompts pair up.
fn check_pairs(images: &[&str], prompts: &[&str], expected: &[(&str, &str)]) {
    let plan = plan(|config| {
        config.validation.validation_image = images.iter().map(PathBuf::from).collect();
        config.validation.validation_prompt = prompts.iter().map(ToString::to_string).collect();
    });
    let pairs = plan.expect("they pair up").validation.pairs;
    let pairs: Vec<_> =
        pairs.iter().map(|pair| (pair.image.to_str().unwrap(), pair.prompt.as_str())).collect();
    assert_eq!(pairs, expected);
}

#[test]
fn validation_images_and_prompts_pair_up() {
    check_pairs(&[], &[], &[]);
    check_pairs(&["a", "b"], &["red", "blue"], &[("a", "red"), ("b", "blue")]);
    check_pairs(&["a"], &["red", "blue"], &[("a", "red"), ("a", "blue")]);
    check_pairs(&["a", "b"], &["red"], &[("a", "red"), ("b", "red")]);
}

#[test]
fn scale_lr_multiplies_by_batch_and_accumulation() {
    let plan = plan(|config| {
        config.optimizer.scale_lr = true;
        config.optimizer.learning_rate = Some(1e-5);
        config.optimizer.gradient_accumulation_steps = NonZeroUsize::new(3).unwrap();
        config.data.train_batch_size = NonZeroUsize::new(2).unwrap();
    });
    assert!((plan.expect("a scaled rate").optimizer.learning_rate - 6e-5).abs() < 1e-18);
}

#[test]
fn steps_override_epochs() {
    let per_epoch = NonZeroU64::new(10).unwrap();
    let length = |steps| {
        let change = |config: &mut TrainConfig| {
            config.schedule.num_train_epochs = NonZeroU64::new(3).unwrap();
            config.schedule.max_train_steps = NonZeroU64::new(steps);
        };
        plan(change).expect("a length").length.total_steps(per_epoch).get()
    };
    assert_eq!(length(0), 30, "0 is no number of steps: the epochs hold");
    assert_eq!(length(7), 7);
}

#[test]
fn evaluation_comes_with_validation_unless_told_otherwise() {
    let evaluation = |n_samples, eval_steps| {
        let change = |config: &mut TrainConfig| {
            config.validation.validation_steps = NonZeroU64::new(7).unwrap();
            config.evaluation.num_eval_samples = n_samples;
            config.evaluation.eval_steps = NonZeroU64::new(eval_steps);
        };
        plan(change).expect("a plan").evaluation
    };
    assert_eq!(evaluation(3, 0).expect("it is on").every_steps.get(), 7);
    assert_eq!(evaluation(3, 2).expect("it is on").every_steps.get(), 2);
    assert_eq!(evaluation(0, 2), None);
}

#[test]
fn the_cache_is_on_disk_where_there_is_a_folder_for_it_unless_told_otherwise() {
    let cache = |kind, dir: Option<&str>| {
        let section = CacheSection { cache: kind, cache_dir: dir.map(PathBuf::from) };
        plan(|config| config.cache = section).expect("a plan").cache
    };
    assert_eq!(cache(None, None), CachePlan::Memory);
    assert_eq!(cache(None, Some("here")), CachePlan::Disk("here".into()));
    assert_eq!(cache(Some(CacheKind::Disk), Some("here")), CachePlan::Disk("here".into()));
    assert_eq!(cache(Some(CacheKind::Memory), Some("here")), CachePlan::Memory);
    assert_eq!(cache(Some(CacheKind::Off), Some("here")), CachePlan::Off);
}

/// Asserts what a value of `resume_from_checkpoint` means with the output folder `out`.
fn check_resume(value: &str, expected: &ResumeFrom) {
    let plan = plan(|config| {
        config.run.output_dir = "out".into();
        config.checkpoint.resume_from_checkpoint = Some(value.into());
    });
    assert_eq!(plan.expect("a place to resume from").checkpoint.resume_from, *expected);
}

#[test]
fn only_a_bare_checkpoint_name_is_looked_up_in_the_output_folder() {
    check_resume("latest", &ResumeFrom::Latest);
    check_resume("checkpoint-5", &ResumeFrom::Path("out/checkpoint-5".into()));
    check_resume("elsewhere/checkpoint-5", &ResumeFrom::Path("elsewhere/checkpoint-5".into()));
    check_resume("/checkpoint-5", &ResumeFrom::Path("/checkpoint-5".into()));
}

#[test]
fn a_plan_written_as_toml_is_the_same_plan_again() {
    let check = |change: fn(&mut TrainConfig)| {
        let plan = plan(change).expect("a plan");
        let text = TrainConfig::from(plan.clone()).to_toml().expect("fits TOML");
        assert_eq!(toml::from_str::<TrainPlan>(&text).expect("our own TOML"), plan, "{text}");
    };
    check(|_| {});
    check(|config| {
        config.optimizer.scale_lr = true;
        config.memory.gradient_checkpointing = true;
        config.schedule.lr_scheduler = LrScheduler::Polynomial;
        config.schedule.lr_power = 2.0;
        config.schedule.max_train_steps = NonZeroU64::new(9);
        config.checkpoint.resume_from_checkpoint = Some("checkpoint-3".into());
        config.cache.cache_dir = Some("here".into());
        config.run.output_dir = PathBuf::new();
        config.validation.validation_image = vec!["a.png".into()];
        config.validation.validation_prompt = vec!["red".into(), "blue".into()];
    });
    check(|config| {
        config.schedule.lr_scheduler = LrScheduler::CosineWithRestarts;
        config.schedule.lr_num_cycles = NonZeroU64::new(4).unwrap();
        config.schedule.lr_warmup_steps = 7;
        config.model.controlnet_model_name_or_path = Some("controlnet".into());
        config.checkpoint.resume_from_checkpoint = Some("latest".into());
        config.evaluation.eval_steps = NonZeroU64::new(3);
        config.validation.num_validation_samples = 0;
    });
    check(|config| {
        config.evaluation.num_eval_samples = 0;
        config.schedule.lr_scheduler = LrScheduler::PiecewiseConstant;
        config.schedule.lr_step_rules = Some("1:10,0.1:20,0.005".parse().unwrap());
    });
}

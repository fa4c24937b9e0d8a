//! Encoders are freed when nothing is left to be encoded, and read again if something is after all.

use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use pyrograph::backend;
use pyrograph_pipeline::Bundle;
use pyrograph_train::{CacheKind, Event, Observer, TrainConfig, TrainError, Trainer};

use super::{circles_of, plan};

/// Parameters that are in memory.
fn n_held<M: Module>(module: &M) -> usize {
    struct Held(usize);
    impl ModuleVisitor for Held {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_initialized() {
                self.0 += param.val().shape().num_elements();
            }
        }
    }
    let mut held = Held(0);
    module.visit(&mut held);
    held.0
}

/// Those of the text encoders and of the VAE.
fn n_held_of(bundle: &Bundle) -> [usize; 2] {
    [bundle.text.iter().map(|text| text.model.as_ref().map_or(0, n_held)).sum(), n_held(&bundle.vae)]
}

/// A run on a base of SDXL, with pictures and evaluation.
fn trainer(dir: &Path, out: &str, n_steps: u64, cache: CacheKind) -> Trainer {
    let plan = plan(dir, &dir.join(out), |config: &mut TrainConfig| {
        config.model.pretrained_model_name_or_path = Some(dir.join("base"));
        config.cache.cache = Some(cache);
        config.cache.cache_dir = Some(dir.join("cache"));
        config.schedule.max_train_steps = n_steps.try_into().ok();
        config.evaluation.num_eval_samples = 2;
        config.validation.num_validation_samples = 1;
        config.validation.num_validation_images = 1.try_into().expect("not zero");
        config.validation.validation_inference_steps = 1.try_into().expect("not zero");
    });
    Trainer::new(plan, &backend::device()).expect("a trainer")
}

fn desk() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    circles_of(dir.path(), 20);
    let base = crate::fixtures().join("parity/generate/sdxl-like/base");
    crate::cli::copy(&base, &dir.path().join("base"));
    dir
}

/// What a run wrote that its encoders decide: the ControlNet and the last pictures.
fn results(dir: &Path, out: &str, n_steps: u64) -> [Vec<u8>; 2] {
    let files =
        ["diffusion_pytorch_model.safetensors".to_owned(), format!("validation/step-{n_steps:06}/grid.png")];
    files.map(|file| fs::read(dir.join(out).join(&file)).unwrap_or_else(|error| panic!("{file}: {error}")))
}

/// Does something after the first evaluation.
struct After<F>(Option<F>);

impl<F: FnOnce()> Observer for After<F> {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        if matches!(event, Event::Evaluation(_))
            && let Some(act) = self.0.take()
        {
            act();
        }
        Ok(())
    }
}

#[test]
fn text_encoders_are_freed_after_the_prompts_and_the_vaes_encoder_after_an_epoch() {
    let dir = desk();
    // 18 samples in batches of two: nine steps are an epoch.
    let mut whole = trainer(dir.path(), "off", 10, CacheKind::Off);
    let [text, vae] = n_held_of(whole.bundle());
    assert!(text > 0 && vae > 0);
    whole.run(&mut ()).expect("ten steps");
    assert_eq!(n_held_of(whole.bundle()), [text, vae], "without a cache everything is needed to the end");
    let mut short = trainer(dir.path(), "short", 2, CacheKind::Memory);
    short.run(&mut ()).expect("two steps");
    assert_eq!(n_held_of(short.bundle()), [0, vae]);
    for (out, cache) in [("memory", CacheKind::Memory), ("disk", CacheKind::Disk), ("again", CacheKind::Disk)]
    {
        let mut trainer = trainer(dir.path(), out, 10, cache);
        trainer.run(&mut ()).expect("ten steps");
        let [text_after, vae_after] = n_held_of(trainer.bundle());
        assert!(text_after == 0 && 0 < vae_after && vae_after < vae, "{text_after} {vae_after}");
        assert_eq!(results(dir.path(), out, 10), results(dir.path(), "off", 10), "{out}");
        assert_eq!(n_held_of(trainer.complete_bundle().expect("the base")), [text, vae]);
    }
}

#[test]
fn what_the_cache_loses_in_a_run_is_encoded_by_encoders_that_are_read_again() {
    let dir = desk();
    trainer(dir.path(), "first", 10, CacheKind::Disk).run(&mut ()).expect("ten steps");
    let cache = dir.path().join("cache");
    let mut second = trainer(dir.path(), "second", 10, CacheKind::Disk);
    second.run(&mut After(Some(|| fs::remove_dir_all(&cache).expect("a cache")))).expect("ten steps");
    assert!(second.cache_use().expect("a cache").prompts.computed > 0, "prompts were lost");
    assert_eq!(results(dir.path(), "second", 10), results(dir.path(), "first", 10));
}

//! The cache of latents and prompt embeddings: it changes no bit of a run, and what one run encodes no other has to.

use std::fs;
use std::path::{Path, PathBuf};

use pyrograph::backend;
use pyrograph_data::CacheCounts;
use pyrograph_train::{CacheKind, CacheUse, TrainConfig, TrainError, Trainer};
use tempfile::TempDir;

use super::{base, circles_of, plan};

const N_CIRCLES: usize = 6;

/// A folder with data, a base model to change, and a cache.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        circles_of(dir.path(), N_CIRCLES);
        crate::cli::copy(&base(), &dir.path().join("base"));
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Trains two epochs; returns the bytes of the ControlNet and what the cache was good for.
    fn train(&self, out: &str, change: impl FnOnce(&mut TrainConfig)) -> (Vec<u8>, Option<CacheUse>) {
        let plan = plan(self.dir.path(), &self.path(out), |config| {
            config.model.pretrained_model_name_or_path = Some(self.path("base"));
            config.cache.cache_dir = Some(self.path("cache"));
            config.schedule.max_train_steps = Some(6.try_into().expect("not zero"));
            config.checkpoint.checkpointing_steps = 3.try_into().expect("not zero");
            config.evaluation.num_eval_samples = 2;
            change(config);
        });
        let mut trainer = Trainer::new(plan, &backend::device()).expect("a trainer");
        trainer.run(&mut ()).expect("six steps");
        let weights = self.path(out).join("diffusion_pytorch_model.safetensors");
        (fs::read(weights).expect("the ControlNet"), trainer.cache_use())
    }

    /// What a run of another name read and encoded.
    fn cache_use(&self, change: impl FnOnce(&mut TrainConfig)) -> CacheUse {
        self.train("again", change).1.expect("there is a cache")
    }

    fn entries(&self) -> Vec<PathBuf> {
        let below =
            |folder: &Path| fs::read_dir(folder).expect("a folder").map(|entry| entry.unwrap().path());
        below(&self.path("cache")).flat_map(|folder| below(&folder).collect::<Vec<_>>()).collect()
    }
}

/// Asserts that everything was read and nothing encoded.
#[track_caller]
fn assert_all_read(found: CacheUse) {
    // Two threads may read one entry, each before the other has it in memory.
    assert!(found.latents.read >= N_CIRCLES && found.latents.computed == 0, "{found:?}");
    assert!(found.prompts.read > 0 && found.prompts.computed == 0, "{found:?}");
}

#[test]
fn a_run_gives_the_same_bits_with_every_kind_of_cache_and_with_a_full_one() {
    let bench = Bench::new();
    let kind = |kind| move |config: &mut TrainConfig| config.cache.cache = Some(kind);
    let (expected, found) = bench.train("off", kind(CacheKind::Off));
    assert_eq!(found, None);
    let (memory, found) = bench.train("memory", kind(CacheKind::Memory));
    assert_eq!(found.expect("a cache").latents, CacheCounts { read: 0, computed: N_CIRCLES });
    assert!(!bench.path("cache").exists());
    let (disk, found) = bench.train("disk", kind(CacheKind::Disk));
    assert_eq!(found.expect("a cache").latents, CacheCounts { read: 0, computed: N_CIRCLES });
    let (full, found) = bench.train("full", |_| {});
    assert_all_read(found.expect("a cache"));
    assert!(memory == expected && disk == expected && full == expected);
}

#[test]
fn another_run_and_a_resumed_one_encode_nothing() {
    let bench = Bench::new();
    // The empty prompt is dropped in by the seed; with certainty it is there in every run.
    let dropped = |config: &mut TrainConfig| config.data.proportion_empty_prompts = 0.9;
    bench.train("first", dropped);
    let settings = |config: &mut TrainConfig| {
        config.optimizer.learning_rate = Some(1e-4);
        config.data.proportion_empty_prompts = 1.0;
    };
    assert_all_read(bench.cache_use(settings));
    let seed = |config: &mut TrainConfig| {
        settings(config);
        config.run.seed = 8;
    };
    assert_all_read(bench.cache_use(seed));
    let resume = |config: &mut TrainConfig| {
        dropped(config);
        config.checkpoint.resume_from_checkpoint = Some("checkpoint-3".into());
        config.run.output_dir = bench.path("first");
    };
    assert_all_read(bench.train("first", resume).1.expect("a cache"));
}

#[test]
fn what_is_damaged_is_encoded_again() {
    let bench = Bench::new();
    let (expected, first) = bench.train("first", |_| {});
    let entries = bench.entries();
    let first = first.expect("a cache");
    assert_eq!(entries.len(), first.latents.computed + first.prompts.computed);
    for (place, entry) in entries.iter().enumerate() {
        let mut bytes = fs::read(entry).expect("an entry");
        match place % 2 {
            0 => bytes[place * 11 % 600] ^= 1,
            _ => bytes.truncate(place * 11),
        }
        fs::write(entry, bytes).expect("damaged");
    }
    let (weights, second) = bench.train("second", |_| {});
    assert_eq!(second, Some(first), "everything is encoded again");
    assert!(weights == expected);
    assert_all_read(bench.cache_use(|_| {}));
}

#[test]
fn other_pictures_another_resolution_and_other_encoders_find_nothing_of_their_own() {
    let bench = Bench::new();
    let first = bench.train("first", |_| {}).1.expect("a cache");
    let n_prompts = first.prompts.computed;
    let check = |found: CacheUse, latents_computed, prompts_computed| {
        assert_eq!(found.latents.computed, latents_computed, "{found:?}");
        assert_eq!(found.prompts.computed, prompts_computed, "{found:?}");
    };
    check(bench.cache_use(|config| config.data.resolution = 64), N_CIRCLES, 0);
    nudge(&bench.path("base/vae/diffusion_pytorch_model.safetensors"));
    check(bench.cache_use(|_| {}), N_CIRCLES, 0);
    nudge(&bench.path("base/text_encoder/model.safetensors"));
    check(bench.cache_use(|_| {}), 0, n_prompts);
    let images = bench.path("circles/train/images");
    fs::copy(images.join("00001.png"), images.join("00000.png")).expect("another picture");
    check(bench.cache_use(|_| {}), 0, 0);
    let tile = image::RgbImage::from_pixel(32, 32, image::Rgb([90, 20, 200]));
    tile.save(images.join("00000.png")).expect("another picture");
    check(bench.cache_use(|_| {}), 1, 0);
}

#[test]
fn another_vae_encodes_anew_and_is_another_run() {
    let bench = Bench::new();
    bench.train("first", |_| {});
    let with_vae = |name: &'static str| {
        let vae = bench.path(name);
        move |config: &mut TrainConfig| config.model.pretrained_vae_model_name_or_path = Some(vae)
    };
    // The same weights elsewhere are found, be it in a folder of their own or in a model's.
    crate::cli::copy(&base(), &bench.path("model"));
    crate::cli::copy(&bench.path("base/vae"), &bench.path("vae"));
    assert_all_read(bench.cache_use(with_vae("model")));
    assert_all_read(bench.cache_use(with_vae("vae")));
    nudge(&bench.path("vae/diffusion_pytorch_model.safetensors"));
    let found = bench.cache_use(with_vae("vae"));
    assert_eq!((found.latents.computed, found.prompts.computed), (N_CIRCLES, 0), "{found:?}");

    let resumed = plan(bench.dir.path(), &bench.path("first"), |config| {
        config.evaluation.num_eval_samples = 2;
        config.checkpoint.resume_from_checkpoint = Some("latest".into());
        with_vae("vae")(config);
    });
    let error = Trainer::new(resumed, &backend::device()).expect_err("another VAE");
    let TrainError::ResumeMismatch { differences, .. } = error else { panic!("{error}") };
    let keys: Vec<&str> = differences.iter().map(|difference| difference.key.as_str()).collect();
    assert_eq!(keys, ["base model"]);
}

/// Changes the last bits of a file's last number.
fn nudge(weights: &Path) {
    let mut bytes = fs::read(weights).expect("weights");
    let n_bytes = bytes.len();
    bytes[n_bytes - 4] ^= 1;
    fs::write(weights, bytes).expect("other weights");
}

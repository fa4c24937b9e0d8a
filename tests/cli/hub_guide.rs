//! The commands of the reference's guides as they stand there, from download to pushed model card.
//!
//! Only the numbers are those of a tiny model: resolution, steps and the pictures of a validation.

use std::process::Command;

use super::hub::{Away, server};
use super::{Desk, Finished, copy, files};
use server::{Server, TOKEN};

/// A user who has two hints and nothing else; models and data are on a server under the names of the guide.
struct Guide {
    away: Away,
    base: &'static str,
}

impl Guide {
    fn new(desk: Desk, base: &'static str) -> Self {
        let away = Away::of(desk, &[("base", &format!("models/{base}"))]);
        for number in [1, 2] {
            let hint = format!("conditioning_image_{number}.png");
            std::fs::copy(away.desk.path("hint.png"), away.desk.path(&hint)).unwrap();
        }
        Self { away, base }
    }

    fn server(&self) -> &Server {
        &self.away.server
    }

    /// The command of both guides, with the flags that a guide adds.
    fn train(&self, flags: &str) -> Command {
        let base = self.base;
        let mut command = self.away.command(&format!(
            "train --pretrained_model_name_or_path={base} --output_dir=out --dataset_name=fusing/fill50k \
             --learning_rate=1e-5 --push_to_hub {flags}"
        ));
        command.args(["--validation_image", "./conditioning_image_1.png", "./conditioning_image_2.png"]);
        command.args([
            "--validation_prompt",
            "red circle with blue background",
            "cyan circle with brown floral background",
        ]);
        command.args(["--validation_inference_steps=1", "--num_validation_images=1", "--num_eval_samples=0"]);
        command
    }

    /// Asserts that the command runs and that what the server received is a model that others find and can use.
    #[track_caller]
    fn arrives(&self, command: Command, repo: &str, tag: &str) {
        let finished = self.away.desk.finish(command);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(
            finished.stderr.contains(&format!("uploaded: {}/{repo}", self.server().hub)),
            "{}",
            finished.stderr
        );
        let commits: Vec<String> = self
            .server()
            .seen()
            .iter()
            .filter(|seen| seen.path.contains("/commit/"))
            .map(|seen| seen.path.clone())
            .collect();
        assert_eq!(commits, [format!("/api/models/{repo}/commit/main")]);

        let pushed = self.server().pushed();
        let paths: Vec<&str> = pushed.keys().map(String::as_str).collect();
        let (grid, weights) = ("validation/step-000002/grid.png", "diffusion_pytorch_model.safetensors");
        assert_eq!(paths, ["README.md", "config.json", weights, grid]);
        let card = String::from_utf8(pushed["README.md"].clone()).unwrap();
        for line in [
            format!("base_model: {}\n", self.base),
            format!("\ntags:\n- {tag}\n- {tag}-diffusers\n- text-to-image\n- diffusers\n- controlnet\n"),
            format!("\n# controlnet-{repo}\n"),
            format!("]({grid})\n"),
            "for the prompts: red circle with blue background; cyan circle with brown floral background."
                .to_owned(),
            "| data set | fusing/fill50k |".to_owned(),
            format!("pyrograph generate --base {} --controlnet {repo} ", self.base),
        ] {
            assert!(card.contains(&line), "{line}\n{card}");
        }
        image::load_from_memory(&pushed[grid]).unwrap();
        self.keeps_the_token(&finished);

        // What the card says works, also for who has only the name.
        for (path, contents) in &pushed {
            self.server().add(&format!("models/{repo}"), path, contents.clone());
        }
        let drawn = self.away.desk.finish(self.away.command(&format!(
            "generate --base {} --controlnet {repo} --control_image hint.png --prompt circle --output drawn.png \
             --width 32 --height 32 --num_inference_steps 1",
            self.base
        )));
        assert_eq!(drawn.code, Some(0), "{}", drawn.stderr);
    }

    /// Asserts that the token is nowhere: not in what was said, left here or uploaded.
    #[track_caller]
    fn keeps_the_token(&self, finished: &Finished) {
        let leaks = |bytes: &[u8]| bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
        assert!(!leaks(finished.stderr.as_bytes()) && !leaks(finished.stdout.as_bytes()));
        for (path, contents) in files(&self.away.desk.path("")) {
            assert!(!contents.is_some_and(|contents| leaks(&contents)), "{}", path.display());
        }
        for (path, contents) in self.server().pushed() {
            assert!(!leaks(&contents), "{path}");
        }
        assert!(!self.server().seen().iter().any(|seen| leaks(&seen.body) || leaks(seen.path.as_bytes())));
    }
}

#[test]
fn the_guide_of_stable_diffusion_runs_with_the_script_of_its_data_set() {
    let guide = Guide::new(Desk::new(), "stable-diffusion-v1-5/stable-diffusion-v1-5");
    let layouts = crate::fixtures().join("layouts");
    guide.server().add_folder("datasets/fusing/fill50k", &layouts.join("fill50k-script"));
    let command = guide.train(&format!(
        "--resolution=32 --train_batch_size=2 --max_train_steps=2 --hub_model_id=me/model_out --hub_token={TOKEN}"
    ));
    guide.arrives(command, "me/model_out", "stable-diffusion");
    let mut data = guide.server().resolved();
    data.retain(|path| !path.contains('/') && !path.ends_with("index.json"));
    for file in ["train.jsonl", "images.zip", "conditioning_images.zip"] {
        assert!(data.iter().any(|path| path == file), "{data:?}");
    }
    assert!(!data.iter().any(|path| path.ends_with(".py")), "a script is never run: {data:?}");
}

#[test]
fn the_guide_of_xl_runs_with_the_parquet_that_the_hub_made_of_the_script() {
    let guide = Guide::new(Desk::of_sdxl(), "stabilityai/stable-diffusion-xl-base-1.0");
    let layouts = crate::fixtures().join("layouts");
    guide.server().add_folder("datasets/fusing/fill50k", &layouts.join("fill50k-script"));
    let converted = guide.away.desk.path("converted");
    copy(&layouts.join("parquet/data"), &converted);
    for (from, to) in [
        ("train-00000-of-00002.parquet", "default/train/0000.parquet"),
        ("train-00001-of-00002.parquet", "default/train/0001.parquet"),
    ] {
        let contents = std::fs::read(converted.join(from)).unwrap();
        guide.server().add("datasets/fusing/fill50k@refs/convert/parquet", to, contents);
    }
    let mut command = guide.train(
        "--mixed_precision=fp16 --resolution=32 --max_train_steps=2 --validation_steps=100 --train_batch_size=1 \
         --gradient_accumulation_steps=4 --report_to=wandb --seed=42",
    );
    command.env("HF_TOKEN", TOKEN);
    // Without `--hub_model_id` it is the output folder's name, of the token's user.
    guide.arrives(command, "me/out", "stable-diffusion-xl");
    let resolved = guide.server().resolved();
    assert!(!resolved.iter().any(|path| path.ends_with(".zip") || path.ends_with(".jsonl")), "{resolved:?}");
}

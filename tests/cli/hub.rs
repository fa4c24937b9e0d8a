//! Models and data sets by their names on the Hub, from a server on this machine.

#[path = "../../crates/hub/tests/server/mod.rs"]
pub(super) mod server;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use expect_test::expect;

use self::server::{COMMIT, Fault, Server, TOKEN};
use super::{Desk, Finished};

/// A desk without models and data: they are on a server.
pub(super) struct Away {
    pub(super) desk: Desk,
    pub(super) server: Server,
}

impl Away {
    pub(super) fn new() -> Self {
        let away = Self::of(
            Desk::new(),
            &[
                ("base", "models/org/tiny"),
                ("controlnet", "models/org/net"),
                ("circles", "datasets/org/circles"),
            ],
        );
        away.server.add("models/org/tiny", "v1-5-pruned.ckpt", "not needed");
        away.server.add("models/org/tiny", "unet/diffusion_pytorch_model.bin", "not needed");
        away
    }

    /// Brings folders of a desk to a server, and deletes them here.
    pub(super) fn of(desk: Desk, folders: &[(&str, &str)]) -> Self {
        let server = Server::start();
        for (folder, repo) in folders {
            server.add_folder(repo, &desk.path(folder));
            fs::remove_dir_all(desk.path(folder)).unwrap();
        }
        Self { desk, server }
    }

    pub(super) fn command(&self, line: &str) -> Command {
        let mut command = self.desk.command(line);
        command.env("HF_ENDPOINT", &self.server.hub).env_remove("HF_HUB_OFFLINE");
        command
    }

    pub(super) fn run(&self, line: &str) -> Finished {
        self.desk.finish(self.command(line))
    }

    #[track_caller]
    pub(super) fn done(&self, line: &str) -> Finished {
        let finished = self.run(line);
        assert_eq!(finished.code, Some(0), "{line}\n{}", finished.stderr);
        finished
    }
}

pub(super) const TRAIN: &str = "train --pretrained_model_name_or_path=org/tiny --dataset_name=org/circles --output_dir=out \
                     --resolution=32 --max_train_steps=1 --num_validation_samples=0 --num_eval_samples=0";

#[test]
fn names_of_the_hub_are_taken_where_folders_are() {
    let away = Away::new();
    away.done(TRAIN);
    let resolved = away.server.resolved();
    assert!(!resolved.iter().any(|path| path.ends_with(".ckpt") || path.ends_with(".bin")), "{resolved:?}");
    away.done("generate --base org/tiny --controlnet org/net --control_image hint.png --prompt circle --width 32 --height 32 \
               --num_inference_steps 2 --output a.png");
    let told = away.done("inspect org/net");
    assert!(told.stdout.contains("ControlNet"), "{}", told.stdout);
    away.done("plan --pretrained_model_name_or_path=org/tiny --dataset_name=org/circles --resolution=32");
    // Nothing was brought twice.
    let mut resolved = away.server.resolved();
    let n_resolved = resolved.len();
    resolved.sort();
    resolved.dedup();
    assert!(
        n_resolved <= resolved.len() + 1,
        "config.json is in two repositories: {:?}",
        away.server.resolved()
    );

    // The same without a network.
    away.server.forget();
    let mut command = away.command(&format!("{TRAIN} --print-config"));
    command.env("HF_HUB_OFFLINE", "1");
    let offline = away.desk.finish(command);
    assert_eq!(offline.code, Some(0), "{}", offline.stderr);
    assert!(away.server.seen().is_empty());
}

#[test]
fn a_printed_preset_has_the_names_and_the_commit_of_a_revision() {
    let away = Away::new();
    let printed = |line: &str| away.done(&format!("{line} --print-config")).stdout;
    let preset = printed(TRAIN);
    for line in ["pretrained_model_name_or_path = \"org/tiny\"", "dataset_name = \"org/circles\""] {
        assert!(preset.contains(line), "{preset}");
    }
    assert!(!preset.contains("snapshots") && !preset.contains("revision"), "{preset}");

    let pinned = printed(&format!("{TRAIN} --revision main --tokenizer_name org/tiny"));
    assert!(pinned.contains(&format!("revision = \"{COMMIT}\"")), "{pinned}");
    away.desk.write("pinned.toml", &pinned);
    assert_eq!(printed("train pinned.toml"), pinned);
    assert_eq!(printed("plan pinned.toml"), pinned);
    let seen = away.server.seen();
    assert!(seen.last().unwrap().path.contains("datasets"), "{}", seen.last().unwrap().path);
    assert!(seen.iter().any(|seen| seen.path.contains(&format!("/api/models/org/tiny/revision/{COMMIT}"))));
}

#[test]
fn every_verb_that_reads_a_model_or_data_takes_a_name() {
    let away = Away::new();
    for (line, told) in [
        ("data check org/circles --tokenizer_name org/tiny --resolution 32", "tokens on average"),
        ("data stats org/circles --base org/tiny --resolution 32", "samples: 5"),
        ("data build org/circles packed", ""),
        ("data stats packed --resolution 32", "samples: 5"),
        ("convert org/net net.safetensors", ""),
        ("convert org/tiny tiny.safetensors", ""),
        ("inspect tiny.safetensors", "a single-file Stable Diffusion checkpoint"),
        ("bench --preset org/tiny --resolution 32 --steps 1 --json", "seconds"),
        (
            "eval --base org/tiny --controlnet org/net --data org/circles --kind canny --resolution 32 --num_samples 2 \
             --num_inference_steps 1",
            "pictures                 2",
        ),
    ] {
        let finished = away.done(line);
        assert!(finished.stdout.contains(told), "{line}\n{}", finished.stdout);
    }
}

#[test]
fn a_mistyped_path_is_not_only_taken_for_a_name() {
    let away = Away::new();
    away.desk.write("models/sd-15/model_index.json", "{}");
    let line =
        "train --pretrained_model_name_or_path models/sd15 --dataset_name org/circles --output_dir out";
    let check = |away: &Away, variable: Option<(&str, &str)>, code: i32| {
        let mut command = away.command(line);
        command.envs(variable);
        let finished = away.desk.finish(command);
        assert_eq!(finished.code, Some(code), "{}", finished.stderr);
        let told =
            "error: nothing is at `models/sd15` here, so it is taken for a name on the Hub\n  caused by: ";
        assert!(finished.stderr.contains(told), "{}", finished.stderr);
        assert!(finished.stderr.contains("\nhint: "), "{}", finished.stderr);
    };
    check(&away, None, 2);
    check(&away, Some(("HF_TOKEN", TOKEN)), 2);
    check(&away, Some(("HF_HUB_OFFLINE", "1")), 2);
    let start = Instant::now();
    // Nobody listens at port 1.
    check(&away, Some(("HF_ENDPOINT", "http://127.0.0.1:1")), 1);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_ends_a_download_which_goes_on_later() {
    let away = Away::new();
    let line = "inspect org/net";
    let unlimited = away.command(line);
    let mut command = Command::new("sh");
    // What is beyond 64 KiB cannot be written, as if there were no more.
    command.args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$@\"", "sh"]);
    command.arg(unlimited.get_program()).args(unlimited.get_args()).current_dir(away.desk.path(""));
    command.envs(unlimited.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN");
    let full = away.desk.finish(command);
    assert_eq!(full.code, Some(1), "{}", full.stderr);
    assert!(
        full.stderr.contains("error: cannot write `DESK/caches/huggingface/hub/models--org--net/blobs/"),
        "{}",
        full.stderr
    );
    assert!(full.stderr.contains("hint: free some space, or set HF_HUB_CACHE"), "{}", full.stderr);

    away.server.forget();
    let finished = away.desk.finish(unlimited);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let ranges: Vec<String> =
        away.server.seen().iter().filter_map(|seen| seen.headers.get("range").cloned()).collect();
    assert!(!ranges.is_empty() && !ranges.contains(&"bytes=0-".to_owned()), "{ranges:?}");
}

#[test]
fn a_mistake_in_a_flag_is_told_before_anything_is_downloaded() {
    let away = Away::new();
    let finished = away.run(&format!("{TRAIN} --proportion_empty_prompts=2"));
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(away.server.seen().is_empty());
}

#[test]
fn what_the_hub_refuses_is_a_line_and_a_hint() {
    let away = Away::new();
    let check = |line: &str, code: i32, message: expect_test::Expect| {
        let finished = away.run(line);
        assert_eq!(finished.code, Some(code), "{}", finished.stderr);
        message.assert_eq(&finished.stderr.replace(&away.server.hub, "HUB"));
    };
    check(
        "inspect org/nothing",
        2,
        expect![[r#"
            error: nothing is at `org/nothing` here, so it is taken for a name on the Hub
              caused by: `org/nothing` is private or does not exist

            hint: check the name; if it is private, set HF_TOKEN to a token that may read it, or run `hf auth login`
        "#]],
    );
    check(
        "inspect org/tiny --revision v9",
        2,
        expect![[r#"
        error: `org/tiny` has no revision `v9`

        hint: check `--revision`: a branch, a tag or a commit
    "#]],
    );
    check(
        "inspect org/tiny --hub_token hf_wrong",
        2,
        expect![[r#"
        error: the Hub does not know the token (status 401)

        hint: set HF_TOKEN to a valid token (https://huggingface.co/settings/tokens), or unset it and remove the token file
    "#]],
    );
    check(
        "generate --base org/tiny --variant fp16 --prompt circle --output a.png",
        2,
        expect![[r#"
        error: `org/tiny` has no safetensors of variant `fp16` in `unet`

        hint: it has `diffusion_pytorch_model.bin`, `diffusion_pytorch_model.safetensors`; a variant is named with `--variant`, and pickles (.bin) are read with `--allow-pickle` only
    "#]],
    );
    away.server.gate("models/org/tiny");
    check(
        "inspect org/tiny",
        2,
        expect![[r#"
         INFO 10 files of org/tiny to transfer: 757.34 KiB
        error: access to `org/tiny` must be asked for

        hint: open HUB/org/tiny and accept its conditions, then set HF_TOKEN or run `hf auth login`
    "#]],
    );
    away.server.fail("/resolve/", std::iter::repeat_n(Fault::Loop, 99));
    check(
        "inspect org/net",
        2,
        expect![[r#"
         INFO 2 files of org/net to transfer: 277.03 KiB
        error: `HUB/org/net/resolve/0123456789abcdef0123456789abcdef01234567/config.json` redirects without end or to nowhere

        hint: check HF_ENDPOINT
    "#]],
    );
    let mut command = away.command("inspect org/net");
    command.env("HF_HUB_OFFLINE", "1");
    expect![[r#"
        error: nothing is at `org/net` here, so it is taken for a name on the Hub
          caused by: `org/net` at `main` is not in the cache `DESK/caches/huggingface/hub`

        hint: HF_HUB_OFFLINE is set, so nothing is downloaded; unset it, or check HF_HOME and HF_HUB_CACHE
    "#]]
    .assert_eq(&away.desk.finish(command).stderr);
}

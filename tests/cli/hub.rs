//! Models and data sets by their names on the Hub, from a server on this machine.

#[path = "../../crates/hub/tests/server/mod.rs"]
mod server;

use std::fs;
use std::process::Command;

use expect_test::expect;

use self::server::{COMMIT, Fault, Server, TOKEN};
use super::{Desk, Finished, files};

/// A desk without models and data: they are on a server.
struct Away {
    desk: Desk,
    server: Server,
}

impl Away {
    fn new() -> Self {
        let (desk, server) = (Desk::new(), Server::start());
        for (repo, folder) in [
            ("models/org/tiny", "base"),
            ("models/org/net", "controlnet"),
            ("datasets/org/circles", "circles"),
        ] {
            server.add_folder(repo, &desk.path(folder));
            fs::remove_dir_all(desk.path(folder)).unwrap();
        }
        server.add("models/org/tiny", "v1-5-pruned.ckpt", "not needed");
        server.add("models/org/tiny", "unet/diffusion_pytorch_model.bin", "not needed");
        Self { desk, server }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.desk.command(line);
        command.env("HF_ENDPOINT", &self.server.hub).env_remove("HF_HUB_OFFLINE");
        command
    }

    fn run(&self, line: &str) -> Finished {
        self.desk.finish(self.command(line))
    }

    #[track_caller]
    fn done(&self, line: &str) -> Finished {
        let finished = self.run(line);
        assert_eq!(finished.code, Some(0), "{line}\n{}", finished.stderr);
        finished
    }
}

const TRAIN: &str = "train --pretrained_model_name_or_path=org/tiny --dataset_name=org/circles --output_dir=out \
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

    // The same without a network; a printed preset names the commit.
    away.server.forget();
    let mut command = away.command(&format!("{TRAIN} --print-config"));
    command.env("HF_HUB_OFFLINE", "1");
    let printed = away.desk.finish(command);
    assert!(printed.stdout.contains(&format!("models--org--tiny/snapshots/{COMMIT}")), "{}", printed.stderr);
    assert!(away.server.seen().is_empty());
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
        error: `org/nothing` is private or does not exist

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
        error: `org/net` at `main` is not in the cache `DESK/caches/huggingface/hub`

        hint: HF_HUB_OFFLINE is set, so nothing is downloaded; unset it, or check HF_HOME and HF_HUB_CACHE
    "#]]
    .assert_eq(&away.desk.finish(command).stderr);
}

#[test]
fn a_token_is_written_nowhere() {
    let away = Away::new();
    away.server.hide("models/org/tiny");
    let mut by_variable = away.command(&format!("{TRAIN} -vv --log-format json"));
    by_variable.env("HF_TOKEN", TOKEN);
    let by_flag = away.command(&format!("{TRAIN} --print-config -vv --hub_token {TOKEN}"));
    for command in [by_variable, by_flag] {
        let finished = away.desk.finish(command);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(!finished.stderr.contains(TOKEN) && !finished.stdout.contains(TOKEN));
    }
    let was_shown = |seen: &server::Seen| seen.headers.contains_key("authorization");
    assert!(away.server.seen().iter().any(was_shown));
    for (path, contents) in files(&away.desk.path("")) {
        let leaks = |bytes: Vec<u8>| bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
        assert!(!contents.is_some_and(leaks), "{}", path.display());
    }
}

#[test]
fn a_run_is_uploaded_with_its_card_and_a_failed_upload_loses_nothing() {
    let away = Away::new();
    let train = "train --pretrained_model_name_or_path=org/tiny --dataset_name=org/circles --output_dir=out --resolution=32 \
                 --max_train_steps=1 --num_eval_samples=0 --validation_prompt circle --validation_image hint.png \
                 --validation_inference_steps=1 --num_validation_images=1 --push_to_hub --hub_model_id=circles";
    let without_token = away.run(train);
    assert_eq!(without_token.code, Some(2), "{}", without_token.stderr);
    assert!(without_token.stderr.contains("hint: set HF_TOKEN"), "{}", without_token.stderr);
    assert!(!away.desk.path("out").exists());

    away.server.fail("/commit/", std::iter::repeat_n(Fault::Status(403, &[]), 1));
    let with_token = |line: &str| {
        let mut command = away.command(line);
        command.env("HF_TOKEN", TOKEN);
        away.desk.finish(command)
    };
    let failed = with_token(train);
    assert_eq!(failed.code, Some(2), "{}", failed.stderr);
    let again = "pyrograph push out --hub_model_id me/circles";
    assert!(
        failed.stderr.contains(&format!("saved in `out`, but not uploaded; `{again}` tries it again")),
        "{}",
        failed.stderr
    );
    assert!(away.server.pushed().is_empty());

    let pushed = with_token(again.strip_prefix("pyrograph ").unwrap());
    assert_eq!(pushed.code, Some(0), "{}", pushed.stderr);
    let pushed = away.server.pushed();
    let paths: Vec<&str> = pushed.keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "README.md",
            "config.json",
            "diffusion_pytorch_model.safetensors",
            "validation/step-000001/grid.png"
        ]
    );
    let card = String::from_utf8(pushed["README.md"].clone()).unwrap();
    for line in [
        "base_model: org/tiny",
        "# controlnet-me/circles",
        "| pairs to train on | 5 |",
        "![The hint and what is drawn",
    ] {
        assert!(card.contains(line), "{line}\n{card}");
    }
    let here = away.desk.path("");
    assert!(!card.contains(here.to_str().unwrap()), "{card}");
}

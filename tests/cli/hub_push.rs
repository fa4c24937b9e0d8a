//! What is uploaded, what is said in it, and what is said nowhere.

use std::fs;

use super::hub::{Away, TRAIN, server};
use super::{Finished, files, names};
use server::{Fault, Seen, TOKEN};

const PUSHED: &str = "train --pretrained_model_name_or_path=org/tiny --dataset_name=org/circles --output_dir=out \
                      --resolution=32 --max_train_steps=1 --num_eval_samples=0 --validation_prompt circle \
                      --validation_image hint.png --validation_inference_steps=1 --num_validation_images=1 --push_to_hub \
                      --hub_model_id=circles";

fn with_token(away: &Away, line: &str) -> Finished {
    let mut command = away.command(line);
    command.env("HF_TOKEN", TOKEN);
    away.desk.finish(command)
}

#[test]
fn a_run_is_uploaded_with_its_card_and_a_failed_upload_loses_nothing() {
    let away = Away::new();
    let without_token = away.run(PUSHED);
    assert_eq!(without_token.code, Some(2), "{}", without_token.stderr);
    assert!(without_token.stderr.contains("hint: set HF_TOKEN"), "{}", without_token.stderr);
    assert!(!away.desk.path("out").exists());

    away.server.forget();
    let mut offline = away.command(PUSHED);
    offline.env("HF_TOKEN", TOKEN).env("HF_HUB_OFFLINE", "1");
    let offline = away.desk.finish(offline);
    assert_eq!(offline.code, Some(2), "{}", offline.stderr);
    assert!(offline.stderr.contains("hint: HF_HUB_OFFLINE is set; unset it"), "{}", offline.stderr);
    assert!(away.server.seen().is_empty());

    away.server.fail("/commit/", std::iter::repeat_n(Fault::Status(403, &[]), 1));
    let failed = with_token(&away, PUSHED);
    assert_eq!(failed.code, Some(2), "{}", failed.stderr);
    let again = "pyrograph push out --hub_model_id me/circles";
    assert!(
        failed.stderr.contains(&format!("saved in `out`, but not uploaded; `{again}` tries it again")),
        "{}",
        failed.stderr
    );
    assert!(away.server.pushed().is_empty());

    let pushed = with_token(&away, again.strip_prefix("pyrograph ").unwrap());
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

#[test]
fn a_card_that_somebody_has_changed_stays_and_is_uploaded() {
    let away = Away::new();
    away.done(TRAIN);
    let card = away.desk.path("out/README.md");
    let first = fs::read_to_string(&card).unwrap();
    // Nobody has touched it: the next run writes its own.
    away.done(&TRAIN.replace("max_train_steps=1", "max_train_steps=2"));
    let second = fs::read_to_string(&card).unwrap();
    assert!(first.contains("| length | 1 steps |") && second.contains("| length | 2 steps |"), "{second}");

    let mine = second.replace("new type of conditioning", "circles that I drew");
    fs::write(&card, &mine).unwrap();
    let kept = with_token(&away, PUSHED);
    assert_eq!(kept.code, Some(0), "{}", kept.stderr);
    assert!(
        kept.stderr.contains("README.md was changed, or written by another program: it stays"),
        "{}",
        kept.stderr
    );
    assert_eq!(fs::read_to_string(&card).unwrap(), mine);
    assert_eq!(away.server.pushed()["README.md"], mine.as_bytes());
}

#[test]
fn a_card_that_cannot_be_written_is_told_and_the_rest_is_uploaded() {
    let away = Away::new();
    // It is where a new card is written before it gets its name.
    fs::create_dir_all(away.desk.path("out/.writing-README.md/taken")).unwrap();
    let finished = with_token(&away, PUSHED);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("WARN the run has no model card: cannot write"), "{}", finished.stderr);
    assert!(!away.desk.path("out/README.md").exists());
    let pushed: Vec<String> = away.server.pushed().into_keys().collect();
    assert_eq!(pushed, ["config.json", "diffusion_pytorch_model.safetensors"]);
}

/// The files of the desk that have the token in them.
fn files_with_token(away: &Away) -> Vec<String> {
    let has_it = |bytes: &[u8]| bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
    let with_it = files(&away.desk.path("")).into_iter();
    let with_it = with_it.filter(|(_, contents)| contents.as_deref().is_some_and(has_it));
    with_it.map(|(path, _)| path.display().to_string()).collect()
}

#[test]
fn a_token_is_written_nowhere() {
    let away = Away::new();
    away.server.hide("models/org/tiny");
    let keeps = |line: &str, code: i32| {
        for by_flag in [false, true] {
            for verbosity in ["", "-vv", "-vv --log-format json"] {
                let mut command = away.command(&format!("{line} {verbosity}"));
                if by_flag {
                    command.args(["--hub_token", TOKEN]);
                } else {
                    command.env("HF_TOKEN", TOKEN);
                }
                let finished = away.desk.finish(command);
                assert_eq!(finished.code, Some(code), "{line} {verbosity}\n{}", finished.stderr);
                let told = finished.stderr + &finished.stdout;
                assert!(!told.contains(TOKEN) && !told.contains(&TOKEN[..8]), "{line} {verbosity}\n{told}");
            }
        }
    };
    keeps(&format!("{TRAIN} --print-config"), 0);
    keeps(
        &format!(
            "{TRAIN} --force_resume --checkpointing_steps 1 --validation_prompt c --validation_image hint.png"
        ),
        0,
    );
    // Errors of every kind, among them those that quote what the server or the user said.
    keeps("inspect org/nothing", 2);
    keeps("inspect org/tiny --revision v9", 2);
    keeps("push out --hub_model_id a//b", 2);
    let statuses =
        [400, 401, 403, 404, 416].map(|status| Fault::Status(status, &[("X-Error-Message", "no")]));
    for fault in statuses.into_iter().chain([Fault::Loop, Fault::Cut(1)]) {
        away.server.fail("/resolve/", std::iter::repeat_n(fault, 1));
        let _ = with_token(&away, "inspect org/net -vv");
    }
    keeps("push out --hub_model_id circles", 0);

    let was_shown = |seen: &Seen| seen.headers.contains_key("authorization");
    assert!(away.server.seen().iter().any(was_shown));
    let out = names(&away.desk.path("out"));
    for file in ["README.md", "checkpoint-1", "config.json", "logs", "metrics.jsonl", "report.html"] {
        assert!(out.iter().any(|name| name == file), "{file} is to be looked at: {out:?}");
    }
    assert_eq!(files_with_token(&away), Vec::<String>::new());
    for (path, contents) in away.server.pushed() {
        assert!(!contents.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()), "{path}");
    }
}

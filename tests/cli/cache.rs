//! The cache of latents and prompt embeddings: where it is, what is said of it, and what it survives.

use std::fs;

use expect_test::expect;

use super::{Desk, TRAIN, names};

fn train(flags: &str) -> String {
    format!("{TRAIN} --train_data_dir=circles --max_train_steps=2 {flags}")
}

/// The weights of a finished run, and what was said of its cache.
fn result(desk: &Desk, flags: &str) -> (Vec<u8>, Vec<String>) {
    let finished = desk.run(&train(flags));
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    // The memory plan has lines on caches, too.
    let is_about =
        |line: &&str| (line.contains("latents") || line.contains("cache")) && !line.starts_with("caches ");
    let said = finished.stderr.lines().filter(is_about).map(|line| line.trim().to_owned()).collect();
    (fs::read(desk.path("out/diffusion_pytorch_model.safetensors")).unwrap(), said)
}

#[test]
fn a_second_run_reads_from_the_users_cache_folder_what_the_first_encoded() {
    let desk = Desk::new();
    let (first, said) = result(&desk, "");
    let place = "Cache of latents and prompt embeddings = DESK/caches/pyrograph";
    // Two of the captions have the same tokens; the empty one is encoded, too.
    let found = "INFO latents: 0 read from the cache, 5 encoded; prompts: 0 read, 5 encoded";
    assert_eq!(said, [place, found]);
    let (second, said) = result(&desk, "");
    let found = "INFO latents: 5 read from the cache, 0 encoded; prompts: 4 read, 0 encoded";
    assert_eq!(said, [place, found]);
    assert!(first == second);
}

#[test]
fn the_folder_can_be_chosen_and_a_cache_in_memory_or_none_leaves_no_file() {
    let desk = Desk::new();
    let (expected, said) = result(&desk, "--cache=off");
    assert_eq!(said, ["Cache of latents and prompt embeddings = off"]);
    let (weights, said) = result(&desk, "--cache=memory --cache-dir=here");
    assert!(weights == expected);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(!desk.path("here").exists());
    let (weights, _) = result(&desk, "--cache_dir=here");
    assert!(weights == expected);
    assert!(names(&desk.path("here")).contains(&"incomplete".to_owned()));
    assert!(!desk.path("caches").exists());
}

#[test]
fn a_folder_that_cannot_be_written_is_warned_of_once() {
    let desk = Desk::new();
    let (expected, _) = result(&desk, "--cache=off");
    desk.write("caches", "a file in the way");
    let (weights, said) = result(&desk, "");
    assert!(weights == expected);
    let warnings: Vec<_> = said.iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{said:?}");
    assert!(warnings[0].contains("the cache `DESK/caches/pyrograph` cannot be written"), "{warnings:?}");
}

#[test]
fn damage_is_warned_of_once() {
    let desk = Desk::new();
    let (expected, _) = result(&desk, "");
    for folder in fs::read_dir(desk.path("caches/pyrograph")).unwrap() {
        for entry in fs::read_dir(folder.unwrap().path()).unwrap() {
            fs::write(entry.unwrap().path(), "not what it was").unwrap();
        }
    }
    let (weights, said) = result(&desk, "");
    assert!(weights == expected);
    let count = |what: &str| said.iter().filter(|line| line.contains("WARN") && line.contains(what)).count();
    assert_eq!(count("is damaged"), 1, "{said:?}");
    // The text encoders were freed, because the prompts seemed to be there.
    assert_eq!(count("the text encoders are read again"), 1, "{said:?}");
    assert_eq!(count(""), 2, "{said:?}");
}

#[test]
fn two_runs_at_once_share_a_folder() {
    let desk = Desk::new();
    let (expected, _) = result(&desk, "--cache=off");
    let runs = ["left", "right"].map(|out| {
        let line = train("").replace("--output_dir=out", &format!("--output_dir={out}"));
        (out, desk.command(&line).stderr(std::process::Stdio::piped()).spawn().unwrap())
    });
    for (out, run) in runs {
        let output = run.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !stderr.contains("damaged"), "{stderr}");
        let weights = fs::read(desk.path(out).join("diffusion_pytorch_model.safetensors")).unwrap();
        assert!(weights == expected, "{out}");
    }
}

#[test]
fn a_misspelt_cache_is_refused_with_a_near_name() {
    let desk = Desk::new();
    desk.refuses(
        &train("--cache=disc"),
        expect![[r#"
        error: invalid value 'disc' for '--cache <WHERE>'
          [possible values: off, memory, disk]

          tip: a similar value exists: 'disk'

        For more information, try '--help'.
    "#]],
    );
    desk.write("preset.toml", "[cache]\ncachedir = 'here'\n");
    desk.refuses(
        "train preset.toml",
        expect![[r#"
        error: preset `preset.toml` has an unknown key `cachedir` in section [cache]

        hint: did you mean `cache_dir` in section [cache]?
    "#]],
    );
}

#[test]
fn the_resolved_cache_is_printed_as_a_preset() {
    let desk = Desk::new();
    let cache = |flags: &str| {
        let preset = desk.done(&train(&format!("{flags} --print-config")));
        let (_, after) = preset.split_once("[cache]\n").unwrap();
        after.split("\n\n").next().unwrap().replace(desk.path.to_str().unwrap(), "DESK")
    };
    assert_eq!(cache(""), "cache = \"disk\"\ncache_dir = \"DESK/caches/pyrograph\"");
    assert_eq!(cache("--cache=memory"), "cache = \"memory\"");
}

//! The README and the guides: every command in them runs.
//!
//! Each page has an empty folder with the presets in it, in which its commands run from top to bottom. [`scale`] says
//! what is done in less time, or in another way, than a reader would; [`page`] which blocks are left out, and why.

mod options;
mod page;
mod scale;

use std::fs;
use std::path::Path;

use crate::cli::program;

const README: (&str, &str) = ("README.md", include_str!("../../README.md"));
const INDEX: (&str, &str) = ("docs/README.md", include_str!("../../docs/README.md"));
const OWN_DATASET: (&str, &str) =
    ("docs/your-own-dataset.md", include_str!("../../docs/your-own-dataset.md"));
const SD15: (&str, &str) = ("docs/sd15-fill50k.md", include_str!("../../docs/sd15-fill50k.md"));
const LEARNING: (&str, &str) = ("docs/is-it-learning.md", include_str!("../../docs/is-it-learning.md"));
const USE: (&str, &str) =
    ("docs/use-what-you-trained.md", include_str!("../../docs/use-what-you-trained.md"));

const RELIABILITY: (&str, &str) = ("docs/reliability.md", include_str!("../../docs/reliability.md"));

const GPU: (&str, &str) = ("docs/gpu.md", include_str!("../../docs/gpu.md"));

const FORMATS: (&str, &str) = ("docs/formats.md", include_str!("../../docs/formats.md"));

const MEMORY: (&str, &str) = ("docs/memory.md", include_str!("../../docs/memory.md"));

const HUB: (&str, &str) = ("docs/hub.md", include_str!("../../docs/hub.md"));

const SCALING: (&str, &str) = ("docs/scaling.md", include_str!("../../docs/scaling.md"));

const OPTIONS: (&str, &str) = ("docs/options.md", include_str!("../../docs/options.md"));

const PAGES: [(&str, &str); 13] = [
    README,
    INDEX,
    OWN_DATASET,
    SD15,
    GPU,
    LEARNING,
    USE,
    FORMATS,
    RELIABILITY,
    MEMORY,
    HUB,
    SCALING,
    OPTIONS,
];

const PRESETS: [(&str, &str); 2] = [
    ("configs/quickstart.toml", include_str!("../../configs/quickstart.toml")),
    ("configs/sd15-fill50k.toml", include_str!("../../configs/sd15-fill50k.toml")),
];

/// What the pages call a base by its name on the Hub; here it is a folder of that name, which comes before the Hub.
const BASE: &str = "stable-diffusion-v1-5/stable-diffusion-v1-5";

const PRINT_CONFIG: &str = "--print-config";

#[test]
fn the_readme_runs_from_top_to_bottom() {
    check(README);
}

#[test]
fn the_guide_to_your_own_dataset_runs_from_top_to_bottom() {
    check(OWN_DATASET);
}

#[test]
fn the_guide_to_sd15_and_fill50k_runs_from_top_to_bottom() {
    check(SD15);
}

#[test]
fn the_guide_to_whether_it_learns_runs_from_top_to_bottom() {
    check(LEARNING);
}

#[test]
fn the_guide_to_use_what_you_trained_runs_from_top_to_bottom() {
    check(USE);
}

#[test]
fn the_page_on_formats_runs_from_top_to_bottom() {
    check(FORMATS);
}

#[test]
fn the_page_on_reliability_runs_from_top_to_bottom() {
    check(RELIABILITY);
}

#[test]
fn the_page_on_memory_runs_from_top_to_bottom() {
    check(MEMORY);
}

#[test]
fn every_promise_to_several_processes_is_held_by_a_test() {
    let tests = root().join("tests");
    // Not there on a machine with the bundle of tests only.
    let Ok(of_ranks) = fs::read_to_string(tests.join("train/ranks.rs")) else { return };
    let existing = of_ranks + &fs::read_to_string(tests.join("cli/mpi.rs")).unwrap();
    let promised = SCALING.1.lines().filter(|line| line.starts_with("| ")).filter_map(|line| {
        line.rsplit_once("`").and_then(|(before, _)| before.rsplit_once("`")).map(|(_, name)| name)
    });
    let promised: Vec<&str> = promised.collect();
    assert_eq!(promised.len(), 8);
    for name in promised {
        assert!(existing.contains(&format!("fn {name}()")), "there is no test `{name}`");
    }
}

#[test]
fn every_promise_of_reliability_is_held_by_a_test_and_every_fault_is_in_its_table() {
    let tests = root().join("tests");
    // Not there on a machine with the bundle of tests only.
    if !tests.join("faults").is_dir() {
        return;
    }
    let is_test = |name: &&str| {
        name.split('_').count() > 4
            && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
    };
    let promised: Vec<&str> = RELIABILITY.1.split('`').filter(is_test).collect();
    let mut existing = Vec::new();
    for folder in ["faults", "train"] {
        for file in fs::read_dir(tests.join(folder)).unwrap() {
            let text = fs::read_to_string(file.unwrap().path()).unwrap();
            let names =
                text.split("#[test]\nfn ").skip(1).map(|after| after.split('(').next().unwrap().to_owned());
            existing.extend(names.map(|name| (folder, name)));
        }
    }
    for name in &promised {
        assert!(existing.iter().any(|(_, other)| other == name), "there is no test `{name}`");
    }
    for (_, name) in existing.iter().filter(|(folder, _)| *folder == "faults") {
        assert!(promised.contains(&name.as_str()), "`{name}` is not in the table");
    }
}

#[test]
fn a_command_that_does_not_work_fails_with_its_line() {
    for (command, complaint) in [
        ("pyrograph inspect --no-such-flag configs", "unexpected argument '--no-such-flag'"),
        ("pyrograph data circles --count=many --size=64 circles", "invalid value 'many'"),
        ("pyrograph train configs/no-such-preset.toml", "no-such-preset.toml"),
        ("pyrograph train configs/quickstart.toml --lr_scheduler=cosin", "invalid value 'cosin'"),
        ("pyrograph generat", "unrecognized subcommand 'generat'"),
        ("make everything", "is not left out"),
    ] {
        let error = run(&format!("# A page\n\n```sh\n{command}\n```\n")).unwrap_err();
        assert!(error.starts_with("line 4: ") && error.contains(complaint), "{command}: {error}");
    }
}

#[test]
fn every_guide_is_tested_and_in_the_index() {
    // Not there on a machine with the bundle of tests only.
    let Ok(guides) = fs::read_dir(root().join("docs")) else { return };
    // Folders hold what was measured, which no test repeats.
    let files = guides.map(Result::unwrap).filter(|entry| entry.path().is_file());
    for guide in files.map(|entry| entry.file_name().into_string().unwrap()) {
        let path = format!("docs/{guide}");
        assert!(PAGES.iter().any(|(page, _)| **page == path), "{path} is not tested");
        assert!(path == INDEX.0 || INDEX.1.contains(&format!("]({guide})")), "{path} is not in the index");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    if !root().join("docs").is_dir() {
        return;
    }
    for (path, page) in PAGES {
        let links = page.split("](").skip(1).filter_map(|after| after.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let target = root().join(path).parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{path}: {link}");
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[track_caller]
fn check((path, page): (&str, &str)) {
    run(page).unwrap_or_else(|error| panic!("{path}, {error}"));
}

/// Runs a page's commands, each of which must succeed.
fn run(page: &str) -> Result<(), String> {
    let desk = tempfile::tempdir().unwrap();
    for (path, preset) in PRESETS {
        let path = desk.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, preset).unwrap();
    }
    finish(desk.path(), &["init-base".to_owned(), BASE.to_owned()])?;
    for page::Command { line, words } in page::commands(page)? {
        let failed = |error: String| format!("line {line}: {}\n{error}", words.join(" "));
        let Some(arguments) = scale::arguments(&words).map_err(failed)? else { continue };
        if arguments[0] == "train" && !arguments.iter().any(|argument| argument == PRINT_CONFIG) {
            // A preset and flags that make sense together as they are written, before they are replaced.
            finish(desk.path(), &[arguments.as_slice(), &[PRINT_CONFIG.to_owned()]].concat())
                .map_err(failed)?;
        }
        finish(desk.path(), &scale::smaller(arguments)).map_err(failed)?;
    }
    Ok(())
}

fn finish(folder: &Path, arguments: &[String]) -> Result<(), String> {
    let output = program(folder).args(arguments).output().unwrap();
    output.status.success().then_some(()).ok_or_else(|| String::from_utf8(output.stderr).unwrap())
}

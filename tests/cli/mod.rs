//! The command line as its user meets it: exit codes, messages, and the files that are there afterwards.
//!
//! Every test has a desk, a folder with the models and data of a user, and runs the program in it as a process of its
//! own. Messages are pinned whole; after a change of words, `UPDATE_EXPECT=1` rewrites them in the source.

#![expect(
    clippy::needless_pass_by_value,
    reason = "an expectation is written in the call: `check(input, expect![..])`"
)]

mod bad_data;
mod bad_models;
mod bad_settings;
mod bench;
mod cache;
mod checkpoints;
mod data;
mod eval;
mod from_png;
mod generate;
mod hub;
mod hub_guide;
mod hub_push;
mod layouts;
#[cfg(feature = "mpi")]
mod mpi;
mod plan;
mod reference_flags;
mod training;
mod verbs;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use expect_test::Expect;
use tempfile::TempDir;

/// What every training run here has in common; pictures take the longest.
pub(crate) const TRAIN: &str = "train --pretrained_model_name_or_path=base --output_dir=out --resolution=32 \
                     --num_validation_samples=0";

/// The program in a folder: that of this build, or `PYROGRAPH_BIN` on a machine without it. Its cache is there, too, and
/// not in the user's home.
pub(crate) fn program(folder: &Path) -> Command {
    let built = env!("CARGO_BIN_EXE_pyrograph-under-test");
    let mut command =
        Command::new(std::env::var_os("PYROGRAPH_BIN").unwrap_or_else(|| OsString::from(built)));
    if pyrograph::backend::NAME != "cpu" {
        keep_kernels(folder);
    }
    command.current_dir(folder).env("XDG_CACHE_HOME", folder.join("caches")).stdin(Stdio::null());
    // No test asks the Hub itself.
    for variable in ["HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT"] {
        command.env_remove(variable);
    }
    command.env("HF_HUB_OFFLINE", "1");
    command
}

/// Has programs in this folder keep what they compile and tune for the device in one place, or each would begin anew.
fn keep_kernels(folder: &Path) {
    let kept = std::env::temp_dir().join("pyrograph-tests-kernels");
    fs::write(folder.join("cubecl.toml"), format!("[environment]\npath = {{ directory = {kept:?} }}\n"))
        .unwrap();
}

/// A user's folder: a tiny base model in `base`, a ControlNet of it in `controlnet` with its `hint.png` and
/// `latents.safetensors`, and five pairs of circles in `circles`.
pub(crate) struct Desk {
    /// Deletes the folder at the end.
    _dir: TempDir,
    path: PathBuf,
}

/// What was said beside the memory plan, whose numbers are those of `plan.rs`.
fn without_plan(stderr: &str) -> String {
    let Some((before, plan)) = stderr.split_once(" INFO memory plan\n") else { return stderr.to_owned() };
    let after = plan.lines().skip_while(|line| !line.starts_with("main memory needed: ")).skip(1);
    after.fold(before.to_owned(), |text, line| text + line + "\n")
}

/// What a command left behind.
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self::of("sd1-like")
    }

    /// The same with a base and a ControlNet of SDXL.
    pub(crate) fn of_sdxl() -> Self {
        Self::of("sdxl-like")
    }

    fn of(family: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        copy(&crate::fixtures().join("parity/generate").join(family), &path);
        crate::train::circles(&path);
        Self { _dir: dir, path }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Changes one value of a JSON file.
    fn set_json(&self, name: &str, key: &str, value: impl Into<serde_json::Value>) {
        let mut json: serde_json::Value =
            serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        json[key] = value.into();
        self.write(name, json.to_string());
    }

    /// The command in this folder, for a line of words without quotes.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = program(&self.path);
        command.args(line.split_whitespace());
        command
    }

    fn finish(&self, mut command: Command) -> Finished {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let folder = self.path.to_str().unwrap();
        let stderr = text(output.stderr).replace(folder, "DESK").replace("pyrograph-under-test", "pyrograph");
        Finished { code: output.status.code(), stdout: text(output.stdout), stderr }
    }

    pub(crate) fn run(&self, line: &str) -> Finished {
        self.finish(self.command(line))
    }

    /// Runs a command that must succeed; returns its standard output.
    pub(crate) fn done(&self, line: &str) -> String {
        let finished = self.run(line);
        assert_eq!(finished.code, Some(0), "{line}\n{}", finished.stderr);
        finished.stdout
    }

    /// Asserts that a command is refused as bad input with this message and leaves every file as it was.
    #[track_caller]
    fn refuses(&self, line: &str, message: Expect) {
        self.refuses_command(self.command(line), message);
    }

    #[track_caller]
    fn refuses_command(&self, command: Command, message: Expect) {
        let before = files(&self.path);
        let finished = self.finish(command);
        message.assert_eq(&without_plan(&finished.stderr));
        assert_eq!(finished.code, Some(2), "the exit code");
        assert_eq!(finished.stdout, "", "standard output");
        let after = files(&self.path);
        let changed: Vec<_> =
            before.keys().chain(after.keys()).filter(|&path| before.get(path) != after.get(path)).collect();
        assert!(changed.is_empty(), "changed: {changed:?}");
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// All files below a folder with their contents, and the folders with none.
fn files(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.append(&mut files(&path));
            found.insert(path, None);
        } else {
            let contents = fs::read(&path).unwrap();
            found.insert(path, Some(contents));
        }
    }
    found
}

/// The names in a folder, in order.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

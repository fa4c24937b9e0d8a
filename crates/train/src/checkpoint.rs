//! Checkpoints: a folder that is complete and verified, or not there.
//!
//! `checkpoint-N/` holds `controlnet/` in diffusers' layout, `optimizer.safetensors`, `state.json`, and
//! `manifest.json` with a hash of every other file. It is written under another name, synced and renamed, and old
//! checkpoints go only after that.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use pyrograph_data::Cursor;
use pyrograph_pipeline::{load_controlnet, save_controlnet};
use pyrograph_unet::{ControlNet, ControlNetConfig};
use pyrograph_weights::{load_tensors, save_tensors};
use serde::{Deserialize, Serialize};

use crate::best::Best;
use crate::optim::{Optimizer, OptimizerConfig};
use crate::took_hold::TookHold;
use crate::{TrainError, TrainPlan};

const CONTROLNET: &str = "controlnet";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const MANIFEST: &str = "manifest.json";

/// The ending of a checkpoint's hidden name while it is written.
const INCOMPLETE: &str = ".incomplete";

/// The ending of a checkpoint's hidden name while it is deleted.
const DELETED: &str = ".deleted";

/// How far a run is; together with plan and data it decides everything that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Optimizer steps made.
    pub optimizer_step: u32,
    /// Micro-batches made.
    pub micro_step: u64,
    /// The next micro-batch.
    pub cursor: Cursor,
}

/// What a run has found out so far, and how long that took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) took_hold: TookHold,
    pub(crate) best: Option<Best>,
    pub(crate) seconds: f64,
}

/// What must be the same for a resumed run to continue the one it resumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity(pub BTreeMap<String, String>);

impl Identity {
    /// The first setting that differs.
    fn difference(&self, stored: &Self) -> Option<(String, String, String)> {
        self.0.iter().find_map(|(key, now)| {
            let before = stored.0.get(key).map_or("unknown", String::as_str);
            (before != now).then(|| (key.clone(), before.to_owned(), now.clone()))
        })
    }
}

#[derive(Serialize, Deserialize)]
struct State<P> {
    position: Position,
    identity: Identity,
    #[serde(default)]
    record: Record,
    plan: P,
}

/// What a checkpoint is made of.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pub(crate) controlnet: &'a ControlNet,
    pub(crate) controlnet_config: &'a ControlNetConfig,
    pub(crate) optimizer: &'a Optimizer,
    pub(crate) position: Position,
    pub(crate) record: Record,
    pub(crate) identity: &'a Identity,
    pub(crate) plan: &'a TrainPlan,
}

/// A complete checkpoint folder whose files have the hashes of its manifest.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    position: Position,
    identity: Identity,
    record: Record,
}

/// What a run continues from.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) controlnet: ControlNet,
    pub(crate) controlnet_config: ControlNetConfig,
    pub(crate) optimizer: Optimizer,
    pub(crate) position: Position,
    pub(crate) record: Record,
}

impl Snapshot<'_> {
    /// Writes `checkpoint-N` into the output folder, then deletes the oldest beyond `total_limit`.
    pub(crate) fn save(
        &self,
        output_dir: &Path,
        total_limit: Option<NonZeroUsize>,
    ) -> Result<PathBuf, TrainError> {
        let name = format!("checkpoint-{}", self.position.optimizer_step);
        remove_leftovers(output_dir)?;
        let scratch = scratch_dir(output_dir, &name);
        let controlnet_dir = scratch.join(CONTROLNET);
        fs::create_dir_all(&controlnet_dir).map_err(TrainError::io(&controlnet_dir))?;
        save_controlnet(self.controlnet, self.controlnet_config, &controlnet_dir)
            .map_err(TrainError::Pipeline)?;
        save_tensors(&scratch.join(OPTIMIZER), &self.optimizer.state(self.controlnet), &BTreeMap::new())
            .map_err(TrainError::Weights)?;
        let Self { position, record, plan, .. } = *self;
        let state = State { position, identity: self.identity.clone(), record, plan };
        write_json(&scratch.join(STATE), &state)?;
        write_json(&scratch.join(MANIFEST), &hashes(&scratch)?)?;
        sync(&controlnet_dir)?;
        let path = put_in_place(&scratch, output_dir, &name)?;
        if let Some(limit) = total_limit {
            let mut ours = numbered(output_dir)?;
            ours.retain(|(_, path)| path.join(MANIFEST).is_file());
            for (_, old) in &ours[..ours.len().saturating_sub(limit.get())] {
                remove(old)?;
            }
        }
        Ok(path)
    }
}

impl Checkpoint {
    /// Opens a checkpoint folder and verifies it.
    ///
    /// # Errors
    /// [`TrainError::NotACheckpoint`] says what is missing or damaged.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let problem = |problem: String| TrainError::NotACheckpoint { path: path.to_owned(), problem };
        if !path.is_dir() {
            return Err(problem("there is no such folder".to_owned()));
        }
        let manifest: BTreeMap<String, String> = read_json(&path.join(MANIFEST)).map_err(&problem)?;
        let found = hashes(path)?;
        for (file, expected) in &manifest {
            match found.get(file) {
                None => return Err(problem(format!("`{file}` is missing"))),
                Some(hash) if hash != expected => return Err(problem(format!("`{file}` is damaged"))),
                Some(_) => {}
            }
        }
        for required in [STATE, OPTIMIZER] {
            if !manifest.contains_key(required) {
                return Err(problem(format!("`{required}` is missing from its manifest")));
            }
        }
        let state: State<serde_json::Value> = read_json(&path.join(STATE)).map_err(&problem)?;
        let State { position, identity, record, .. } = state;
        Ok(Self { path: path.to_owned(), position, identity, record })
    }

    /// The newest complete checkpoint of an output folder. Folders of other names are no concern of ours, and
    /// incomplete ones are skipped.
    ///
    /// # Errors
    /// [`TrainError::NoCheckpoint`] if there is none, or why the newest one cannot be used if none can.
    pub fn latest(output_dir: &Path) -> Result<Self, TrainError> {
        let none = || TrainError::NoCheckpoint { output_dir: output_dir.to_owned() };
        if !output_dir.is_dir() {
            return Err(none());
        }
        let mut first_failure = None;
        for (_, path) in numbered(output_dir)?.iter().rev() {
            match Self::open(path) {
                Ok(checkpoint) => return Ok(checkpoint),
                Err(failure) => {
                    tracing::warn!("skipping {}: {failure}", path.display());
                    first_failure = first_failure.or(Some(failure));
                }
            }
        }
        Err(first_failure.unwrap_or_else(none))
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far the run was.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Loads the ControlNet and the optimizer to continue on an autodiff device.
    pub(crate) fn restore(
        &self,
        identity: &Identity,
        optimizer: OptimizerConfig,
        device: &Device,
    ) -> Result<Restored, TrainError> {
        if let Some((key, stored, now)) = identity.difference(&self.identity) {
            return Err(TrainError::ResumeMismatch { path: self.path.clone(), key, stored, now });
        }
        let (controlnet, controlnet_config) =
            load_controlnet(&self.path.join(CONTROLNET), device).map_err(TrainError::Pipeline)?;
        let state = load_tensors(&self.path.join(OPTIMIZER)).map_err(TrainError::Weights)?;
        let optimizer =
            Optimizer::resumed(optimizer, self.position.optimizer_step, state, &controlnet, device)?;
        let (position, record) = (self.position, self.record);
        Ok(Restored { controlnet, controlnet_config, optimizer, position, record })
    }
}

/// The folders `checkpoint-<number>`, by number.
fn numbered(output_dir: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(output_dir).map_err(TrainError::io(output_dir))? {
        let path = entry.map_err(TrainError::io(output_dir))?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("checkpoint-"))
            .and_then(|number| number.parse().ok());
        if let Some(number) = number.filter(|_| path.is_dir()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The hash of every file but the manifest, by path relative to the folder.
fn hashes(dir: &Path) -> Result<BTreeMap<String, String>, TrainError> {
    let mut hashes = BTreeMap::new();
    for (prefix, folder) in [("", dir.to_owned()), ("controlnet/", dir.join(CONTROLNET))] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.map_err(TrainError::io(&folder))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_file() && name != MANIFEST {
                let mut hasher = blake3::Hasher::new();
                let file = File::open(&path).map_err(TrainError::io(&path))?;
                hasher.update_reader(file).map_err(TrainError::io(&path))?;
                hashes.insert(format!("{prefix}{name}"), hasher.finalize().to_hex().to_string());
            }
        }
    }
    Ok(hashes)
}

/// Where a folder is written before it takes its place.
pub(crate) fn scratch_dir(output_dir: &Path, name: &str) -> PathBuf {
    output_dir.join(format!(".{name}{INCOMPLETE}"))
}

/// Makes a folder that is written durable and gives it its name, in place of one that has it.
pub(crate) fn put_in_place(scratch: &Path, output_dir: &Path, name: &str) -> Result<PathBuf, TrainError> {
    let path = output_dir.join(name);
    sync(scratch)?;
    if path.exists() {
        remove(&path)?;
    }
    fs::rename(scratch, &path).map_err(TrainError::io(&path))?;
    sync(output_dir)?;
    Ok(path)
}

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), TrainError> {
    let text = serde_json::to_string_pretty(value).expect("our own types are plain data with string keys");
    fs::write(path, text + "\n").map_err(TrainError::io(path))?;
    sync(path)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, String> {
    let name = path.file_name().unwrap_or_default().display();
    let text = fs::read_to_string(path).map_err(|error| format!("`{name}` cannot be read: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("`{name}` is not what we write: {error}"))
}

/// Makes a file or a folder's entries durable.
fn sync(path: &Path) -> Result<(), TrainError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(TrainError::io(path))
}

/// Deletes a checkpoint: hidden first, so that a run killed meanwhile leaves no half of one under its name.
fn remove(checkpoint: &Path) -> Result<(), TrainError> {
    let name = checkpoint.file_name().unwrap_or_default().display();
    let hidden = checkpoint.with_file_name(format!(".{name}{DELETED}"));
    fs::rename(checkpoint, &hidden).map_err(TrainError::io(checkpoint))?;
    fs::remove_dir_all(&hidden).map_err(TrainError::io(&hidden))
}

/// Deletes what a killed run was writing or deleting.
fn remove_leftovers(output_dir: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(output_dir).map_err(TrainError::io(output_dir))? {
        let entry = entry.map_err(TrainError::io(output_dir))?;
        let name = entry.file_name();
        let is_leftover = name.to_str().is_some_and(|name| {
            (name.starts_with(".checkpoint-") || name.starts_with(".best."))
                && (name.ends_with(INCOMPLETE) || name.ends_with(DELETED))
        });
        if is_leftover {
            fs::remove_dir_all(entry.path()).map_err(TrainError::io(&entry.path()))?;
        }
    }
    Ok(())
}

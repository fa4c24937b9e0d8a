//! Checkpoints: a folder that is complete and verified, or not there.
//!
//! `checkpoint-N/` holds `controlnet/` in diffusers' layout, `unet/` if its decoder is trained, too, `controlnet_ema/` if an average is kept,
//! `optimizer.safetensors`, `state.json`, and `manifest.json` with length and hash of every other file. It is written under another name, synced, read back and
//! renamed, and old checkpoints go only after that.

mod folder;
mod list;
mod manifest;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use pyrograph_data::Cursor;
use pyrograph_pipeline::{Bundle, BundleOptions, load_controlnet, load_unet, save_controlnet, save_unet};
use pyrograph_unet::{ControlNet, ControlNetConfig, Unet, UnetConfig};
use pyrograph_weights::{Disk, Pickles, load_tensors, save_tensors};
use serde::{Deserialize, Serialize};

use self::manifest::{MANIFEST, Manifest, Recorder};
use crate::best::Best;
use crate::ema::Ema;
use crate::identity::{Difference, Identity};
use crate::loss_scale::LossScale;
use crate::nonfinite::Skips;
use crate::optim::Optimizer;
use crate::took_hold::TookHold;
use crate::trainee::Trainee;
use crate::{TrainError, TrainPlan};

pub(crate) use self::folder::{checkpoint_dir, put_in_place, recover, scratch_dir};
pub use self::list::{CheckpointInfo, Condition, Thoroughness, list_checkpoints};
pub(crate) use self::manifest::read_json;

const CONTROLNET: &str = "controlnet";
/// The name that diffusers gives to the average of a `unet`, for a ControlNet.
const CONTROLNET_EMA: &str = "controlnet_ema";
/// The UNet whose decoder is trained.
pub(crate) const UNET: &str = "unet";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// What a checkpoint needs beside its tensors, at most.
const OTHER_BYTES: u64 = 1 << 20;

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

/// What a run has found out so far, how long that took, and what it still owes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) took_hold: TookHold,
    pub(crate) best: Option<Best>,
    pub(crate) seconds: f64,
    #[serde(default)]
    pub(crate) skips: Skips,
    /// What is due at this step and not done yet.
    #[serde(default)]
    pub(crate) due: Due,
    #[serde(default)]
    pub(crate) loss_scale: LossScale,
}

/// What is due between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Due {
    pub(crate) evaluation: bool,
    pub(crate) validation: bool,
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
    pub(crate) trainee: &'a Trainee,
    pub(crate) controlnet_config: &'a ControlNetConfig,
    pub(crate) unet_config: &'a UnetConfig,
    pub(crate) optimizer: &'a Optimizer,
    pub(crate) ema: Option<&'a Ema<ControlNet>>,
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
    plan: serde_json::Value,
}

/// What a run continues from.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) trainee: Trainee,
    pub(crate) controlnet_config: ControlNetConfig,
    pub(crate) optimizer: Optimizer,
    pub(crate) ema: Option<Ema<ControlNet>>,
    pub(crate) position: Position,
    pub(crate) record: Record,
}

/// What a run has to show for itself.
#[derive(Debug)]
pub(crate) struct SavedResult<'a> {
    pub(crate) controlnet: &'a ControlNet,
    pub(crate) controlnet_config: &'a ControlNetConfig,
    pub(crate) unet: Option<(&'a Unet, &'a UnetConfig)>,
}

impl Snapshot<'_> {
    /// Writes `checkpoint-N` into the output folder, then deletes the oldest beyond `total_limit`.
    ///
    /// # Errors
    /// [`TrainError::NotSaved`]; earlier checkpoints are as they were.
    pub(crate) fn save(
        &self,
        disk: &dyn Disk,
        output_dir: &Path,
        total_limit: Option<NonZeroUsize>,
    ) -> Result<PathBuf, TrainError> {
        let optimizer = self.optimizer.state(self.trainee);
        let n_averaged = self.ema.map_or(0, |ema| ema.average().num_params());
        let n_weights = (self.trainee.num_params() + n_averaged) as u64;
        let moments: usize = optimizer.values().map(|data| data.as_bytes().len()).sum();
        let needed_bytes = n_weights * 4 + moments as u64 + OTHER_BYTES;
        let name = format!("checkpoint-{}", self.position.optimizer_step);
        warn_if(recover(disk, output_dir));

        let scratch = scratch_dir(output_dir, &name);
        let written = require_space(disk, output_dir, needed_bytes)
            .and_then(|()| self.write(disk, &scratch, &optimizer))
            .and_then(|()| put_in_place(disk, &scratch, output_dir, &name));
        let path = written.map_err(|source| {
            // A full disk has more use for the space than for a part of a checkpoint.
            let _ = recover(disk, output_dir);
            let available_bytes = disk.available_bytes(output_dir);
            let path = output_dir.join(&name);
            TrainError::NotSaved { path, needed_bytes, available_bytes, source: Box::new(source) }
        })?;
        if let Some(limit) = total_limit {
            warn_if(remove_older(disk, output_dir, u64::from(self.position.optimizer_step), limit));
        }
        Ok(path)
    }

    /// Writes, syncs and verifies all files of the checkpoint.
    fn write(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        optimizer: &BTreeMap<String, TensorData>,
    ) -> Result<(), TrainError> {
        let recorder = Recorder::new(disk, dir);
        let controlnet_dir = dir.join(CONTROLNET);
        disk.create_dir(&controlnet_dir).map_err(TrainError::io(&controlnet_dir))?;
        save_controlnet(&self.trainee.controlnet, self.controlnet_config, &controlnet_dir, &recorder)
            .map_err(TrainError::Pipeline)?;
        if let Some(unet) = &self.trainee.unet {
            let unet_dir = dir.join(UNET);
            disk.create_dir(&unet_dir).map_err(TrainError::io(&unet_dir))?;
            save_unet(unet, self.unet_config, &unet_dir, &recorder).map_err(TrainError::Pipeline)?;
        }
        if let Some(ema) = self.ema {
            let ema_dir = dir.join(CONTROLNET_EMA);
            disk.create_dir(&ema_dir).map_err(TrainError::io(&ema_dir))?;
            ema.save(self.controlnet_config, &ema_dir, &recorder)?;
        }
        save_tensors(&dir.join(OPTIMIZER), optimizer, &BTreeMap::new(), &recorder)
            .map_err(TrainError::Weights)?;
        let Self { position, record, plan, .. } = *self;
        let state = State { position, identity: self.identity.clone(), record, plan };
        write_json(&recorder, &dir.join(STATE), &state)?;
        seal(disk, dir, &recorder.manifest())
    }
}

/// Completes a folder: writes its manifest, makes everything durable and reads it back.
fn seal(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<(), TrainError> {
    write_json(disk, &dir.join(MANIFEST), manifest)?;
    disk.sync_dir(dir).map_err(TrainError::io(dir))?;
    let problem = |problem| TrainError::NotACheckpoint { path: dir.to_owned(), problem };
    Manifest::read(dir).and_then(|manifest| manifest.verify(dir)).map_err(problem)
}

/// Writes a run's result and one file about it as a folder that takes the place of an older one at once.
pub(crate) fn save_sealed<T: Serialize>(
    disk: &dyn Disk,
    output_dir: &Path,
    name: &str,
    result: &SavedResult<'_>,
    (file, about): (&str, &T),
) -> Result<PathBuf, TrainError> {
    let scratch = scratch_dir(output_dir, name);
    let SavedResult { controlnet, controlnet_config, unet } = *result;
    let n_weights = controlnet.num_params() + unet.map_or(0, |(unet, _)| unet.num_params());
    let needed_bytes = n_weights as u64 * 4 + OTHER_BYTES;
    let write = || {
        require_space(disk, output_dir, needed_bytes)?;
        let recorder = Recorder::new(disk, &scratch);
        disk.create_dir(&scratch).map_err(TrainError::io(&scratch))?;
        save_controlnet(controlnet, controlnet_config, &scratch, &recorder).map_err(TrainError::Pipeline)?;
        if let Some((unet, unet_config)) = unet {
            let unet_dir = scratch.join(UNET);
            disk.create_dir(&unet_dir).map_err(TrainError::io(&unet_dir))?;
            save_unet(unet, unet_config, &unet_dir, &recorder).map_err(TrainError::Pipeline)?;
        }
        write_json(&recorder, &scratch.join(file), about)?;
        seal(disk, &scratch, &recorder.manifest())?;
        put_in_place(disk, &scratch, output_dir, name)
    };
    write().map_err(|source| {
        let _ = recover(disk, output_dir);
        let (path, available_bytes) = (output_dir.join(name), disk.available_bytes(output_dir));
        TrainError::NotSaved { path, needed_bytes, available_bytes, source: Box::new(source) }
    })
}

/// Refuses at once what a disk has no room for; filling it up would take the room from others.
fn require_space(disk: &dyn Disk, output_dir: &Path, needed_bytes: u64) -> Result<(), TrainError> {
    match disk.available_bytes(output_dir) {
        Some(available) if available < needed_bytes => {
            Err(TrainError::io(output_dir)(io::ErrorKind::StorageFull.into()))
        }
        _ => Ok(()),
    }
}

/// Deletes the oldest checkpoints until `limit` are left, that of `step` among them. Those of later steps are another
/// run's, and stay.
fn remove_older(
    disk: &dyn Disk,
    output_dir: &Path,
    step: u64,
    limit: NonZeroUsize,
) -> Result<(), TrainError> {
    let mut older = folder::numbered(output_dir)?;
    older.retain(|(number, path)| *number < step && path.join(MANIFEST).is_file());
    let n_kept = limit.get() - 1;
    for (_, old) in &older[..older.len().saturating_sub(n_kept)] {
        folder::remove(disk, old)?;
    }
    Ok(())
}

/// What cannot be tidied up is in nobody's way.
fn warn_if(result: Result<(), TrainError>) {
    if let Err(error) = result {
        tracing::warn!("{}", error.with_causes());
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
        let manifest = Manifest::read(path).map_err(problem)?;
        for required in [STATE, OPTIMIZER] {
            if !manifest.files.contains_key(required) {
                return Err(problem(format!("`{required}` is missing from its manifest")));
            }
        }
        manifest.verify(path).map_err(problem)?;
        let State { position, identity, record, plan } = read_json(&path.join(STATE)).map_err(problem)?;
        Ok(Self { path: path.to_owned(), position, identity, record, plan })
    }

    /// The newest verified checkpoint of an output folder; says which it skips.
    ///
    /// # Errors
    /// [`TrainError::NoCheckpoint`] if there is none, or why the newest one cannot be used if none can.
    pub fn latest(output_dir: &Path) -> Result<Self, TrainError> {
        Self::latest_before(output_dir, u64::MAX)
    }

    /// The newest verified checkpoint of an output folder after at most `step` steps.
    ///
    /// # Errors
    /// As [`Checkpoint::latest`].
    pub fn latest_before(output_dir: &Path, step: u64) -> Result<Self, TrainError> {
        let none = || TrainError::NoCheckpoint { output_dir: output_dir.to_owned() };
        if !output_dir.is_dir() {
            return Err(none());
        }
        let mut first_failure = None;
        let candidates = folder::numbered(output_dir)?;
        for (_, path) in candidates.iter().rev().filter(|(number, _)| *number <= step) {
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

    /// The plan of the run that wrote it.
    ///
    /// # Errors
    /// [`TrainError::NotACheckpoint`] if it is no plan of this version.
    pub fn plan(&self) -> Result<TrainPlan, TrainError> {
        serde_json::from_value(self.plan.clone()).map_err(|error| TrainError::NotACheckpoint {
            path: self.path.clone(),
            problem: format!("its plan cannot be used: {error}"),
        })
    }

    /// What a run of this identity would change.
    pub(crate) fn differences(&self, identity: &Identity) -> Vec<Difference> {
        identity.differences(&self.identity)
    }

    /// Loads what is trained, the optimizer and the average of a plan, to continue on an autodiff device.
    pub(crate) fn restore(
        &self,
        plan: &TrainPlan,
        bundle: &Bundle,
        device: &Device,
    ) -> Result<Restored, TrainError> {
        let (controlnet, controlnet_config) =
            load_controlnet(&self.path.join(CONTROLNET), Pickles::Refused, device)
                .map_err(TrainError::Pipeline)?;
        let state = load_tensors(&self.path.join(OPTIMIZER)).map_err(TrainError::Weights)?;
        let steps = self.position.optimizer_step;
        let ema = self.restore_ema(plan, &controlnet, device)?;
        let mut trainee = Trainee::new(controlnet, bundle, plan.model.sd_locked);
        let unet_dir = self.path.join(UNET);
        if let Some(unet) = trainee.unet.as_mut().filter(|_| unet_dir.is_dir()) {
            let (trained, _) = load_unet(&unet_dir, &BundleOptions::default(), &device.clone().inner())
                .map_err(TrainError::Pipeline)?;
            *unet = trained.with_trainable_decoder();
        }
        let optimizer = Optimizer::resumed(plan.optimizer.algorithm, steps, state, &trainee, device)?;
        let (position, record) = (self.position, self.record);
        Ok(Restored { trainee, controlnet_config, optimizer, ema, position, record })
    }

    /// The average, which begins here if the run that wrote the checkpoint kept none.
    fn restore_ema(
        &self,
        plan: &TrainPlan,
        controlnet: &ControlNet,
        device: &Device,
    ) -> Result<Option<Ema<ControlNet>>, TrainError> {
        let dir = self.path.join(CONTROLNET_EMA);
        match (plan.ema.use_ema, dir.is_dir()) {
            (true, true) => Ema::load(plan.ema, &dir, device).map(Some),
            (true, false) => {
                tracing::warn!("{} has no average: it begins here", self.path.display());
                Ok(Some(Ema::new(plan.ema, controlnet)))
            }
            (false, true) => {
                tracing::warn!("without --use_ema the average in {} is not continued", self.path.display());
                Ok(None)
            }
            (false, false) => Ok(None),
        }
    }
}

fn write_json<T: Serialize>(disk: &dyn Disk, path: &Path, value: &T) -> Result<(), TrainError> {
    let text = serde_json::to_string_pretty(value).expect("our own types are plain data with string keys");
    let write = || {
        let mut file = disk.create(path)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync()
    };
    write().map_err(TrainError::io(path))
}

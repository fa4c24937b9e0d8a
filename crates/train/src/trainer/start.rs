//! What a run starts from.

use std::num::NonZeroUsize;

use burn::prelude::*;
use pyrograph_data::Cursor;
use pyrograph_data::random::{self, Purpose};
use pyrograph_pipeline::{Bundle, load_controlnet};
use pyrograph_unet::{ControlNet, ControlNetConfig, HintConfig};

use crate::TrainError;
use crate::checkpoint::{Checkpoint, Due, Position, Record, Restored};
use crate::ema::Ema;
use crate::identity::Identity;
use crate::optim::Optimizer;
use crate::plan::{ControlNetSource, TrainPlan};
use crate::trainee::Trainee;

/// A new ControlNet, or a trained one with a new optimizer.
pub(super) fn fresh_start(
    plan: &TrainPlan,
    bundle: &Bundle,
    device: &Device,
) -> Result<Restored, TrainError> {
    let device = device.clone().autodiff();
    let (controlnet, controlnet_config) = match &plan.model.controlnet {
        ControlNetSource::Folder(path) => {
            load_controlnet(path, plan.model.pickles, &device).map_err(TrainError::Pipeline)?
        }
        ControlNetSource::FromUnet { hint_channels } => {
            let mut config = ControlNetConfig::for_unet(&bundle.unet_config);
            config.hint = hint_config(hint_channels.as_deref(), bundle.vae_config.pixels_per_latent())?;
            let mut rng = random::rng(plan.seed, 0, "", Purpose::Weights);
            (ControlNet::from_unet(&bundle.unet, &config, &mut rng, &device), config)
        }
    };
    let optimizer = Optimizer::new(plan.optimizer.algorithm);
    let ema = plan.ema.use_ema.then(|| Ema::new(plan.ema, &controlnet));
    let due = Due { evaluation: true, validation: true };
    let (position, record) = (Position::default(), Record { due, ..Record::default() });
    let trainee = Trainee::new(controlnet, bundle, plan.model.sd_locked);
    Ok(Restored { trainee, controlnet_config, optimizer, ema, position, record })
}

/// The hint embedding for a VAE of this factor.
pub(crate) fn hint_config(
    channels: Option<&[NonZeroUsize]>,
    scale_factor: usize,
) -> Result<HintConfig, TrainError> {
    let expected = HintConfig::with_scale_factor(scale_factor);
    let Some(channels) = channels else { return Ok(expected) };
    if channels.len() != expected.channels.len() {
        let (expected, found) = (expected.channels.len(), channels.len());
        return Err(TrainError::HintLevels { scale_factor, expected, found });
    }
    Ok(HintConfig { channels: channels.iter().map(|count| count.get()).collect(), ..expected })
}

/// Refuses a checkpoint of another run, unless that is what is wanted.
pub(super) fn require_same_run(
    plan: &TrainPlan,
    checkpoint: &Checkpoint,
    identity: &Identity,
) -> Result<(), TrainError> {
    let differences = checkpoint.differences(identity);
    if differences.is_empty() {
        return Ok(());
    }
    let mismatch = TrainError::ResumeMismatch { path: checkpoint.path().to_owned(), differences };
    if plan.checkpoint.force_resume {
        tracing::warn!("{mismatch}; continuing all the same");
        return Ok(());
    }
    Err(mismatch)
}

/// Where a run of this identity continues. Among other batches a place within an epoch means nothing: the next one
/// begins.
pub(super) fn continued(checkpoint: &Checkpoint, identity: &Identity) -> Position {
    const OF_THE_ORDER: [&str; 4] = ["seed", "train_batch_size", "number of samples", "aspect buckets"];
    let mut position = checkpoint.position();
    let differences = checkpoint.differences(identity);
    let is_other = differences.iter().any(|difference| OF_THE_ORDER.contains(&difference.key.as_str()));
    if is_other && position.cursor.batch > 0 {
        position.cursor = Cursor { epoch: position.cursor.epoch + 1, batch: 0 };
    }
    position
}

//! `pyrograph data build`.

use std::cell::RefCell;

use indicatif::HumanBytes;
use pyrograph_data::{BuildOptions, Built, Dataset, Quarantine, build as pack};

use super::folder_of;
use crate::args::{BuildArgs, HubArgs, OutputArgs};
use crate::hub::Folders;
use crate::progress;

pub(super) fn build(args: &BuildArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let hub = HubArgs { token: args.token.clone(), ..HubArgs::default() };
    let dir = &folder_of(&args.rows, &Folders::without_pickles(&hub, output))?;
    let in_folder = || Some(dir.join(Quarantine::FILE_NAME)).filter(|path| path.is_file());
    let left_out = args.quarantine.clone().or_else(in_folder);
    let list = left_out.as_deref().map(Quarantine::read).transpose()?.unwrap_or_default();
    if let Some(path) = left_out {
        tracing::info!("{} rows are left out: {}", list.len(), path.display());
    }
    let dataset = Dataset::open_without(dir, &args.rows.source(), &list)?;
    let samples = dataset.samples();
    let bar = RefCell::new(progress::pictures(output));
    let options = BuildOptions {
        format: args.format.into(),
        split: &args.rows.dataset_split,
        shard_bytes: args.shard_size.0,
        has_hints: !args.rows.without_hints,
        on_progress: &|n_packed| (bar.borrow_mut())(n_packed, samples.len()),
    };
    let Built { n_shards, n_bytes } = pack(samples, &options, &args.out)?;
    let (size, out) = (HumanBytes(n_bytes), args.out.display());
    tracing::info!("{out} has all {} samples; files: {n_shards}, {size}", samples.len());
    Ok(())
}

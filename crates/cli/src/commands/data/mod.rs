//! `pyrograph data`.

mod build;
mod check;
mod hint;
mod ruler;
mod stats;

use std::path::PathBuf;

use pyrograph_data::{Circles, generate_circles};

use crate::args::{CirclesArgs, DataArgs, DataCommand, OutputArgs, RowArgs};
use crate::hub::Folders;

pub(crate) fn data(args: &DataArgs, output: &OutputArgs) -> anyhow::Result<()> {
    match &args.command {
        DataCommand::Circles(args) => circles(args),
        DataCommand::Hint(args) => hint::hint(args),
        DataCommand::Check(args) => check::check(args, output),
        DataCommand::Stats(args) => stats::stats(args, output),
        DataCommand::Build(args) => build::build(args, output),
    }
}

fn circles(args: &CirclesArgs) -> anyhow::Result<()> {
    let (count, side, palette) = (args.count, args.size, args.palette.into());
    generate_circles(&Circles { count, side, palette, seed: args.seed }, &args.out)?;
    tracing::info!("{} samples are in {}", args.count, args.out.display());
    Ok(())
}

/// The folder or file of a data set that may be named as on the Hub.
fn folder_of(rows: &RowArgs, folders: &Folders<'_>) -> anyhow::Result<PathBuf> {
    folders.dataset(&rows.dir, rows.dataset_config_name.as_deref(), &rows.dataset_split)
}

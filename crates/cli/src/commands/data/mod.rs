//! `pyrograph data`.

mod build;
mod check;
mod hint;
mod ruler;
mod stats;

use pyrograph_data::{Circles, generate_circles};

use crate::args::{CirclesArgs, DataArgs, DataCommand, OutputArgs};

pub(crate) fn data(args: &DataArgs, output: &OutputArgs) -> anyhow::Result<()> {
    match &args.command {
        DataCommand::Circles(args) => circles(args),
        DataCommand::Hint(args) => hint::hint(args),
        DataCommand::Check(args) => check::check(args, output),
        DataCommand::Stats(args) => stats::stats(args),
        DataCommand::Build(args) => build::build(args, output),
    }
}

fn circles(args: &CirclesArgs) -> anyhow::Result<()> {
    let (count, side, palette) = (args.count, args.size, args.palette.into());
    generate_circles(&Circles { count, side, palette, seed: args.seed }, &args.out)?;
    tracing::info!("{} samples are in {}", args.count, args.out.display());
    Ok(())
}

//! `pyrograph data`.

mod hint;

use pyrograph_data::{Circles, generate_circles};

use crate::args::{CirclesArgs, DataArgs, DataCommand};

pub(crate) fn data(args: &DataArgs) -> anyhow::Result<()> {
    match &args.command {
        DataCommand::Circles(args) => circles(args),
        DataCommand::Hint(args) => hint::hint(args),
    }
}

fn circles(args: &CirclesArgs) -> anyhow::Result<()> {
    let (count, side, palette) = (args.count, args.size, args.palette.into());
    generate_circles(&Circles { count, side, palette, seed: args.seed }, &args.out)?;
    tracing::info!("{} samples are in {}", args.count, args.out.display());
    Ok(())
}

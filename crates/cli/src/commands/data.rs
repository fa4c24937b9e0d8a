//! `pyrograph data`.

use pyrograph_data::{Circles, generate_circles};

use crate::args::{DataArgs, DataCommand};

pub(crate) fn data(args: &DataArgs) -> anyhow::Result<()> {
    match &args.command {
        DataCommand::Circles(args) => {
            let (count, side, palette) = (args.count, args.size, args.palette.into());
            generate_circles(&Circles { count, side, palette, seed: args.seed }, &args.out)?;
            tracing::info!("{} samples are in {}", args.count, args.out.display());
        }
    }
    Ok(())
}

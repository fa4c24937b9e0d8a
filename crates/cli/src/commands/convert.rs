//! `pyrograph convert`.

use pyrograph_pipeline::{ConvertOptions, Naming, convert as write};
use pyrograph_weights::{SaveDtype, SystemDisk};

use crate::args::{ConvertArgs, FileType, Names, OutputArgs, UsageError};
use crate::backend;
use crate::hub::Folders;

pub(crate) fn convert(args: &ConvertArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let is_empty_dir = || std::fs::read_dir(&args.output).is_ok_and(|mut entries| entries.next().is_none());
    if args.output.exists() && !args.force && !is_empty_dir() {
        return Err(UsageError::OutputExists { path: args.output.clone() }.into());
    }
    let options = ConvertOptions {
        naming: args.to.map(|names| match names {
            Names::Diffusers => Naming::Diffusers,
            Names::Original => Naming::Original,
        }),
        dtype: args.dtype.map(|dtype| match dtype {
            FileType::F32 => SaveDtype::F32,
            FileType::F16 => SaveDtype::F16,
            FileType::Bf16 => SaveDtype::Bf16,
        }),
        title: args.title.as_deref(),
        variant: args.variant.as_deref(),
        pickles: args.pickles.policy(),
    };
    let input = Folders::new(&args.hub, options.pickles, output).model(&args.input, options.variant)?;
    write(&input, &args.output, &options, &backend::open()?, &SystemDisk)?;
    tracing::info!("`{}` is written, read back and compared", args.output.display());
    Ok(())
}

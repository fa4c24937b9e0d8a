//! `pyrograph data hint`.

use pyrograph_data::{HintFolder, make_hint_file, make_hint_folder};

use crate::args::HintArgs;

/// Hints that could not be made are told one by one.
#[derive(Debug, thiserror::Error)]
#[error("{n_failed} of {n_pictures} hints could not be made")]
struct HintsFailed {
    n_failed: usize,
    n_pictures: usize,
}

pub(super) fn hint(args: &HintArgs) -> anyhow::Result<()> {
    let output = args.output.display();
    if !args.input.is_dir() {
        make_hint_file(args.hint, args.seed, &args.input, &args.output)?;
        tracing::info!("the hint is in {output}");
        return Ok(());
    }
    let HintFolder { n_made, n_there, failures } =
        make_hint_folder(args.hint, args.seed, &args.input, &args.output)?;
    for failure in &failures {
        let causes = anyhow::Chain::new(failure).map(ToString::to_string).collect::<Vec<_>>();
        tracing::error!("{}", causes.join(": "));
    }
    tracing::info!("{n_made} hints are in {output}");
    if n_there > 0 {
        tracing::info!("{n_there} were there already and are left as they are");
    }
    let n_failed = failures.len();
    if n_failed > 0 {
        return Err(HintsFailed { n_failed, n_pictures: n_made + n_there + n_failed }.into());
    }
    Ok(())
}

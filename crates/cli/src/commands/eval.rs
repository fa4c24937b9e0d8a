//! `pyrograph eval`.

use std::io::Write;
use std::ops::ControlFlow;

use pyrograph_data::{Columns, Dataset, Side, save_png};
use pyrograph_pipeline::{Bundle, BundleOptions, load_controlnet};
use pyrograph_train::{Fidelity, FidelityOptions, FidelityScores, TrainError, measure_fidelity};

use super::generate::check_folder;
use super::trained_side;
use crate::args::{EvalArgs, LogFormat, OutputArgs};
use crate::hub::{CONTROLNET, Folders};
use crate::{backend, progress};

/// What is read of a data set.
const SPLIT: &str = "train";

pub(crate) fn eval(args: &EvalArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let device = backend::open()?;
    // The small things first: a mistake in them is found before gigabytes are read.
    if let Some(grid) = &args.grid {
        check_folder(grid)?;
    }
    let side = args.resolution.map(Side::try_from).transpose()?;
    let columns = Columns::default();
    let columns = if args.hint.is_some() { Columns { hint: None, ..columns } } else { columns };
    let pickles = args.pickles.policy();
    let folders = Folders::new(&args.hub, pickles, output);
    let dataset = Dataset::open(&folders.dataset(&args.data, None, SPLIT)?, &columns)?;
    let controlnet = folders.part(&args.controlnet, CONTROLNET, None)?;
    let unet = args.unet.as_ref().map(|path| folders.part(path, "unet", None)).transpose()?;
    let without: &[&str] = if unet.is_some() { &["unet"] } else { &[] };
    let base = folders.base(&args.base, None, without)?;
    let (controlnet, controlnet_config) = load_controlnet(&controlnet, pickles, &device)?;
    let options = BundleOptions { unet: unet.as_deref(), pickles, ..BundleOptions::default() };
    let bundle = Bundle::open(&base, &options, &device)?;
    bundle.check_controlnet(&controlnet_config)?;
    let options = FidelityOptions {
        kind: args.kind,
        n_samples: args.num_samples,
        batch_size: args.batch_size,
        n_steps: args.num_inference_steps,
        guidance_scale: args.guidance_scale,
        conditioning_scale: if args.without_control { 0.0 } else { 1.0 },
        sampler: args.scheduler,
        seed: args.seed,
        side: side.map_or_else(|| trained_side(&bundle), Ok)?,
        hint: args.hint,
    };
    let mut bar = progress::pictures(output);
    let mut on_progress = |n_drawn, n_pictures| {
        bar(n_drawn, n_pictures);
        ControlFlow::Continue(())
    };
    let fidelity = measure_fidelity(&bundle, &controlnet, &dataset, &options, &device, &mut on_progress)?;

    if let Some(path) = &args.grid {
        save_png(&fidelity.grid, path)?;
        tracing::info!("hints, targets and pictures are in {}", path.display());
    }
    let text = if args.json || output.log_format == LogFormat::Json {
        serde_json::to_string(&fidelity)? + "\n"
    } else {
        table(&fidelity)
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(TrainError::io("standard output".as_ref()))?;
    Ok(())
}

fn table(fidelity: &Fidelity) -> String {
    let mut rows = vec![("pictures", fidelity.n_samples.to_string())];
    match fidelity.scores {
        FidelityScores::Outline { mean_iou, figure_color_error, ground_color_error, color_accuracy } => rows
            .extend([
                ("intersection over union", format!("{mean_iou:.3}")),
                ("figure's colour error", format!("{figure_color_error:.1} of 441")),
                ("ground's colour error", format!("{ground_color_error:.1} of 441")),
                ("both colours right", format!("{:.1} %", 100.0 * color_accuracy)),
            ]),
        FidelityScores::Canny { precision, recall, f1 } => rows.extend([
            ("edges' precision", format!("{precision:.3}")),
            ("edges' recall", format!("{recall:.3}")),
            ("edges' F1", format!("{f1:.3}")),
        ]),
    }
    rows.into_iter().map(|(name, value)| format!("{name:<24} {value}\n")).collect()
}

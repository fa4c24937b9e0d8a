//! `pyrograph replay`.

use std::io::Write;
use std::path::Path;

use pyrograph_train::{Replay, TrainError, Trainer};

use crate::args::{LogFormat, OutputArgs, ReplayArgs};
use crate::backend;

pub(crate) fn replay(args: &ReplayArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let step = args.step.get();
    let plan = Replay::plan(&args.dir, step, args.checkpoint.as_deref())?;
    let replay = Trainer::new(plan, &backend::open()?)?.replay(step, args.output.as_deref())?;
    let text = match output.log_format {
        LogFormat::Json => serde_json::to_string(&replay)? + "\n",
        LogFormat::Text => table(&replay),
    };
    let stdout = Path::new("standard output");
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(TrainError::io(stdout))?;
    Ok(())
}

fn table(Replay { step, checkpoint, lr, attempts }: &Replay) -> String {
    let mut text = format!("step {step} from {}, learning rate {lr:.2e}\n", checkpoint.display());
    for attempt in attempts {
        let fate = if attempt.grad_norm.is_finite() { "" } else { ", so it is skipped" };
        text += &format!("gradient norm {:.6}{fate}\n", attempt.grad_norm);
        for batch in &attempt.micro_batches {
            text += &format!("  micro-batch {}: loss {:.6}\n", batch.micro_step, batch.loss);
            for sample in &batch.samples {
                text +=
                    &format!("    {} at timestep {}: loss {:.6}\n", sample.id, sample.timestep, sample.loss);
            }
        }
    }
    text
}

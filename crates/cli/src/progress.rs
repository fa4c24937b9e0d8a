//! A training run as the user sees it: a bar on a terminal, plain lines elsewhere, JSON lines for machines.

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::Path;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use pyrograph_hub::Notice;
use pyrograph_train::{Banner, Evaluation, Event, Observer, Progress, Skipped, TrainError};

use crate::args::{LogFormat, OutputArgs};

/// The observer for what was asked for and for where standard error goes.
pub(crate) fn observer(output: &OutputArgs) -> Box<dyn Observer> {
    match output.log_format {
        LogFormat::Json => Box::new(JsonLines),
        LogFormat::Text if output.quiet => Box::new(()),
        LogFormat::Text if std::io::stderr().is_terminal() => Box::new(Bar { bar: None }),
        LogFormat::Text => Box::new(PlainLines),
    }
}

/// Tells how many pictures are drawn, and of how many: a bar on a terminal, nothing elsewhere.
pub(crate) fn pictures(output: &OutputArgs) -> impl FnMut(usize, usize) + use<> {
    let is_shown = !output.quiet && std::io::stderr().is_terminal();
    let bar = if is_shown { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template(PICTURES_BAR).expect("the template is valid");
    let bar = bar.with_style(style);
    move |n_drawn, n_pictures| {
        bar.set_length(n_pictures as u64);
        bar.set_position(n_drawn as u64);
        if n_drawn == n_pictures {
            bar.finish_and_clear();
        }
    }
}

/// Tells how far a batch of pictures is, by its numbers of all pictures and by the calls of the UNet made and to be made: a bar on a
/// terminal, nothing elsewhere.
pub(crate) fn steps(
    output: &OutputArgs,
    n_pictures: usize,
) -> impl FnMut(&Range<usize>, usize, usize) + use<> {
    let is_shown = !output.quiet && std::io::stderr().is_terminal();
    let bar = if is_shown { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let bar = bar.with_style(ProgressStyle::with_template(STEPS_BAR).expect("the template is valid"));
    move |batch, n_done, n_calls| {
        bar.set_message(match (n_pictures, batch.len()) {
            (1, _) => String::new(),
            (_, 1) => format!("picture {}/{n_pictures} ", batch.end),
            _ => format!("pictures {}-{}/{n_pictures} ", batch.start + 1, batch.end),
        });
        bar.set_length(n_calls as u64);
        bar.set_position(n_done as u64);
        if n_done == n_calls {
            bar.reset();
            if batch.end == n_pictures {
                bar.finish_and_clear();
            }
        }
    }
}

/// Tells what goes to or comes from the Hub: a bar on a terminal, a line for each transfer elsewhere.
pub(crate) fn transfers(output: &OutputArgs) -> impl FnMut(Notice<'_>) + use<> {
    let is_shown = !output.quiet && std::io::stderr().is_terminal();
    let bar = if is_shown { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let bar = bar.with_style(ProgressStyle::with_template(TRANSFER_BAR).expect("the template is valid"));
    move |notice| match notice {
        Notice::Begins { name, n_files, n_bytes } => {
            let files = if n_files == 1 { "file" } else { "files" };
            tracing::info!("{n_files} {files} of {name} to transfer: {}", HumanBytes(n_bytes));
            bar.set_length(n_bytes);
            bar.reset();
        }
        Notice::Bytes { file, n_done } => {
            bar.set_message(file.to_owned());
            bar.set_position(n_done);
        }
        Notice::Ends => bar.finish_and_clear(),
        Notice::Waits { why, wait } => tracing::warn!("{why}; next attempt in {wait:.1?}"),
        Notice::FromCache { name, why } => {
            tracing::warn!("{why}; {name} is taken from the cache as it is there");
        }
        Notice::Damaged { file } => tracing::warn!("{file} in the cache is damaged and downloaded again"),
        _ => {}
    }
}

/// Every event as one JSON object per line on standard output.
struct JsonLines;

impl Observer for JsonLines {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        let write = || {
            let mut stdout = std::io::stdout().lock();
            serde_json::to_writer(&mut stdout, event)?;
            writeln!(stdout)?;
            stdout.flush()
        };
        write().map_err(TrainError::io(Path::new("standard output")))
    }
}

/// Every event as a line or a few on standard error.
struct PlainLines;

impl Observer for PlainLines {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        let text = match event {
            Event::Progress(progress) => {
                format!("step {}/{} {}", progress.step, progress.total_steps, figures(progress))
            }
            other => announcement(other),
        };
        // Training goes on when nobody listens any more.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
        Ok(())
    }
}

/// A bar of optimizer steps with everything else above it.
struct Bar {
    /// Drawn from the first event on, which says how long it is.
    bar: Option<ProgressBar>,
}

const BAR: &str = "{wide_bar} {pos}/{len} {msg} ETA {eta}";
const TRANSFER_BAR: &str = "{wide_bar} {bytes}/{total_bytes} {msg} {bytes_per_sec} ETA {eta}";
const STEPS_BAR: &str = "{wide_bar} {msg}step {pos}/{len} ETA {eta}";
const PICTURES_BAR: &str = "{wide_bar} {pos}/{len} pictures ETA {eta}";

impl Observer for Bar {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        if let Event::Started(banner) = event {
            let style = ProgressStyle::with_template(BAR).expect("the template is valid");
            let bar = ProgressBar::new(banner.total_steps).with_style(style);
            bar.println(announcement(event));
            bar.set_position(banner.resumed_at);
            bar.reset_eta();
            self.bar = Some(bar);
        } else if let Some(bar) = &self.bar {
            match event {
                Event::Progress(progress) => {
                    bar.set_message(figures(progress));
                    bar.set_position(progress.step);
                }
                Event::Finished { .. } => {
                    bar.println(announcement(event));
                    bar.finish();
                    // The bar leaves the cursor behind it.
                    let _ = writeln!(std::io::stderr().lock());
                }
                other => bar.println(announcement(other)),
            }
        }
        Ok(())
    }
}

fn figures(progress: &Progress) -> String {
    let Progress { loss, lr, images_per_second, .. } = progress;
    format!("loss {loss:.4} lr {lr:.2e} {images_per_second:.2} images/s")
}

/// What is said of an event that is no step.
fn announcement(event: &Event) -> String {
    match event {
        Event::Started(banner) => started(banner),
        Event::Progress(progress) => figures(progress),
        Event::Skipped(skipped) => skipped_step(skipped),
        Event::Checkpoint { step, path } => format!("checkpoint of step {step}: {}", path.display()),
        Event::Evaluation(evaluation) => evaluated(evaluation),
        Event::TookHold { step } => format!("the hint took hold at step {step}"),
        Event::Best { step, path, .. } => format!("best so far at step {step}: {}", path.display()),
        Event::Warning { step, message } => format!("warning at step {step}: {message}"),
        Event::Validation { step, grid, .. } => format!("validation of step {step}: {}", grid.display()),
        Event::Stopped { step, path } => format!("stopped at step {step}: {}", path.display()),
        Event::Finished { step, path } => format!("trained {step} steps: {}", path.display()),
    }
}

fn skipped_step(skipped: &Skipped) -> String {
    let Skipped { step, found, samples, n_in_a_row, n_skipped } = skipped;
    let samples: Vec<String> =
        samples.iter().map(|sample| format!("{} at timestep {}", sample.id, sample.timestep)).collect();
    format!(
        "warning: the step after step {step} is skipped, a {found} is not finite ({n_in_a_row} in a row, {n_skipped} in \
         all): {}",
        samples.join(", ")
    )
}

fn evaluated(evaluation: &Evaluation) -> String {
    let Evaluation { step, n_samples, is_held_out, loss, control_gap, control_gap_error, .. } = evaluation;
    let kind = if *is_held_out { "held-out" } else { "training" };
    format!(
        "evaluation of step {step}: loss {loss:.4}, control gap {control_gap:.1e} (standard error \
         {control_gap_error:.1e}) on {n_samples} {kind} samples"
    )
}

/// The reference's banner, with what it lacks at the end.
///
/// Source: diffusers 0.42.1, `examples/controlnet/train_controlnet.py`.
fn started(banner: &Banner) -> String {
    let Banner { n_examples, batches_per_epoch, n_epochs, batch_size, accumulation, .. } = banner;
    let Banner { total_steps, resumed_at, n_parameters, cache, .. } = banner;
    let total_batch = batch_size * accumulation;
    let mut text = format!(
        "***** Running training *****\n\
         \x20 Num examples = {n_examples}\n\
         \x20 Num batches each epoch = {batches_per_epoch}\n\
         \x20 Num Epochs = {n_epochs}\n\
         \x20 Instantaneous batch size per device = {batch_size}\n\
         \x20 Total train batch size (w. parallel, distributed & accumulation) = {total_batch}\n\
         \x20 Gradient Accumulation steps = {accumulation}\n\
         \x20 Total optimization steps = {total_steps}\n\
         \x20 Trainable parameters = {n_parameters}\n\
         \x20 Cache of latents and prompt embeddings = {cache}"
    );
    if *resumed_at > 0 {
        text += &format!("\n  Resumed at step = {resumed_at}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(resumed_at: u64) -> Event {
        Event::Started(Banner {
            n_examples: 10,
            batches_per_epoch: 4,
            n_epochs: 3,
            batch_size: 3,
            accumulation: 2,
            total_steps: 6,
            resumed_at,
            n_parameters: 99,
            cache: "memory".to_owned(),
        })
    }

    #[test]
    fn the_banner_counts_accumulated_samples_and_says_where_a_run_resumes() {
        let fresh = announcement(&banner(0));
        assert!(fresh.contains("accumulation) = 6\n"), "{fresh}");
        assert!(!fresh.contains("Resumed"), "{fresh}");
        assert!(announcement(&banner(5)).ends_with("\n  Resumed at step = 5"));
    }

    #[test]
    fn an_evaluation_shows_the_gap_beside_the_loss_and_whose_samples_they_are() {
        let mut evaluation = Evaluation {
            step: 50,
            n_samples: 16,
            is_held_out: true,
            loss: 0.0912,
            bins: Vec::new(),
            shuffled_loss: 0.1034,
            control_gap: 0.0122,
            control_gap_error: 0.0011,
            zero_convs: Vec::new(),
        };
        let told = "evaluation of step 50: loss 0.0912, control gap 1.2e-2 (standard error 1.1e-3) on 16";
        assert_eq!(evaluated(&evaluation), format!("{told} held-out samples"));
        evaluation.is_held_out = false;
        assert_eq!(evaluated(&evaluation), format!("{told} training samples"));
    }

    #[test]
    fn the_bar_has_a_valid_template() {
        let mut bar = Bar { bar: None };
        bar.observe(&banner(2)).unwrap();
        assert_eq!(bar.bar.unwrap().position(), 2);
    }
}

//! `pyrograph bench`.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;

use burn::tensor::Device;
use pyrograph_data::{Circles, Palette, Side, generate_circles};
use pyrograph_pipeline::{BasePreset, Bundle, BundleOptions, PipelineError, init_base};
use pyrograph_report::{BatchPoint, RunFacts, Section, write_bench};
use pyrograph_train::{
    Budget, BudgetPhase, Choice, DataSection, EvaluationSection, Measurement, ModelSection, PhaseSeconds,
    RunSection, RunSize, TrainConfig, TrainError, TrainPlan, Trainer, ValidationSection,
};
use serde_json::json;

use super::trained_side;
use crate::args::{BenchArgs, BenchModel, OutputArgs};
use crate::backend;
use crate::hub::Folders;

pub(crate) fn bench(args: &BenchArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let preset = match &args.preset {
        BenchModel::Path(path) => {
            BenchModel::Path(Folders::without_pickles(&args.hub, output).base(path, None, &[])?)
        }
        random => random.clone(),
    };
    let mut batch_sizes = args.batch_size.clone();
    // What one has held stays with the process, so a smaller one after it would seem to need as much.
    batch_sizes.sort();
    let mut points = Vec::new();
    for batch_size in batch_sizes {
        let measured = measure(args, &preset, batch_size)?;
        let text = if args.json { measured.json(args) + "\n" } else { measured.table() };
        std::io::stdout().write_all(text.as_bytes()).map_err(TrainError::io("standard output".as_ref()))?;
        points.push(measured.point());
    }
    if let Some(path) = &args.html {
        let title = format!("Training {}", args.preset);
        let rows = vec![
            ("backend".to_owned(), backend::NAME.to_owned()),
            ("Pyrograph".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let sections = vec![Section { title: "Measured".to_owned(), rows }];
        write_bench(path, &RunFacts { title, sections, config_toml: String::new() }, &points)?;
    }
    Ok(())
}

/// What was measured of one batch size.
struct Measured {
    side: Side,
    batch_size: NonZeroUsize,
    /// What the device calls itself.
    device: Option<String>,
    measurement: Measurement,
    /// What the memory plan said.
    predicted_bytes: u64,
}

fn measure(args: &BenchArgs, preset: &BenchModel, batch_size: NonZeroUsize) -> anyhow::Result<Measured> {
    let device = backend::open()?;
    let scratch = tempfile::tempdir()?;
    let bundle = base_model(preset, scratch.path(), &device)?;
    let side = args.resolution.map_or_else(|| trained_side(&bundle), Ok)?;
    let plan = plan(args, batch_size, side, scratch.path())?;
    backend::require(&device, &plan)?;
    // An epoch of one step: a shorter one would end the step early.
    let count = batch_size.saturating_mul(plan.optimizer.accumulation_steps);
    let circles = Circles { count, side, palette: Palette::Distinct, seed: plan.seed };
    generate_circles(&circles, &plan.data.dir)?;

    let run = RunSize::of(bundle.configs(), &plan.open_data()?, &plan, &device)?;
    // Nothing is saved here.
    let is_run = |phase| phase != BudgetPhase::Saving;
    let predicted_bytes = Budget::new(&run, &plan, backend::DEVICE_MEMORY).peak_of(is_run);
    let mut trainer = Trainer::with_bundle(plan, |_, _| Ok(bundle), &device)?;
    let measurement = trainer.bench(args.steps.get())?;
    Ok(Measured { side, batch_size, device: backend::device_name(&device), measurement, predicted_bytes })
}

fn base_model(model: &BenchModel, scratch: &Path, device: &Device) -> Result<Bundle, PipelineError> {
    match model {
        BenchModel::Tiny => {
            let folder = scratch.join("base");
            init_base(BasePreset::Tiny, &folder, device)?;
            Bundle::open(&folder, &BundleOptions::default(), device)
        }
        BenchModel::Sd15 => Bundle::random_sd15(scratch, device),
        BenchModel::Sdxl => Bundle::random_sdxl(scratch, device),
        BenchModel::Path(path) => Bundle::open(path, &BundleOptions::default(), device),
    }
}

/// The defaults of `train`, without evaluation and validation.
fn plan(args: &BenchArgs, batch_size: NonZeroUsize, side: Side, scratch: &Path) -> anyhow::Result<TrainPlan> {
    Ok(TrainPlan::try_from(TrainConfig {
        model: ModelSection {
            pretrained_model_name_or_path: Some(scratch.join("base")),
            ..ModelSection::default()
        },
        data: DataSection {
            train_data_dir: Some(scratch.join("circles")),
            resolution: side.get(),
            train_batch_size: batch_size,
            ..DataSection::default()
        },
        validation: ValidationSection { num_validation_samples: 0, ..ValidationSection::default() },
        evaluation: EvaluationSection { num_eval_samples: 0, ..EvaluationSection::default() },
        run: RunSection { output_dir: scratch.join("out"), ..RunSection::default() },
        ..args.config()
    })?)
}

/// The medians over the steps.
fn medians(steps: &[PhaseSeconds]) -> PhaseSeconds {
    let median_of = |part: fn(&PhaseSeconds) -> f64| median(steps.iter().map(part).collect());
    PhaseSeconds {
        data: median_of(|step| step.data),
        encode: median_of(|step| step.encode),
        unet: median_of(|step| step.unet),
        controlnet: median_of(|step| step.controlnet),
        backward: median_of(|step| step.backward),
        optimizer: median_of(|step| step.optimizer),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { 0.5 * (values[middle - 1] + values[middle]) } else { values[middle] }
}

struct Rates {
    step_seconds: f64,
    images_per_second: f64,
    flops_per_second: f64,
    /// The better of the two products: what the device can do when nothing else runs.
    matmul_flops_per_second: f64,
}

impl Rates {
    fn new(measurement: &Measurement) -> Self {
        let step_seconds = median(measurement.steps.iter().map(PhaseSeconds::total).collect());
        let [before, after] = measurement.matmul_flops_per_second;
        Self {
            step_seconds,
            images_per_second: measurement.images_per_step as f64 / step_seconds,
            flops_per_second: measurement.flops_per_step as f64 / step_seconds,
            matmul_flops_per_second: before.max(after),
        }
    }

    fn fraction_of_matmul(&self) -> f64 {
        self.flops_per_second / self.matmul_flops_per_second
    }
}

impl Measured {
    fn json(&self, args: &BenchArgs) -> String {
        let Self { side, batch_size, device, measurement, predicted_bytes } = self;
        let rates = Rates::new(measurement);
        let TrainConfig { optimizer, precision, memory, .. } = args.config();
        json!({
            "preset": args.preset.to_string(),
            "backend": backend::NAME,
            "device": device,
            "resolution": side.get(),
            "batch_size": batch_size,
            "mixed_precision": precision.mixed_precision.name(),
            "gradient_checkpointing": memory.gradient_checkpointing,
            "gradient_accumulation_steps": optimizer.gradient_accumulation_steps,
            "optimizer": optimizer.optimizer.name(),
            "step_seconds": rates.step_seconds,
            "images_per_second": rates.images_per_second,
            "peak_bytes": measurement.peak_bytes,
            "predicted_bytes": predicted_bytes,
            "resident_growth": measurement.resident_growth,
            "device_bytes": measurement.device_bytes,
            "flops": measurement.flops_per_step,
            "fraction_of_matmul": rates.fraction_of_matmul(),
            "matmul_flops_per_second": rates.matmul_flops_per_second,
            "phases": medians(&measurement.steps),
            "first_step": measurement.first_step,
            "steps": measurement.steps.iter().map(PhaseSeconds::total).collect::<Vec<_>>(),
        })
        .to_string()
    }

    fn table(&self) -> String {
        let measurement = &self.measurement;
        let rates = Rates::new(measurement);
        let phases = medians(&measurement.steps);
        let seconds = |seconds: f64| format!("{seconds:.4} s");
        let gigabytes = |bytes: Option<u64>| {
            bytes.map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.2} GB", bytes as f64 / 1e9))
        };
        let rows = [
            ("batch", self.batch_size.to_string()),
            ("step (median)", seconds(rates.step_seconds)),
            ("  data", seconds(phases.data)),
            ("  encode", seconds(phases.encode)),
            ("  unet", seconds(phases.unet)),
            ("  controlnet", seconds(phases.controlnet)),
            ("  backward", seconds(phases.backward)),
            ("  optimizer", seconds(phases.optimizer)),
            ("first step", seconds(measurement.first_step.total())),
            ("images per second", format!("{:.3}", rates.images_per_second)),
            ("peak memory, host", gigabytes(measurement.peak_bytes)),
            ("memory, device", gigabytes(measurement.device_bytes)),
            ("operations per step", format!("{:.4} TFLOP", measurement.flops_per_step as f64 / 1e12)),
            ("operations per second", format!("{:.4} TFLOP", rates.flops_per_second / 1e12)),
            ("of a matrix product's", format!("{:.1} %", 100.0 * rates.fraction_of_matmul())),
        ];
        rows.into_iter().map(|(name, value)| format!("{name:<24} {value}\n")).collect()
    }

    fn point(&self) -> BatchPoint {
        let rates = Rates::new(&self.measurement);
        BatchPoint {
            images_per_step: self.measurement.images_per_step as u64,
            images_per_second: rates.images_per_second,
            fraction_of_matmul: rates.fraction_of_matmul(),
            peak_bytes: self.measurement.peak_bytes,
            device_bytes: self.measurement.device_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert!((median(vec![4.0, 1.0, 3.0]) - 3.0).abs() < 1e-12);
        assert!((median(vec![4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-12);
    }
}

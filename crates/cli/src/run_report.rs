//! What a run shows to those who were not there: `report.html`, and TensorBoard's event files.

use std::fs::File;
use std::path::Path;

use burn::tensor::Device;
use pyrograph_data::{Data, Sample};
use pyrograph_report::{Record, RunFacts, Section, TensorBoard, write_report};
use pyrograph_train::{Event, Observer, ReportTo, TrainConfig, TrainError, TrainPlan, Trainer};
use sysinfo::System;

use crate::backend;

/// Larger files are named by their size: reading gigabytes before the first step would be felt.
const MAX_HASHED_BYTES: u64 = 1 << 30;

/// Passes a run's events on, and keeps the report up to date.
///
/// What cannot be written is told once; a run does not end for its report.
pub(crate) struct Reporter<'a> {
    inner: &'a mut dyn Observer,
    plan: TrainPlan,
    facts: RunFacts,
    tensorboard: Option<TensorBoard>,
    has_warned: bool,
}

impl<'a> Reporter<'a> {
    /// A reporter of the run that `trainer` will make.
    pub(crate) fn new(
        trainer: &Trainer,
        title: String,
        device: &Device,
        inner: &'a mut dyn Observer,
    ) -> anyhow::Result<Self> {
        let plan = trainer.plan().clone();
        let facts = RunFacts {
            title,
            sections: vec![data(trainer.data(), &plan), model(trainer, &plan), machine(device), versions()],
            config_toml: TrainConfig::from(plan.clone()).to_toml()?,
        };
        Ok(Self { inner, plan, facts, tensorboard: None, has_warned: false })
    }

    /// The tables of the report.
    pub(crate) fn sections(&self) -> &[Section] {
        &self.facts.sections
    }

    fn report(&mut self, event: &Event) {
        let is_news = match event {
            Event::Started(banner) => {
                let logs = self.plan.report.event_dir(&self.plan.output_dir);
                self.tensorboard = self.tried(TensorBoard::create(&logs, banner.resumed_at));
                false
            }
            Event::Validation { .. }
            | Event::Evaluation(_)
            | Event::TookHold { .. }
            | Event::Finished { .. } => true,
            _ => false,
        };
        if let Some(mut tensorboard) = self.tensorboard.take() {
            let line = serde_json::to_vec(event).expect("events hold only numbers, strings and paths");
            let written = Record::parse(&line).map_or(Ok(()), |record| tensorboard.record(&record));
            self.tensorboard = self.tried(written).map(|()| tensorboard);
        }
        if is_news {
            let written = write_report(&self.plan.output_dir, &self.facts);
            self.tried(written);
        }
    }

    fn tried<T, E: std::error::Error>(&mut self, result: Result<T, E>) -> Option<T> {
        if let Err(error) = &result
            && !std::mem::replace(&mut self.has_warned, true)
        {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            tracing::warn!("the run goes on without its report: {error}{cause}");
        }
        result.ok()
    }
}

impl Observer for Reporter<'_> {
    fn observe(&mut self, event: &Event) -> Result<(), TrainError> {
        if self.plan.report.report_to != ReportTo::None {
            self.report(event);
        }
        self.inner.observe(event)
    }
}

fn section(title: &str, rows: impl IntoIterator<Item = (&'static str, String)>) -> Section {
    let rows = rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Section { title: title.to_owned(), rows }
}

fn data(data: &Data, plan: &TrainPlan) -> Section {
    let side = plan.data.transform.side.get();
    let mut rows = vec![
        ("folder", plan.data.dir.display().to_string()),
        ("layout", data.layout().to_string()),
        ("pairs to train on", data.n_samples().to_string()),
        ("resolution", format!("{side} x {side} px")),
    ];
    match data.samples() {
        Some(samples) => rows.extend(captions(samples)),
        None => rows.push(("captions", "read as they come".to_owned())),
    }
    section("Data", rows)
}

#[expect(clippy::cast_precision_loss, reason = "a data set has fewer than 2^53 words")]
fn captions(samples: &[Sample]) -> [(&'static str, String); 3] {
    let captions: Vec<&String> = samples.iter().flat_map(|sample| &sample.captions).collect();
    let n_words: usize = captions.iter().map(|caption| caption.split_whitespace().count()).sum();
    let n_empty = captions.iter().filter(|caption| caption.trim().is_empty()).count();
    [
        ("words in a caption, on average", format!("{:.1}", n_words as f64 / captions.len().max(1) as f64)),
        ("empty captions", n_empty.to_string()),
        ("captions' BLAKE3", hash_of(captions.iter().flat_map(|caption| [caption.as_bytes(), b"\n"]))),
    ]
}

fn model(trainer: &Trainer, plan: &TrainPlan) -> Section {
    let unet = plan.model.base.join("unet");
    let weights = std::fs::read_dir(&unet).into_iter().flatten().flatten().map(|entry| entry.path());
    let weights = weights.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    let hashes: Vec<String> = weights.filter_map(|path| file_hash(&path)).collect();
    section(
        "Model",
        [
            ("base", plan.model.base.display().to_string()),
            ("UNet's BLAKE3", hashes.join(", ")),
            ("trainable parameters", trainer.n_trained().to_string()),
        ],
    )
}

fn machine(device: &Device) -> Section {
    let system = System::new_with_specifics(
        sysinfo::RefreshKind::nothing()
            .with_cpu(sysinfo::CpuRefreshKind::nothing())
            .with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram()),
    );
    let processor = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
    section(
        "Hardware",
        [
            ("device", backend::device_name(device).unwrap_or_else(|| backend::NAME.to_owned())),
            ("processor", processor),
            ("cores", system.cpus().len().to_string()),
            ("memory", format!("{} GiB", system.total_memory() >> 30)),
            ("system", System::long_os_version().unwrap_or_default()),
        ],
    )
}

fn versions() -> Section {
    section("Versions", [("pyrograph", env!("CARGO_PKG_VERSION").to_owned()), ("Burn", BURN.to_owned())])
}

/// The workspace pins it.
const BURN: &str = "0.22.1";

fn hash_of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    parts.for_each(|part| {
        hasher.update(part);
    });
    short(&hasher)
}

fn file_hash(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let bytes = path.metadata().ok()?.len();
    if bytes > MAX_HASHED_BYTES {
        return Some(format!("{name}: {bytes} bytes, not read"));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).ok()?).ok()?;
    Some(short(&hasher))
}

/// The first half: enough to tell two files apart.
fn short(hasher: &blake3::Hasher) -> String {
    hasher.finalize().to_hex()[..32].to_owned()
}

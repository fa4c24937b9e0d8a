//! How speed and memory grow with the batch.

use std::fs;
use std::path::Path;

use maud::html;

use crate::chart::{Chart, Curve, Look, Role, Weight};
use crate::gallery::Gallery;
use crate::page::{ScriptData, chart_section, details, document, footer};
use crate::{ReportError, RunFacts};

/// What was measured of one batch size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchPoint {
    /// Images in an optimizer step.
    pub images_per_step: u64,
    /// Images trained on in a second.
    pub images_per_second: f64,
    /// The share of a large matrix product's rate, from 0 to 1.
    pub fraction_of_matmul: f64,
    /// The most main memory held.
    pub peak_bytes: Option<u64>,
    /// What the device's allocator holds.
    pub device_bytes: Option<u64>,
}

/// Writes a page with curves over the batch size: speed, the share of the device's speed, and memory.
///
/// # Errors
/// [`ReportError::Write`] if the page cannot be written.
pub fn write_bench(path: &Path, facts: &RunFacts, points: &[BatchPoint]) -> Result<(), ReportError> {
    let (charts, no_pictures) = (charts(points), Gallery::default());
    let data = ScriptData::new(&charts, &no_pictures, None, "Batch of");
    let body = html! {
        header.hero {
            p.eyebrow { "Pyrograph benchmark" }
            h1 { (facts.title) }
        }
        main {
            (chart_section(&charts, "How it grows", "Over the images of an optimizer step."))
            (details(facts))
        }
        (footer())
    };
    fs::write(path, document(&facts.title, &data, &body)).map_err(ReportError::write(path))
}

fn charts(points: &[BatchPoint]) -> Vec<Chart> {
    let chart = |title, about: &str, unit, value: &dyn Fn(&BatchPoint) -> Option<f64>| {
        let look = Look { title, about: about.to_owned(), weight: Weight::Primary, unit, has_zero: true };
        let steps = points.iter().map(|point| point.images_per_step).collect();
        let values = points.iter().map(value).collect();
        Chart::new(look, steps, vec![Curve { label: String::new(), role: Role::Main, values }])
    };
    let gibibytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64 / f64::from(1 << 30));
    [
        chart("Speed", "Training images per second.", "/s", &|point| Some(point.images_per_second)),
        chart("Use of the device", "Share of a large matrix product’s rate.", "%", &|point| {
            Some(100.0 * point.fraction_of_matmul)
        }),
        chart("Memory", "The most that the process held.", "GiB", &|point| gibibytes(point.peak_bytes)),
        chart("Memory of the device", "What its allocator holds.", "GiB", &|point| {
            gibibytes(point.device_bytes)
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

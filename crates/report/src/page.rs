//! The page: what stands on it and in which order. How it looks is `assets/report.css`, what moves is `assets/report.js`.

use std::time::SystemTime;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;

use crate::RunFacts;
use crate::chart::{Chart, Weight, charts};
use crate::format::{bytes, compact, count, duration, significant};
use crate::gallery::{Gallery, Row};
use crate::run::Run;
use crate::verdict::{Outcome, Verdict};

const UPLOT_CSS: &str = include_str!("../assets/uplot-1.6.32.min.css");
const UPLOT_JS: &str = include_str!("../assets/uplot-1.6.32.min.js");
const UPLOT_LICENSE: &str = include_str!("../assets/uplot-LICENSE");
const REPORT_CSS: &str = include_str!("../assets/report.css");
const REPORT_JS: &str = include_str!("../assets/report.js");

/// Whatever the page may contain, a browser loads nothing for it.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      base-uri 'none'; form-action 'none'";

/// More warnings would hide what they warn of; all of them are in the run's metrics.
const MAX_WARNINGS: usize = 8;

/// What the page's script reads.
#[derive(Serialize)]
pub(crate) struct ScriptData<'a> {
    charts: &'a [Chart],
    gallery: &'a Gallery,
    took_hold: Option<u64>,
    /// Written before a place on the charts' horizontal axes: `Step`.
    axis: &'static str,
    /// Seconds since 1970, for a date in the reader's own time.
    written_at: u64,
}

impl<'a> ScriptData<'a> {
    pub(crate) fn new(
        charts: &'a [Chart],
        gallery: &'a Gallery,
        took_hold: Option<u64>,
        axis: &'static str,
    ) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self { charts, gallery, took_hold, axis, written_at: now.unwrap_or_default().as_secs() }
    }
}

/// The whole page.
pub(crate) fn page(facts: &RunFacts, run: &Run, gallery: &Gallery) -> String {
    let charts = charts(run);
    let data = ScriptData::new(&charts, gallery, run.took_hold, "Step");
    let body = html! {
        header.hero { (hero(facts, run)) }
        main {
            @if !gallery.frames.is_empty() { (pictures(run, gallery)) }
            @if !charts.is_empty() { (chart_section(&charts, "How it learns", "Over optimizer steps.")) }
            (details(facts))
        }
        (footer())
    };
    document(&facts.title, &data, &body)
}

/// A page around its body.
pub(crate) fn document(title: &str, data: &ScriptData<'_>, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(concat!("Pyrograph ", env!("CARGO_PKG_VERSION")));
                title { (title) " · Pyrograph" }
                link rel="icon" href="data:,";
                style { (PreEscaped(UPLOT_CSS)) (PreEscaped(REPORT_CSS)) }
            }
            body {
                (body)
                script type="application/json" id="run" { (PreEscaped(json(data))) }
                script { (PreEscaped(UPLOT_JS)) }
                script { (PreEscaped(REPORT_JS)) }
            }
        }
    };
    page.into_string()
}

/// JSON that a script element may hold: nothing in it can end the element.
fn json(data: &ScriptData<'_>) -> String {
    let json = serde_json::to_string(data).expect("plain structs of numbers and strings");
    json.replace('<', "\\u003c")
}

fn hero(facts: &RunFacts, run: &Run) -> Markup {
    let verdict = Verdict::of(run);
    let class = match verdict.outcome {
        Outcome::TookHold => "verdict took-hold",
        Outcome::NotYet => "verdict not-yet",
        Outcome::Unknown => "verdict unknown",
    };
    html! {
        p.eyebrow { "Pyrograph training report" span.state { (state(run)) } }
        h1 { (facts.title) }
        div class=(class) {
            p.headline { (verdict.headline) }
            p.advice { (verdict.advice) }
        }
        @if !run.warnings.is_empty() {
            ul.warnings aria-label="Warnings" {
                @for (step, message) in run.warnings.iter().take(MAX_WARNINGS) {
                    li { span { "Step " (count(*step)) } (message) }
                }
            }
        }
        @if let (false, Some(total)) = (run.is_finished, run.total_steps()) {
            progress max=(total) value=(run.step()) aria-label="Steps made" {}
        }
        dl.numbers {
            @for (name, value) in headline_numbers(run) {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

fn state(run: &Run) -> String {
    match run.total_steps() {
        _ if run.is_finished => "Finished".to_owned(),
        Some(total) if total > 0 => {
            let percent = 100.0 * run.step() as f64 / total as f64;
            format!("{percent:.0} % done")
        }
        _ => "Just started".to_owned(),
    }
}

/// The numbers to know, as far as they are known.
fn headline_numbers(run: &Run) -> Vec<(String, String)> {
    let steps = match run.total_steps() {
        Some(total) if total != run.step() => format!("Steps of {}", count(total)),
        _ => "Steps".to_owned(),
    };
    let batch = run.started.batch_size.map(|batch_size| match run.started.accumulation {
        Some(accumulation) if accumulation > 1 => {
            format!("{} × {}", count(batch_size), count(accumulation))
        }
        _ => count(batch_size),
    });
    let peak = run.progress.values().filter_map(|progress| progress.memory_bytes).max();
    let gap = run.last_evaluation().and_then(|evaluation| evaluation.control_gap);
    let numbers = [
        (steps.as_str(), Some(count(run.step()))),
        ("Time", run.seconds().map(duration)),
        ("Control gap", gap.map(significant)),
        ("Best step", run.best.map(count)),
        ("Pairs", run.started.n_examples.map(count)),
        ("Batch", batch),
        ("Parameters", run.started.n_parameters.map(compact)),
        ("Peak memory", peak.map(|peak| bytes(peak as f64))),
    ];
    numbers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn pictures(run: &Run, gallery: &Gallery) -> Markup {
    let n_frames = gallery.frames.len();
    let (first, last) = (gallery.frames.first(), gallery.frames.last());
    let step = |frame: Option<&crate::gallery::Frame>| count(frame.map_or(0, |frame| frame.step));
    html! {
        section #pictures aria-labelledby="pictures-title" {
            div.section-head {
                h2 #pictures-title { "What it draws" }
                p { "The same hint, prompt and noise at every step, so that only the training differs." }
            }
            @if n_frames > 1 {
                div.player {
                    button #play type="button" aria-label="Play" { span.icon aria-hidden="true" {} }
                    div.track {
                        @if let Some(position) = run.took_hold.and_then(|step| position(gallery, step)) {
                            span.tick style=(format!("--at: {position:.4}")) title="The hint took hold" {}
                        }
                        input #step type="range" min="0" max=(n_frames - 1) value=(n_frames - 1) step="1"
                            aria-label="Training step of the pictures" autocomplete="off";
                    }
                    output for="step" { "Step " (step(last)) }
                }
            }
            div.gallery.no-target[!gallery.has_targets()].single[n_frames == 1] {
                @for (row_idx, row) in gallery.rows.iter().enumerate() {
                    (gallery_row(row_idx, row, gallery, &step(first)))
                }
            }
            @for note in gallery_notes(gallery) { p.note { (note) } }
        }
    }
}

fn gallery_row(row_idx: usize, row: &Row, gallery: &Gallery, first_step: &str) -> Markup {
    let name = row.prompt.clone().unwrap_or_else(|| format!("Pair {}", row.pair_idx + 1));
    let has_others = gallery.rows.iter().any(|other| other.pair_idx == row.pair_idx && other.image_idx > 0);
    let before = format!("Before (step {first_step})");
    let mut columns = vec![("hint", "Hint")];
    if gallery.has_targets() {
        columns.push(("target", "Target"));
    }
    if gallery.frames.len() > 1 {
        columns.push(("before", &before));
    }
    columns.push(("now", "Now"));
    html! {
        article data-row=(row_idx) {
            h3 { (name) @if has_others { span.variant { "picture " (row.image_idx + 1) } } }
            @for (kind, label) in columns {
                figure class=(kind) {
                    img data-kind=(kind) width=(row.size.0) height=(row.size.1) alt=(format!("{label}: {name}"));
                    figcaption { (label) }
                }
            }
        }
    }
}

/// Where a step is on the slider, from 0 to 1; the slider moves from validation to validation.
fn position(gallery: &Gallery, step: u64) -> Option<f64> {
    let frames = &gallery.frames;
    let next_idx = frames.iter().position(|frame| frame.step >= step)?;
    let end = frames[next_idx].step;
    let begin = next_idx.checked_sub(1).map_or(end, |idx| frames[idx].step);
    let missing = if end > begin { (end - step) as f64 / (end - begin) as f64 } else { 0.0 };
    let n_intervals = frames.len().checked_sub(1).filter(|n| *n > 0)?;
    Some(((next_idx as f64 - missing) / n_intervals as f64).clamp(0.0, 1.0))
}

fn gallery_notes(gallery: &Gallery) -> Vec<String> {
    let mut notes = Vec::new();
    if gallery.frames.len() < gallery.n_validations {
        notes.push(format!(
            "{} of {} validations are shown, to keep this page small: the first, the last and an even choice between them. All of \
             them are in the run’s folder.",
            gallery.frames.len(),
            count(gallery.n_validations as u64)
        ));
    }
    if gallery.n_rows_left_out > 0 {
        notes.push(format!(
            "The first {} rows are shown; {} more are in the run’s folder.",
            gallery.rows.len(),
            gallery.n_rows_left_out
        ));
    }
    notes
}

pub(crate) fn chart_section(charts: &[Chart], title: &str, about: &str) -> Markup {
    html! {
        section #curves aria-labelledby="curves-title" {
            div.section-head {
                h2 #curves-title { (title) }
                p { (about) span.with-mouse { " Drag to zoom, double-click to go back." } }
            }
            @for weight in [Weight::Primary, Weight::Secondary] {
                div.charts.secondary[weight == Weight::Secondary] {
                    @for (chart_idx, chart) in charts.iter().enumerate().filter(|(_, chart)| chart.weight == weight) {
                        (figure(chart_idx, chart))
                    }
                }
            }
            noscript {
                table {
                    thead { tr { th { "Curve" } th { "First" } th { "Last" } th { "Lowest" } th { "Highest" } } }
                    tbody {
                        @for chart in charts {
                            @if let Some(extent) = chart.extent() {
                                tr {
                                    th scope="row" { (chart.title) }
                                    @for (step, value) in [extent.first, extent.last, extent.lowest, extent.highest] {
                                        td { (chart.value(value)) small { " at step " (count(step)) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn figure(chart_idx: usize, chart: &Chart) -> Markup {
    let extent = chart.extent();
    let summary = extent.as_ref().map(|extent| {
        format!(
            "{}: {} at step {}, {} at step {}; lowest {}, highest {}. Use the arrow keys to read it.",
            chart.title,
            chart.value(extent.first.1),
            count(extent.first.0),
            chart.value(extent.last.1),
            count(extent.last.0),
            chart.value(extent.lowest.1),
            chart.value(extent.highest.1)
        )
    });
    html! {
        figure.chart data-chart=(chart_idx) {
            figcaption {
                h3 { (chart.title) }
                @if let Some(extent) = &extent {
                    p.last { @if let Some(label) = extent.label { small { (label) } " " } (chart.value(extent.last.1)) }
                }
                p.about { (chart.about) }
            }
            div.plot tabindex="0" role="img" aria-label=[summary] {}
        }
    }
}

pub(crate) fn details(facts: &RunFacts) -> Markup {
    html! {
        section #details aria-labelledby="details-title" {
            div.section-head { h2 #details-title { "What it was made of" } }
            @if !facts.sections.is_empty() {
                div.sections {
                    @for section in &facts.sections {
                        div.cell {
                            div.card {
                                h3 { (section.title) }
                                dl { @for (name, value) in &section.rows { div { dt { (name) } dd { (value) } } } }
                            }
                        }
                    }
                }
            }
            @if !facts.config_toml.is_empty() {
                div.card.config {
                    div.card-head {
                        h3 { "Resolved config" }
                        button #copy type="button" hidden { "Copy" }
                    }
                    pre tabindex="0" aria-label="Resolved config" { code { (facts.config_toml) } }
                }
            }
        }
    }
}

pub(crate) fn footer() -> Markup {
    html! {
        footer {
            p { "Written by Pyrograph " (env!("CARGO_PKG_VERSION")) span #written-at {} ". This page loads nothing from anywhere." }
            details {
                summary { "Charts by uPlot 1.6.32, MIT licence" }
                pre { (UPLOT_LICENSE) }
            }
        }
    }
}

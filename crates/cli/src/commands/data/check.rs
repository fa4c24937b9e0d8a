//! `pyrograph data check`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;

use pyrograph_data::{
    CheckOptions, CheckReport, Dataset, Finding, check as check_rows, contact_sheet, save_png,
};

use super::folder_of;
use super::ruler::Lengths;
use crate::args::{CheckArgs, LogFormat, OutputArgs};
use crate::hub::Folders;
use crate::progress;

/// Rows that a line of the table names.
const SHOWN_ROWS: usize = 5;

#[derive(Debug, thiserror::Error)]
#[error("{n_faulty} of {n_rows} rows have a fault")]
struct FaultsFound {
    n_faulty: usize,
    n_rows: usize,
}

pub(super) fn check(args: &CheckArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let folders = Folders::without_pickles(&args.hub, output);
    let lengths = Lengths::open(&args.tokenizer, &folders)?;
    let survey = Dataset::survey(&folder_of(&args.rows, &folders)?, &args.rows.source())?;
    let (rows, n_rows) = (&survey.rows, survey.rows.len());
    let has_hints = !args.rows.without_hints;
    let bar = Mutex::new(progress::pictures(output));
    let on_progress = |n_done: usize| {
        if let Ok(mut bar) = bar.lock() {
            bar(n_done, n_rows);
        }
    };
    let length = |caption: &str| lengths.of(caption);
    let options = CheckOptions {
        has_hints,
        side: args.resolution,
        ruler: lengths.ruler(&length),
        on_progress: &on_progress,
    };
    let report = check_rows(rows, &survey.dir, &options);

    let text = if args.json || output.log_format == LogFormat::Json {
        serde_json::to_string(&report)? + "\n"
    } else {
        table(&report)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    if let Some(path) = &args.sheet {
        save_png(&contact_sheet(rows, &report, has_hints, args.sheet_pairs.get()), path)?;
        tracing::info!("the contact sheet is in {}", path.display());
    }
    if let Some(path) = &args.quarantine {
        let quarantine = report.quarantine();
        quarantine.write(path)?;
        tracing::info!("{} rows are in {}", quarantine.len(), path.display());
    }
    let n_faulty = report.n_faulty;
    if n_faulty > 0 { Err(FaultsFound { n_faulty, n_rows }.into()) } else { Ok(()) }
}

fn table(report: &CheckReport) -> String {
    let mut text = format!("{} rows, {} with a fault\n", report.n_rows, report.n_faulty);
    let found = report.by_title();
    let of = |is_fault: bool| {
        found.iter().filter(move |(_, rows)| rows.iter().any(|(_, finding)| finding.is_fault() == is_fault))
    };
    for (heading, is_fault) in [("faults", true), ("worth knowing", false)] {
        if of(is_fault).next().is_some() {
            let _ = write!(text, "\n{heading}\n");
        }
        for (title, rows) in of(is_fault) {
            let _ = writeln!(text, "  {title}: {}", rows.len());
            for (name, finding) in rows.iter().take(SHOWN_ROWS) {
                let _ = writeln!(text, "    {}", line(name, finding));
            }
            if rows.len() > SHOWN_ROWS {
                let _ = writeln!(text, "    and {} more", rows.len() - SHOWN_ROWS);
            }
        }
    }
    let captions = &report.captions;
    let _ = write!(
        text,
        "\ncaptions: {}, {:.1} {unit} on average, {} at most, {} empty",
        captions.n_captions,
        captions.mean,
        captions.max,
        captions.n_empty,
        unit = captions.unit,
    );
    let _ = match captions.n_cut {
        Some(n_cut) => writeln!(text, ", {n_cut} cut off"),
        None => writeln!(text, "; with --base they are counted in tokens"),
    };
    let _ = writeln!(text, "images without colours: {:.1} %", 100.0 * report.grey_share);
    text
}

fn line(name: &str, finding: &Finding) -> String {
    match finding {
        Finding::BlankImage | Finding::BlankHint | Finding::HintIsImage | Finding::EmptyCaption => {
            name.to_owned()
        }
        finding => format!("{name}: {finding}"),
    }
}

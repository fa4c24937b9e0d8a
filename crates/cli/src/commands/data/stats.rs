//! `pyrograph data stats`.

use std::fmt::Write as _;
use std::io::Write as _;

use pyrograph_data::{DataStats, Dataset};

use super::folder_of;
use super::ruler::Lengths;
use crate::args::{OutputArgs, StatsArgs};
use crate::hub::Folders;

/// Lines of a list.
const SHOWN: usize = 12;

pub(super) fn stats(args: &StatsArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let folders = Folders::without_pickles(&args.hub, output);
    let lengths = Lengths::open(&args.tokenizer, &folders)?;
    let survey = Dataset::survey(&folder_of(&args.rows, &folders)?, &args.rows.source())?;
    let length = |caption: &str| lengths.of(caption);
    let stats = DataStats::of(&survey.rows, args.resolution, lengths.ruler(&length));
    let text = if args.json { serde_json::to_string(&stats)? + "\n" } else { table(&stats) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn table(stats: &DataStats) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "samples: {}", stats.n_samples);
    if stats.n_unusable > 0 {
        let _ =
            writeln!(text, "rows that cannot be used: {}; `pyrograph data check` says why", stats.n_unusable);
    }
    let mut list = |title: &str, rows: &[(String, usize)]| {
        let _ = writeln!(text, "\n{title}");
        for (name, count) in rows.iter().take(SHOWN) {
            let _ = writeln!(text, "  {name:<24} {count}");
        }
        if rows.len() > SHOWN {
            let _ = writeln!(text, "  and {} more", rows.len() - SHOWN);
        }
    };
    list("sizes of images", &stats.sizes);
    list("shapes, width : height", &stats.shapes);
    list("buckets", &stats.buckets);
    list(&format!("{} of captions", stats.captions.unit), &stats.caption_lengths);
    list("words", &stats.words);
    let captions = &stats.captions;
    let _ = writeln!(
        text,
        "\ncaptions: {}, {:.1} {} on average, {} at most, {} empty",
        captions.n_captions, captions.mean, captions.unit, captions.max, captions.n_empty,
    );
    text
}

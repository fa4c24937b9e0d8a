//! `pyrograph inspect`.

use std::fmt::Write as _;
use std::io::Write;

use pyrograph_pipeline::{Difference, differences};
use pyrograph_weights::Report;

use crate::args::{InspectArgs, LogFormat, OutputArgs};
use crate::backend;
use crate::hub::Folders;

/// Tensors of each kind that are named in the text.
const SHOWN: usize = 5;

pub(crate) fn inspect(args: &InspectArgs, output: &OutputArgs) -> anyhow::Result<()> {
    let pickles = args.pickles.policy();
    let path = Folders::new(&args.hub, pickles, output).model(&args.path, None)?;
    let report = pyrograph_weights::inspect(&path, pickles)?;
    let compared = backend::open()
        .map_err(anyhow::Error::from)
        .and_then(|device| Ok(differences(&path, report.kind, pickles, &device)?));
    let text = match output.log_format {
        LogFormat::Text => in_words(&report, &compared),
        LogFormat::Json => {
            let mut json = serde_json::to_value(&report)?;
            match &compared {
                Ok(differences) => json["differences"] = serde_json::to_value(differences)?,
                Err(error) => json["not_compared"] = format!("{error:#}").into(),
            }
            json.to_string()
        }
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn in_words(report: &Report, compared: &anyhow::Result<Option<Vec<Difference>>>) -> String {
    let mut text = report.to_string();
    match compared {
        Err(error) => {
            let _ = write!(text, "\n  cannot be loaded: {error:#}");
        }
        Ok(None) => {}
        Ok(Some(differences)) if differences.is_empty() => {
            text.push_str("\n  complete      no tensor is missing or left over");
        }
        Ok(Some(differences)) => differences.iter().for_each(|difference| add(&mut text, difference)),
    }
    text
}

fn add(text: &mut String, Difference { component, mismatch }: &Difference) {
    let _ = write!(text, "\n  {component}: {}", mismatch.counts());
    let mut list = |heading: &str, names: Vec<&str>| {
        for name in names.iter().take(SHOWN) {
            let _ = write!(text, "\n    {heading}: {name}");
        }
        if names.len() > SHOWN {
            let _ = write!(text, "\n    and {} more", names.len() - SHOWN);
        }
    };
    list("missing", mismatch.missing.iter().map(|tensor| tensor.name.as_str()).collect());
    list("unused", mismatch.unused.iter().map(|tensor| tensor.name.as_str()).collect());
    list("wrongly shaped", mismatch.misshapen.iter().map(|tensor| tensor.name.as_str()).collect());
    list("not floating point", mismatch.mistyped.iter().map(|tensor| tensor.name.as_str()).collect());
}

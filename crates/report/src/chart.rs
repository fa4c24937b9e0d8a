//! The curves of a run.

use serde::Serialize;

use crate::format::significant;
use crate::record::{Evaluation, Progress};
use crate::run::Run;

/// A report has at most this many points per curve; more cannot be told apart on a screen.
const MAX_POINTS: usize = 1500;

/// One chart, in the form that the page's script reads.
#[derive(Debug, Serialize)]
pub(crate) struct Chart {
    #[serde(skip)]
    pub(crate) title: &'static str,
    /// How to read it, in a sentence.
    #[serde(skip)]
    pub(crate) about: String,
    /// Whether it says how well the model learns, or how fast.
    #[serde(skip)]
    pub(crate) weight: Weight,
    /// Written after a value: `GiB`.
    pub(crate) unit: &'static str,
    /// Whether the vertical axis starts at zero.
    pub(crate) has_zero: bool,
    /// Where on the horizontal axis: optimizer steps, but for a benchmark.
    pub(crate) steps: Vec<u64>,
    pub(crate) curves: Vec<Curve>,
    /// The standard error of the one curve that has one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<Option<f64>>,
}

/// How large a chart is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Primary,
    Secondary,
}

/// One curve of a chart.
#[derive(Debug, Serialize)]
pub(crate) struct Curve {
    pub(crate) label: String,
    pub(crate) role: Role,
    /// One for each step of the chart; `null` where it is not known.
    pub(crate) values: Vec<Option<f64>>,
}

/// How a curve is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// What the chart is about.
    Main,
    /// The noisy form of it.
    Faint,
    /// One of several in an order.
    Ramp,
}

/// The values of a curve in words.
#[derive(Debug, PartialEq)]
pub(crate) struct Extent<'a> {
    /// The curve's, where others could be meant.
    pub(crate) label: Option<&'a str>,
    pub(crate) first: (u64, f64),
    pub(crate) last: (u64, f64),
    pub(crate) lowest: (u64, f64),
    pub(crate) highest: (u64, f64),
}

impl Chart {
    /// The values of the curve that stands for the chart: the main one, or else the last.
    pub(crate) fn extent(&self) -> Option<Extent<'_>> {
        let main = self.curves.iter().find(|curve| curve.role == Role::Main);
        let curve = main.or_else(|| self.curves.last())?;
        let points = || {
            let points = self.steps.iter().zip(&curve.values);
            points.filter_map(|(step, value)| value.map(|value| (*step, value)))
        };
        Some(Extent {
            label: main.is_none().then_some(curve.label.as_str()),
            first: points().next()?,
            last: points().next_back()?,
            lowest: points().min_by(|a, b| a.1.total_cmp(&b.1))?,
            highest: points().max_by(|a, b| a.1.total_cmp(&b.1))?,
        })
    }

    /// A value of this chart with its unit.
    pub(crate) fn value(&self, value: f64) -> String {
        let number = significant(value);
        if self.unit.is_empty() { number } else { format!("{number} {}", self.unit) }
    }

    /// A chart of curves, without those that have no value; `None` if none is left.
    pub(crate) fn new(look: Look, steps: Vec<u64>, curves: Vec<Curve>) -> Option<Self> {
        let curves: Vec<Curve> =
            curves.into_iter().filter(|curve| curve.values.iter().any(Option::is_some)).collect();
        if curves.is_empty() {
            return None;
        }
        let Look { title, about, weight, unit, has_zero } = look;
        Some(Self { title, about, weight, unit, has_zero, steps, curves, errors: Vec::new() })
    }
}

/// Everything of a chart but its values.
pub(crate) struct Look {
    pub(crate) title: &'static str,
    pub(crate) about: String,
    pub(crate) weight: Weight,
    pub(crate) unit: &'static str,
    pub(crate) has_zero: bool,
}

/// All charts of which the run knows something, the most telling first.
pub(crate) fn charts(run: &Run) -> Vec<Chart> {
    let primary = |title, about: &str| Look {
        title,
        about: about.to_owned(),
        weight: Weight::Primary,
        unit: "",
        has_zero: false,
    };
    let evaluations: Vec<&Evaluation> = run.evaluations.values().collect();
    let evaluated: Vec<u64> = run.evaluations.keys().copied().collect();
    let zero_convs = |look, value: fn(&crate::record::ZeroConv) -> Option<f64>| {
        let last = run.last_evaluation()?;
        let curves = last.zero_convs.iter().map(|conv| Curve {
            label: conv.name.clone(),
            role: Role::Ramp,
            values: evaluations
                .iter()
                .map(|evaluation| {
                    evaluation.zero_convs.iter().find(|other| other.name == conv.name).and_then(value)
                })
                .collect(),
        });
        Chart::new(look, evaluated.clone(), curves.collect())
    };
    let control_gap = Chart::new(
        Look {
            has_zero: true,
            ..primary(
                "Control gap",
                "How much the loss rises when a sample gets another sample’s hint. Near zero, the hint is ignored.",
            )
        },
        evaluated.clone(),
        vec![main("gap", &evaluations, |evaluation| evaluation.control_gap)],
    );
    let errors: Vec<_> = evaluations.iter().map(|evaluation| evaluation.control_gap_error).collect();
    let errors = if errors.iter().all(Option::is_none) { Vec::new() } else { errors };
    let charts = [
        control_gap.map(|chart| Chart { errors, ..chart }),
        Chart::new(
            primary("Evaluation loss", &evaluation_about(run)),
            evaluated.clone(),
            evaluation_curves(&evaluations),
        ),
        training_loss(
            run,
            primary("Training loss", "Noisy by nature: every step draws new timesteps and noise."),
        ),
        zero_convs(
            Look {
                has_zero: true,
                ..primary(
                    "Zero convolutions",
                    "Weight norms by block. They are born as zero and grow as control is learnt.",
                )
            },
            |conv| conv.weight_norm,
        ),
        zero_convs(
            Look {
                has_zero: true,
                ..primary("Residuals", "Root mean square of what each block adds to the frozen model.")
            },
            |conv| conv.residual_rms,
        ),
    ];
    charts.into_iter().flatten().chain(secondary_charts(run)).collect()
}

/// Charts of how the training goes, not of what it learns.
fn secondary_charts(run: &Run) -> impl Iterator<Item = Chart> {
    let (steps, progress) = thinned(run);
    let look = |title, about: &str, unit, has_zero| Look {
        title,
        about: about.to_owned(),
        weight: Weight::Secondary,
        unit,
        has_zero,
    };
    let chart = move |look, value: fn(&Progress) -> Option<f64>| {
        let values =
            progress.iter().map(|group| mean(group.iter().map(|progress| value(progress)))).collect();
        let curve = Curve { label: String::new(), role: Role::Main, values };
        Chart::new(look, steps.clone(), vec![curve])
    };
    let memory = |progress: &Progress| progress.memory_bytes.map(|bytes| bytes as f64 / f64::from(1 << 30));
    [
        chart(look("Learning rate", "Of each step.", "", true), |progress| progress.lr),
        chart(look("Gradient norm", "Before clipping.", "", true), |progress| progress.grad_norm),
        chart(look("Speed", "Training images per second.", "/s", true), |progress| {
            progress.images_per_second
        }),
        chart(look("Memory", "Held by the process.", "GiB", true), memory),
    ]
    .into_iter()
    .flatten()
}

fn evaluation_about(run: &Run) -> String {
    let last = run.last_evaluation();
    let samples = match last.and_then(|evaluation| evaluation.n_samples) {
        Some(n_samples) => format!("{n_samples} samples"),
        None => "The same samples".to_owned(),
    };
    let kind = match last.and_then(|evaluation| evaluation.is_held_out) {
        Some(true) => " that training never sees",
        Some(false) => " of the training data",
        None => "",
    };
    format!("{samples}{kind}, always with the same noise, by range of timesteps: 999 is pure noise.")
}

fn main(label: &str, evaluations: &[&Evaluation], value: fn(&Evaluation) -> Option<f64>) -> Curve {
    let values = evaluations.iter().map(|evaluation| value(evaluation)).collect();
    Curve { label: label.to_owned(), role: Role::Main, values }
}

/// The loss of each range of timesteps of the last evaluation, and of all.
fn evaluation_curves(evaluations: &[&Evaluation]) -> Vec<Curve> {
    let ranges = evaluations.last().map_or(&[][..], |evaluation| &evaluation.bins);
    let ranges = ranges.iter().map(|range| Curve {
        label: format!("t {}–{}", range.first, range.last),
        role: Role::Ramp,
        values: evaluations
            .iter()
            .map(|evaluation| {
                let same = |bin: &&crate::record::Bin| (bin.first, bin.last) == (range.first, range.last);
                evaluation.bins.iter().find(same).and_then(|bin| bin.loss)
            })
            .collect(),
    });
    ranges.chain([main("all", evaluations, |evaluation| evaluation.loss)]).collect()
}

fn training_loss(run: &Run, look: Look) -> Option<Chart> {
    let (steps, progress) = thinned(run);
    let losses: Vec<Option<f64>> =
        progress.iter().map(|group| mean(group.iter().map(|progress| progress.loss))).collect();
    let smooth = Curve { label: "smoothed".to_owned(), role: Role::Main, values: smoothed(&losses) };
    let raw = Curve { label: "reported".to_owned(), role: Role::Faint, values: losses };
    Chart::new(look, steps, vec![raw, smooth])
}

/// Reports in groups, so that there are at most [`MAX_POINTS`] of them, each with its last step.
fn thinned(run: &Run) -> (Vec<u64>, Vec<Vec<&Progress>>) {
    let all: Vec<&Progress> = run.progress.values().collect();
    let groups: Vec<Vec<&Progress>> =
        all.chunks(all.len().div_ceil(MAX_POINTS).max(1)).map(<[_]>::to_vec).collect();
    let steps = groups.iter().filter_map(|group| Some(group.last()?.step)).collect();
    (steps, groups)
}

/// The mean of what is known.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, n) = values.flatten().fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    (n > 0.0).then(|| sum / n)
}

/// An exponential moving average over about a twentieth of the curve, without the bias towards zero at its start.
///
/// Source: Kingma and Ba 2015, section 3, for the correction of the bias.
fn smoothed(values: &[Option<f64>]) -> Vec<Option<f64>> {
    let keep = 1.0 - 1.0 / (values.len() as f64 / 20.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let smooth = values.iter().map(|value| {
        let value = (*value)?;
        sum = keep * sum + (1.0 - keep) * value;
        weight = keep * weight + (1.0 - keep);
        Some(sum / weight)
    });
    smooth.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    fn run(lines: impl IntoIterator<Item = String>) -> Run {
        Run::from_records(lines.into_iter().filter_map(|line| Record::parse(line.as_bytes())))
    }

    fn titles(run: &Run) -> Vec<&'static str> {
        charts(run).iter().map(|chart| chart.title).collect()
    }

    #[test]
    fn a_chart_without_values_is_not_there() {
        assert_eq!(titles(&run([])), [""; 0]);
        assert_eq!(
            titles(&run([r#"{"event":"progress","step":1,"loss":null,"lr":0.1}"#.into()])),
            ["Learning rate"]
        );
        let evaluation = r#"{"event":"evaluation","step":5,"control_gap":0.1}"#;
        assert_eq!(titles(&run([evaluation.into()])), ["Control gap"]);
    }

    #[test]
    fn a_long_run_is_averaged_not_cut() {
        let line = |step| format!(r#"{{"event":"progress","step":{step},"loss":{}}}"#, step % 2);
        let charts = charts(&run((1..=6000).map(line)));
        let chart = &charts[0];
        assert_eq!((chart.steps.len(), chart.steps[0], chart.steps.last()), (1500, 4, Some(&6000)));
        assert_eq!(chart.curves[0].values[7], Some(0.5));
    }

    #[test]
    fn smoothing_keeps_a_constant_and_passes_over_gaps() {
        let values: Vec<_> = (0..100).map(|idx| (idx != 50).then_some(2.0)).collect();
        let smooth = smoothed(&values);
        assert_eq!(smooth[50], None);
        assert!(smooth.iter().flatten().all(|value| (value - 2.0_f64).abs() < 1e-12));
        assert_eq!(smoothed(&[Some(1.0), Some(3.0)]), [Some(1.0), Some(3.0)]);
    }

    #[test]
    fn a_block_or_range_that_one_evaluation_lacks_leaves_a_gap() {
        let lines = [
            r#"{"event":"evaluation","step":1}"#,
            r#"{"event":"evaluation","step":2,"bins":[{"first":0,"last":9,"loss":0.2}],"zero_convs":[{"name":"mid","weight_norm":1}]}"#,
        ];
        let charts = charts(&run(lines.map(str::to_owned)));
        assert_eq!(charts.len(), 2);
        assert!(charts.iter().all(|chart| chart.curves[0].values[0].is_none()));
        assert_eq!(charts[1].extent().map(|extent| extent.last), Some((2, 1.0)));
    }
}

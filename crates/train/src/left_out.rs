//! Samples that cannot be used: training goes on without them, as long as they are few, and each is told once.

use std::collections::HashSet;

use pyrograph_data::{DataError, LeftOut};

use crate::TrainError;

/// Unless told otherwise, one sample of so many may be left out, and one in any case: more is no accident.
const SAMPLES_PER_LEFT_OUT: usize = 10;

/// The samples that a run is made without.
#[derive(Debug)]
pub(crate) struct LeftOutLog {
    n_samples: usize,
    max: usize,
    rows: HashSet<String>,
    /// What is to be told of them.
    untold: Vec<String>,
}

impl LeftOutLog {
    /// At most `max` of `n_samples` samples, by default a tenth; never all, since a run of nothing would never end.
    pub(crate) fn new(n_samples: usize, max: Option<usize>) -> Self {
        let max = max.unwrap_or((n_samples / SAMPLES_PER_LEFT_OUT).max(1)).min(n_samples.saturating_sub(1));
        Self { n_samples, max, rows: HashSet::new(), untold: Vec::new() }
    }

    /// Takes note of samples, those of an earlier epoch once.
    ///
    /// # Errors
    /// [`TrainError::Data`] if they are too many by now.
    pub(crate) fn add(&mut self, left_out: Vec<LeftOut>) -> Result<(), TrainError> {
        for LeftOut { origin, error } in left_out {
            if !self.rows.insert(origin.to_string()) {
                continue;
            }
            if self.rows.len() > self.max {
                let (n_left_out, n_samples, max) = (self.rows.len(), self.n_samples, self.max);
                let source = Box::new(error);
                return Err(TrainError::Data(DataError::TooManyLeftOut {
                    n_left_out,
                    n_samples,
                    max,
                    source,
                }));
            }
            let n_left_out = self.rows.len();
            let causes = with_causes(&error);
            self.untold
                .push(format!("training goes on without a sample ({n_left_out} left out so far): {causes}"));
        }
        Ok(())
    }

    /// What was not told yet.
    pub(crate) fn untold(&mut self) -> Vec<String> {
        std::mem::take(&mut self.untold)
    }
}

fn with_causes(error: &DataError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pyrograph_data::Origin;

    use super::*;

    fn left_out(row: usize) -> LeftOut {
        let origin = Origin { file: Path::new("metadata.jsonl").into(), row };
        let source = Box::new(DataError::MissingFile { path: "a.png".into() });
        LeftOut { origin: origin.clone(), error: DataError::Row { at: origin, source } }
    }

    #[test]
    fn each_sample_is_told_once_and_too_many_end_the_run() {
        let mut log = LeftOutLog::new(20, None);
        log.add(vec![left_out(3), left_out(5)]).unwrap();
        let told = log.untold();
        assert_eq!(
            told[1],
            "training goes on without a sample (2 left out so far): cannot use row metadata.jsonl:5: `a.png` does \
             not exist or is not a file"
        );
        log.add(vec![left_out(5)]).unwrap();
        assert!(told.len() == 2 && log.untold().is_empty());
        let error = log.add(vec![left_out(7)]).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "3 of 20 samples cannot be used, 2 may be left out");
    }

    #[test]
    fn a_run_is_never_made_without_all_of_its_samples() {
        #[track_caller]
        fn check(n_samples: usize, max: Option<usize>, expected: usize) {
            assert_eq!(LeftOutLog::new(n_samples, max).max, expected);
        }
        check(50_000, None, 5000);
        check(5, None, 1);
        check(1, None, 0);
        check(100, Some(0), 0);
        check(100, Some(100), 99);
    }
}

//! Which samples of a data set are left out of a run.

use std::path::PathBuf;

use pyrograph_data::{DataError, Quarantine};

use crate::plan::DataPlan;

impl DataPlan {
    /// The list of what is left out and its file: that of the plan, else the one in the data set's folder, if it is there.
    pub(crate) fn left_out(&self) -> Result<Option<(PathBuf, Quarantine)>, DataError> {
        let in_folder = || Some(self.dir.join(Quarantine::FILE_NAME)).filter(|path| path.is_file());
        let read = |path: PathBuf| Quarantine::read(&path).map(|list| (path, list));
        self.quarantine.clone().or_else(in_folder).map(read).transpose()
    }

    /// Tells what is left out.
    pub(crate) fn tell_left_out(&self) -> Result<(), DataError> {
        let Some((path, list)) = self.left_out()? else { return Ok(()) };
        let (n_rows, path) = (list.len(), path.display());
        if self.shuffle_buffer.is_some() {
            tracing::warn!(
                "{n_rows} rows of {path} are not left out with --streaming; those that cannot be used are"
            );
        } else {
            tracing::info!("{n_rows} rows are left out: {path}");
        }
        Ok(())
    }
}

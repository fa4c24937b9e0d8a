//! How a folder comes and goes as a whole: `checkpoint-N` and `best`.
//!
//! A folder is written as `.NAME.incomplete` and renamed. One that has the name already is renamed to `.NAME.replaced`
//! before, and deleted after; one that is deleted is renamed to `.NAME.deleted` first. So whenever a run ends, each name
//! is a whole folder or none, and [`recover`] knows what to do with the hidden ones.

use std::fs;
use std::path::{Path, PathBuf};

use pyrograph_weights::Disk;

use crate::TrainError;

const INCOMPLETE: &str = "incomplete";
const REPLACED: &str = "replaced";
const DELETED: &str = "deleted";

const PREFIX: &str = "checkpoint-";

/// The folder of the checkpoint after `step` steps.
pub(crate) fn checkpoint_dir(output_dir: &Path, step: u64) -> PathBuf {
    output_dir.join(format!("{PREFIX}{step}"))
}

/// Where a folder is written before it takes its place.
pub(crate) fn scratch_dir(output_dir: &Path, name: &str) -> PathBuf {
    output_dir.join(hidden(name, INCOMPLETE))
}

/// Gives a folder that is written and synced its name, in place of one that has it.
pub(crate) fn put_in_place(
    disk: &dyn Disk,
    scratch: &Path,
    output_dir: &Path,
    name: &str,
) -> Result<PathBuf, TrainError> {
    let path = output_dir.join(name);
    let replaced = output_dir.join(hidden(name, REPLACED));
    let is_replaced = path.exists();
    if is_replaced {
        disk.rename(&path, &replaced).map_err(TrainError::io(&path))?;
    }
    disk.rename(scratch, &path).map_err(TrainError::io(&path)).inspect_err(|_| {
        if is_replaced {
            // If this fails, too, the next run brings it back.
            let _ = disk.rename(&replaced, &path);
        }
    })?;
    disk.sync_dir(output_dir).map_err(TrainError::io(output_dir))?;
    if is_replaced {
        remove_all(disk, &replaced)?;
    }
    Ok(path)
}

/// Deletes a folder.
pub(crate) fn remove(disk: &dyn Disk, path: &Path) -> Result<(), TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(hidden(&name, DELETED));
    disk.rename(path, &hidden).map_err(TrainError::io(path))?;
    // Else a power cut could bring back the name of what is half deleted.
    let dir = path.parent().unwrap_or(Path::new(""));
    disk.sync_dir(dir).map_err(TrainError::io(dir))?;
    remove_all(disk, &hidden)
}

/// Brings back what a run that ended was replacing, and deletes what it was writing or deleting.
///
/// # Errors
/// [`TrainError::Io`] for the first folder that cannot be deleted; all are tried.
pub(crate) fn recover(disk: &dyn Disk, output_dir: &Path) -> Result<(), TrainError> {
    let mut result = Ok(());
    for (name, ending) in leftovers(output_dir)? {
        let (leftover, place) = (output_dir.join(hidden(&name, &ending)), output_dir.join(&name));
        let done = if ending == REPLACED && !place.exists() {
            disk.rename(&leftover, &place).map_err(TrainError::io(&place))
        } else {
            remove_all(disk, &leftover)
        };
        result = result.and(done);
    }
    result
}

/// The folders `checkpoint-<number>`, by number; those that were being replaced when a run ended are among them.
/// Says which other folders of such a name it passes over.
pub(crate) fn numbered(output_dir: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let mut found = Vec::new();
    for name in names(output_dir)? {
        let path = output_dir.join(&name);
        match number(&name) {
            Some(number) if path.is_dir() => found.push((number, path)),
            _ if name.starts_with(PREFIX) => {
                tracing::warn!("skipping {}: not a folder `{PREFIX}<number>`", path.display());
            }
            _ => {}
        }
    }
    for (name, ending) in leftovers(output_dir)? {
        if ending == REPLACED
            && let Some(number) = number(&name)
            && !output_dir.join(&name).exists()
        {
            found.push((number, output_dir.join(hidden(&name, &ending))));
        }
    }
    found.sort();
    Ok(found)
}

fn number(name: &str) -> Option<u64> {
    // Not `+1` or `007`, which another program may mean otherwise.
    let number = name.strip_prefix(PREFIX)?;
    number.parse().ok().filter(|parsed: &u64| parsed.to_string() == number)
}

fn hidden(name: &str, ending: &str) -> String {
    format!(".{name}.{ending}")
}

/// Our hidden folders as name and ending.
fn leftovers(output_dir: &Path) -> Result<Vec<(String, String)>, TrainError> {
    let ours = |name: &String| {
        let (name, ending) = name.strip_prefix('.')?.rsplit_once('.')?;
        let is_ours =
            (number(name).is_some() || name == "best") && [INCOMPLETE, REPLACED, DELETED].contains(&ending);
        is_ours.then(|| (name.to_owned(), ending.to_owned()))
    };
    Ok(names(output_dir)?.iter().filter_map(ours).collect())
}

/// The names in a folder that are Unicode, in order.
fn names(output_dir: &Path) -> Result<Vec<String>, TrainError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(output_dir).map_err(TrainError::io(output_dir))? {
        let entry = entry.map_err(TrainError::io(output_dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Deletes a folder and everything in it, one operation of the disk after another.
fn remove_all(disk: &dyn Disk, dir: &Path) -> Result<(), TrainError> {
    for entry in fs::read_dir(dir).map_err(TrainError::io(dir))? {
        let entry = entry.map_err(TrainError::io(dir))?;
        let path = entry.path();
        // A link to a folder is a link.
        if entry.file_type().map_err(TrainError::io(&path))?.is_dir() {
            remove_all(disk, &path)?;
        } else {
            disk.remove_file(&path).map_err(TrainError::io(&path))?;
        }
    }
    disk.remove_dir(dir).map_err(TrainError::io(dir))
}

#[cfg(test)]
mod tests {
    use pyrograph_weights::SystemDisk;

    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for name in names {
            fs::create_dir_all(dir.path().join(name)).expect("made");
        }
        dir
    }

    #[test]
    fn only_whole_numbers_are_checkpoints() {
        let foreign =
            ["checkpoint-", "checkpoint-abc", "checkpoint-+1", "checkpoint-07", "checkpoint-1-tmp", "other"];
        let dir = folder(&[["checkpoint-12", "checkpoint-9"].as_slice(), &foreign].concat());
        fs::write(dir.path().join("checkpoint-5"), "a file").expect("written");
        let found: Vec<u64> =
            numbered(dir.path()).expect("listed").into_iter().map(|(number, _)| number).collect();
        assert_eq!(found, [9, 12]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_itself_is_no_checkpoint() {
        let dir = folder(&["checkpoint-1"]);
        std::os::unix::fs::symlink("checkpoint-2", dir.path().join("checkpoint-2")).expect("linked");
        assert_eq!(numbered(dir.path()).expect("listed").len(), 1);
    }

    #[test]
    fn what_was_being_replaced_comes_back_and_what_was_written_or_deleted_goes() {
        let left =
            [".checkpoint-1.replaced", ".checkpoint-2.replaced/file", ".checkpoint-3.incomplete/below"];
        let other =
            ["checkpoint-1", ".checkpoint-4.deleted", ".best.incomplete", ".checkpoint-notes.deleted"];
        let dir = folder(&[left.as_slice(), &other].concat());
        let before: Vec<u64> =
            numbered(dir.path()).expect("listed").into_iter().map(|(number, _)| number).collect();
        assert_eq!(before, [1, 2], "found even before it is back");
        recover(&SystemDisk, dir.path()).expect("recovered");
        assert_eq!(
            names(dir.path()).expect("listed"),
            [".checkpoint-notes.deleted", "checkpoint-1", "checkpoint-2"]
        );
        assert!(dir.path().join("checkpoint-2/file").is_dir());
    }
}

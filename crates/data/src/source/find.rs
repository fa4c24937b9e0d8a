//! What a folder or file is, and its shards.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::arrow::ArrowShard;
use super::paired_folders::{self, Lacking, Pairs};
use super::parquet::ParquetShard;
use super::root::{Files, Root, check_spelling};
use super::row::{Row, with_fill50k_names, with_imagefolder_names};
use super::shard::{Listed, Shard};
use super::split;
use super::tar::TarShard;
use super::text::TextShard;
use super::zip::{FolderAndZips, ZipFolder, Zips};
use super::{Columns, SourceOptions};
use crate::error::DataError;
use crate::quarantine::Quarantine;

/// How deep below the folder tables and archives are looked for: `default/train/0000.parquet`.
const MAX_DEPTH: usize = 3;
/// Files of a data set that are no pictures.
const MAX_SHARDS: usize = 100_000;

/// How a data set is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Layout {
    /// Images beside or below a `metadata.jsonl`, `metadata.csv` or `metadata.parquet` (Hugging Face `imagefolder`), maybe in
    /// a zip archive.
    ImageFolder,
    /// The original fill50k: `prompt.json` with one row per line, `source/`, `target/`.
    Fill50k,
    /// Two folders of images with equal stems, and `.txt` or `.caption` files beside the target images.
    PairedFolders,
    /// Parquet files with the pictures in them, as `push_to_hub` writes them.
    Parquet,
    /// What `save_to_disk` of Hugging Face's `datasets` writes.
    Arrow,
    /// Tar archives in webdataset's way.
    WebDataset,
    /// JSON lines or comma-separated values with paths, of which pictures may be in zip archives beside.
    Table,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ImageFolder => "imagefolder with metadata",
            Self::Fill50k => "fill50k with prompt.json",
            Self::PairedFolders => "paired folders with captions in text files",
            Self::Parquet => "Parquet",
            Self::Arrow => "Arrow, from save_to_disk",
            Self::WebDataset => "webdataset tar archives",
            Self::Table => "a table with paths",
        })
    }
}

/// A data set that was found.
pub(super) struct Found {
    pub(super) layout: Layout,
    pub(super) shards: Vec<Arc<dyn Shard>>,
    /// Files without their counterparts.
    pub(super) lacking: Lacking,
}

impl Found {
    fn of(layout: Layout, shards: Vec<Arc<dyn Shard>>) -> Self {
        Self { layout, shards, lacking: Lacking::default() }
    }
}

/// As [`find_all`], but no file may be without its counterpart.
pub(super) fn find(path: &Path, options: &SourceOptions) -> Result<Found, DataError> {
    let found = find_all(path, options)?;
    found.lacking.error(&Quarantine::default()).map_or(Ok(found), Err)
}

/// Finds out what a path is. What comes first here wins where a folder could be read in more than one way.
pub(super) fn find_all(path: &Path, options: &SourceOptions) -> Result<Found, DataError> {
    let finder = Finder { options };
    if let Some(hints) = &options.hint_dir {
        return Ok(listed(path, paired_folders::read_apart(path, hints)?));
    }
    if path.is_file() {
        return finder.file(path)?.ok_or_else(|| DataError::UnknownLayout { dir: path.to_owned() });
    }
    let folder = match &options.config {
        None => path.to_owned(),
        Some(config) => config_folder(path, config)?,
    };
    finder.folder(&folder)?.ok_or(DataError::UnknownLayout { dir: folder })
}

/// The sub-folder of a configuration.
fn config_folder(dir: &Path, config: &str) -> Result<PathBuf, DataError> {
    check_spelling(config)?;
    let candidates = [dir.join(config), dir.join("data").join(config)];
    candidates.into_iter().find(|folder| folder.is_dir()).ok_or_else(|| {
        let mut found: Vec<String> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with('.'))
            .collect();
        found.sort();
        DataError::UnknownConfig { dir: dir.to_owned(), config: config.to_owned(), found }
    })
}

fn listed(path: &Path, Pairs { samples, lacking }: Pairs) -> Found {
    let shards: Vec<Arc<dyn Shard>> = vec![Arc::new(Listed { path: path.into(), samples })];
    Found { layout: Layout::PairedFolders, shards, lacking }
}

struct Finder<'a> {
    options: &'a SourceOptions,
}

impl Finder<'_> {
    fn columns(&self) -> Columns {
        self.options.columns.clone()
    }

    fn split(&self) -> &str {
        &self.options.split
    }

    fn file(&self, file: &Path) -> Result<Option<Found>, DataError> {
        let one = |layout, shard: Arc<dyn Shard>| Ok(Some(Found::of(layout, vec![shard])));
        match extension(file).as_str() {
            "parquet" => one(Layout::Parquet, self.parquet(file, file.parent(), |row| row)?),
            "arrow" => one(Layout::Arrow, self.arrow(file, file.parent())?),
            "tar" => one(Layout::WebDataset, self.tar(file)),
            "zip" => self.zip(file),
            "jsonl" | "json" | "csv" => one(Layout::Table, self.table(file)?),
            _ => Ok(None),
        }
    }

    fn folder(&self, dir: &Path) -> Result<Option<Found>, DataError> {
        if dir.join("dataset_dict.json").is_file() {
            let split = self.split();
            check_spelling(split)?;
            let folder = dir.join(split);
            if !folder.join("state.json").is_file() {
                let found = subfolders_with(dir, "state.json");
                return Err(DataError::UnknownSplit { dir: dir.to_owned(), split: split.to_owned(), found });
            }
            return self.saved_to_disk(&folder).map(Some);
        }
        if dir.join("state.json").is_file() && dir.join("dataset_info.json").is_file() {
            return self.saved_to_disk(dir).map(Some);
        }
        if let Some(found) = self.imagefolder(dir)? {
            return Ok(Some(found));
        }
        let prompts = dir.join("prompt.json");
        if prompts.is_file() {
            let files = Arc::new(Root::new(dir)?);
            let shard = self.text(&prompts, files, with_fill50k_names);
            return Ok(Some(Found::of(Layout::Fill50k, vec![shard])));
        }
        let mut files = Vec::new();
        collect_files(dir, &["parquet", "tar", "arrow"], MAX_DEPTH, &mut files)?;
        for (end, layout) in
            [("parquet", Layout::Parquet), ("tar", Layout::WebDataset), ("arrow", Layout::Arrow)]
        {
            let of_kind: Vec<&PathBuf> = files.iter().filter(|file| extension(file) == end).collect();
            if of_kind.is_empty() {
                continue;
            }
            let shards = split::choose(dir, &of_kind, self.split())?
                .into_iter()
                .map(|file| match layout {
                    Layout::Parquet => self.parquet(file, Some(dir), |row| row),
                    Layout::Arrow => self.arrow(file, Some(dir)),
                    _ => Ok(self.tar(file)),
                })
                .collect::<Result<_, _>>()?;
            return Ok(Some(Found::of(layout, shards)));
        }
        // A folder of captioned pictures may have a table of anything beside, and one with a table no captions.
        let folders = paired_folders::find(dir, &self.options.columns)?;
        if folders.as_ref().is_none_or(|folders| !folders.has_captions())
            && let Some(found) = self.only_table(dir)?
        {
            return Ok(Some(found));
        }
        folders.map(|folders| Ok(listed(dir, paired_folders::read(&folders)?))).transpose()
    }

    /// `metadata.*` in the folder itself or in that of the split.
    fn imagefolder(&self, dir: &Path) -> Result<Option<Found>, DataError> {
        const NAMES: [&str; 3] = ["metadata.jsonl", "metadata.csv", "metadata.parquet"];
        let split = self.split();
        check_spelling(split)?;
        let in_split = NAMES.map(|name| format!("{split}/{name}"));
        let names: Vec<&str> = NAMES.into_iter().chain(in_split.iter().map(String::as_str)).collect();
        // A folder with the metadata of all splits has them in the folders of the splits.
        let Some(metadata) = find_one(dir, &names)? else {
            let found = subfolders_with_any(dir, &NAMES);
            if found.is_empty() || split == split::TRAIN {
                return Ok(None);
            }
            return Err(DataError::UnknownSplit { dir: dir.to_owned(), split: split.to_owned(), found });
        };
        let shard: Arc<dyn Shard> = if extension(&metadata) == "parquet" {
            self.parquet(&metadata, metadata.parent(), with_imagefolder_names)?
        } else {
            self.text(&metadata, Arc::new(Root::beside(&metadata)?), with_imagefolder_names)
        };
        Ok(Some(Found::of(Layout::ImageFolder, vec![shard])))
    }

    /// The only table or zip archive of a folder, or that of the split: `train.jsonl` with `images.zip` beside.
    fn only_table(&self, dir: &Path) -> Result<Option<Found>, DataError> {
        let mut files = Vec::new();
        collect_files(dir, &["jsonl", "csv", "zip"], 1, &mut files)?;
        let (zips, tables): (Vec<&PathBuf>, Vec<&PathBuf>) =
            files.iter().partition(|file| extension(file) == "zip");
        if !tables.is_empty() {
            return match split::choose(dir, &tables, self.split())?.as_slice() {
                [table] => Ok(Some(Found::of(Layout::Table, vec![self.table(table)?]))),
                several => Err(ambiguous(dir, several)),
            };
        }
        match split::choose(dir, &zips, self.split())?.as_slice() {
            [] => Ok(None),
            [zip] => self.zip(zip),
            several => Err(ambiguous(dir, several)),
        }
    }

    fn saved_to_disk(&self, dir: &Path) -> Result<Found, DataError> {
        #[derive(Deserialize)]
        struct State {
            #[serde(rename = "_data_files")]
            data_files: Vec<DataFile>,
        }
        #[derive(Deserialize)]
        struct DataFile {
            filename: String,
        }
        let path = dir.join("state.json");
        let damaged = |reason: String| DataError::DamagedTable { path: path.clone(), reason };
        let bytes = crate::content::Content::File(path.clone()).read()?;
        let state: State = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let root = Root::new(dir)?;
        let shards = state
            .data_files
            .iter()
            .map(|file| self.arrow(&root.file(&file.filename)?, Some(dir)))
            .collect::<Result<_, _>>()?;
        Ok(Found::of(Layout::Arrow, shards))
    }

    fn zip(&self, file: &Path) -> Result<Option<Found>, DataError> {
        let mut zips = Zips::default();
        zips.add(file)?;
        let zips = Arc::new(zips);
        let split = self.split();
        let mut metadata: Vec<&str> = [".jsonl", ".csv", "prompt.json"]
            .iter()
            .flat_map(|end| zips.names_ending(end))
            .filter(|name| !name.starts_with("__MACOSX/"))
            .collect();
        let is_of_split = |name: &&str| name.split('/').any(|part| part == split);
        if metadata.len() > 1 && metadata.iter().any(is_of_split) {
            metadata.retain(is_of_split);
        }
        let [name] = metadata.as_slice() else {
            return if metadata.is_empty() {
                Err(DataError::NoTableInArchive { path: file.to_owned() })
            } else {
                let found = metadata.iter().map(|name| format!("`{name}`")).collect();
                Err(DataError::AmbiguousLayout { dir: file.to_owned(), found })
            };
        };
        let (layout, rename): (_, fn(Row) -> Row) = if name.ends_with("prompt.json") {
            (Layout::Fill50k, with_fill50k_names)
        } else {
            (Layout::ImageFolder, with_imagefolder_names)
        };
        let prefix = name.rfind('/').map_or("", |slash| &name[..=slash]).to_owned();
        let folder = ZipFolder { zips: Arc::clone(&zips), prefix };
        let text = folder.content(name.rsplit('/').next().unwrap_or_default())?;
        let shard = TextShard {
            file: PathBuf::from(text.to_string()).into(),
            text: Some(text),
            columns: self.columns(),
            rename,
            files: Arc::new(folder),
        };
        Ok(Some(Found::of(layout, vec![Arc::new(shard)])))
    }

    /// A file of rows, and the zip archives beside it.
    fn table(&self, file: &Path) -> Result<Arc<dyn Shard>, DataError> {
        let root = Root::beside(file)?;
        let mut archives = Vec::new();
        collect_files(file.parent().unwrap_or(Path::new(".")), &["zip"], 1, &mut archives)?;
        let mut zips = Zips::default();
        for archive in &archives {
            zips.add(archive)?;
        }
        let files = FolderAndZips { root, zips: Arc::new(zips) };
        let names = |row| with_imagefolder_names(with_fill50k_names_if_it_has_them(row));
        Ok(self.text(file, Arc::new(files), names))
    }

    fn text(&self, file: &Path, files: Arc<dyn Files>, rename: fn(Row) -> Row) -> Arc<dyn Shard> {
        Arc::new(TextShard { file: file.into(), text: None, columns: self.columns(), rename, files })
    }

    fn parquet(
        &self,
        file: &Path,
        dir: Option<&Path>,
        rename: fn(Row) -> Row,
    ) -> Result<Arc<dyn Shard>, DataError> {
        let files = Arc::new(Root::beside(file)?);
        let id = relative(file, dir);
        Ok(Arc::new(ParquetShard { file: file.into(), id, columns: self.columns(), rename, files }))
    }

    fn arrow(&self, file: &Path, dir: Option<&Path>) -> Result<Arc<dyn Shard>, DataError> {
        let files = Arc::new(Root::beside(file)?);
        let id = relative(file, dir);
        Ok(Arc::new(ArrowShard { file: file.into(), id, columns: self.columns(), files }))
    }

    fn tar(&self, file: &Path) -> Arc<dyn Shard> {
        Arc::new(TarShard { file: file.into(), columns: self.columns(), made_from: None })
    }
}

fn with_fill50k_names_if_it_has_them(row: Row) -> Row {
    let has = |column: &str| row.0.iter().any(|(name, _)| name == column);
    if has("source") && has("target") && has("prompt") { with_fill50k_names(row) } else { row }
}

fn ambiguous(dir: &Path, files: &[&PathBuf]) -> DataError {
    let found = files.iter().map(|file| format!("`{}`", relative(file, Some(dir)))).collect();
    DataError::AmbiguousLayout { dir: dir.to_owned(), found }
}

/// The name of a file below a folder, with slashes.
pub(super) fn relative(file: &Path, dir: Option<&Path>) -> Arc<str> {
    let name = dir.and_then(|dir| file.strip_prefix(dir).ok()).unwrap_or(file);
    let parts: Vec<_> = name.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/").into()
}

fn extension(file: &Path) -> String {
    file.extension().map(|end| end.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

/// The files below a folder with these extensions, in the order of their names. Links out of it are left alone.
fn collect_files(dir: &Path, ends: &[&str], depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let unreadable = |source| DataError::Read { path: dir.to_owned(), source };
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let kind = entry.file_type().map_err(unreadable)?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        let is_wanted = ends.contains(&extension(Path::new(&name)).as_str());
        if kind.is_dir() {
            // A folder of a million pictures is looked at only once, by its own layout.
            if depth > 1 {
                entries.push((entry.path(), true));
            }
        } else if is_wanted && entry.path().is_file() {
            entries.push((entry.path(), false));
        }
    }
    entries.sort();
    for (path, is_dir) in entries {
        if is_dir {
            collect_files(&path, ends, depth - 1, files)?;
        } else if files.len() < MAX_SHARDS {
            files.push(path);
        } else {
            return Err(DataError::TooManyShards { dir: dir.to_owned(), max: MAX_SHARDS });
        }
    }
    Ok(())
}

fn subfolders_with(dir: &Path, file: &str) -> Vec<String> {
    subfolders_with_any(dir, &[file])
}

fn subfolders_with_any(dir: &Path, files: &[&str]) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let has_one = |entry: &fs::DirEntry| files.iter().any(|file| entry.path().join(file).is_file());
    let mut names: Vec<String> =
        entries.filter(has_one).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The one of `names` that is a file below `dir`; more than one is an error.
fn find_one(dir: &Path, names: &[&str]) -> Result<Option<PathBuf>, DataError> {
    let found: Vec<&str> = names.iter().copied().filter(|name| dir.join(name).is_file()).collect();
    match found.as_slice() {
        [] => Ok(None),
        [name] => Ok(Some(dir.join(name))),
        _ => Err(DataError::AmbiguousLayout {
            dir: dir.to_owned(),
            found: found.into_iter().map(|name| format!("`{name}`")).collect(),
        }),
    }
}

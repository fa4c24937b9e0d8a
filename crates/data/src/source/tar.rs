//! Tar archives in webdataset's way: the members of one sample have one name up to the first dot of the base name and stand
//! one after another; what follows the dot says what a member is.
//!
//! ```text
//! 0001.jpg  0001.conditioning_image.png  0001.txt      0001.json: {"text": "..."}
//! ```
//!
//! Source: webdataset's format, <https://huggingface.co/docs/hub/datasets-webdataset>.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::root::{Files, check_spelling};
use super::row::{Cell, MAX_CAPTION_BYTES, Row, in_row};
use super::sample::{Columns, Origin};
use super::shard::{Samples, Shard};
use crate::content::{Container, Content, Packing, Part};
use crate::error::{DataError, TableFault};

const BLOCK: u64 = 512;
/// A name that does not fit in a header has a member of its own before it.
const MAX_NAME_BYTES: u64 = 4096 + 512;
/// Members of one sample: a picture, a hint, captions and what else a pipeline leaves behind.
const MAX_SAMPLE_MEMBERS: usize = 256;

const PICTURES: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"];
const IMAGES: [&str; 4] = ["image", "img", "target", "original"];
const HINTS: [&str; 8] =
    ["conditioning_image", "conditioning", "cond", "control", "control_image", "hint", "source", "condition"];
const CAPTIONS: [&str; 4] = ["txt", "text", "caption", "prompt"];

/// A tar archive.
#[derive(Debug)]
pub(super) struct TarShard {
    pub(super) file: Arc<Path>,
    pub(super) columns: Columns,
    /// What its rows come from, if it was made from another file; their names are those of its members without one.
    pub(super) made_from: Option<(Arc<Path>, Arc<str>)>,
}

impl TarShard {
    /// Whether it is an archive from its beginning to the blocks that mark its end.
    pub(super) fn is_whole(&self) -> bool {
        let Ok(mut members) = self.members() else { return false };
        while let Some(member) = members.next() {
            if member.map_or(true, |member| member.fault.is_some()) {
                return false;
            }
        }
        members.has_end
    }

    fn members(&self) -> Result<Members, DataError> {
        let unreadable = |source| DataError::Read { path: self.file.to_path_buf(), source };
        let open = File::open(&self.file).map_err(unreadable)?;
        let container = Arc::new(Container::of(&self.file, &open)?);
        Ok(Members { open, container, next: 0, has_ended: false, has_end: false })
    }
}

impl Shard for TarShard {
    fn path(&self) -> &Path {
        &self.file
    }

    fn count(&self) -> Result<usize, DataError> {
        let mut groups = Groups { members: self.members()?, ahead: None };
        let mut count = 0;
        while let Some(group) = groups.next() {
            match group {
                Ok(_) | Err(GroupFault::Sample(_)) => count += 1,
                Err(GroupFault::File(error)) => return Err(error),
            }
        }
        Ok(count)
    }

    fn samples(&self, first: usize) -> Result<Samples, DataError> {
        let mut groups = Groups { members: self.members()?, ahead: None };
        let (columns, made_from, file) =
            (self.columns.clone(), self.made_from.clone(), Arc::clone(&self.file));
        let mut place = 0;
        let mut has_ended = false;
        Ok(Box::new(std::iter::from_fn(move || {
            loop {
                if has_ended {
                    return None;
                }
                let group = groups.next()?;
                if let Err(GroupFault::File(error)) = group {
                    has_ended = true;
                    return Some(Err(error));
                }
                place += 1;
                if place <= first {
                    continue;
                }
                let origin_file = made_from.as_ref().map_or(&file, |(file, _)| file);
                let origin = Origin { file: Arc::clone(origin_file), row: place };
                return Some(match group {
                    Ok(members) => sample(&members, &columns, made_from.as_ref(), origin),
                    Err(GroupFault::Sample(error) | GroupFault::File(error)) => Err(in_row(origin, error)),
                });
            }
        })))
    }
}

fn sample(
    members: &[Member],
    columns: &Columns,
    made_from: Option<&(Arc<Path>, Arc<str>)>,
    origin: Origin,
) -> Result<super::sample::Sample, DataError> {
    let row = match row(members, columns, made_from.is_some()) {
        Ok(row) => row,
        Err(error) => return Err(in_row(origin, error)),
    };
    let place = origin.row;
    let unnamed = || match made_from {
        Some((_, id)) => format!("{id}:{place}"),
        None => members.first().map_or_else(String::new, |member| member.key().to_owned()),
    };
    row.sample(columns, &NoFiles, origin, unnamed)
}

/// A path in an archive's metadata names no file.
#[derive(Debug)]
struct NoFiles;

impl Files for NoFiles {
    fn content(&self, relative: &str) -> Result<Content, DataError> {
        check_spelling(relative)?;
        Err(DataError::NotInArchive { name: relative.chars().take(200).collect() })
    }
}

/// The CRC-32 of the pictures of a sample, which are in the `.json` of archives that we make.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Checksums {
    #[serde(rename = "image.crc32")]
    pub(super) image: Option<u32>,
    #[serde(rename = "conditioning_image.crc32")]
    pub(super) hint: Option<u32>,
}

/// The columns that the members are, by what their names end with.
fn row(members: &[Member], columns: &Columns, is_ours: bool) -> Result<Row, DataError> {
    let mut row = Row::default();
    let metadata = members.iter().find(|member| member.field() == "json").map(Member::text).transpose()?;
    if let Some(bytes) = &metadata {
        let Row(cells) = serde_json::from_slice(bytes).map_err(|source| DataError::InvalidJson { source })?;
        row.0.extend(cells);
    }
    let checksums: Checksums = match &metadata {
        Some(bytes) if is_ours => {
            serde_json::from_slice(bytes).map_err(|source| DataError::InvalidJson { source })?
        }
        _ => Checksums::default(),
    };
    let mut add = |column: &str, cell| {
        row.0.retain(|(name, _)| name != column);
        row.0.push((column.to_owned(), cell));
    };
    let defaults = Columns::default();
    let find = |column: &str, names: &[&str]| members.iter().find(|member| member.is_named(column, names));
    // The names that are usual go with the default column only: another one is meant as it is.
    let usual = |column: &str, default: &str, names: &'static [&'static str]| {
        if column == default { names } else { &[] }
    };
    let hint =
        columns.hint.as_ref().and_then(|hint| find(hint, usual(hint, defaults.hint_or_image(), &HINTS)));
    let image = find(&columns.image, usual(&columns.image, &defaults.image, &IMAGES)).or_else(|| {
        // The only plain picture: `0001.jpg`.
        let mut plain = members.iter().filter(|member| PICTURES.contains(&member.field()));
        plain.next().filter(|_| plain.next().is_none() && columns.image == defaults.image)
    });
    for member in members {
        add(member.field(), Cell::Other(format!("`{}`", member.name)));
    }
    if let Some(image) = image {
        add(&columns.image, Cell::Picture(image.content(checksums.image), None));
    }
    if let Some(hint) = hint {
        add(columns.hint_or_image(), Cell::Picture(hint.content(checksums.hint), None));
    }
    let caption = find(&columns.caption, usual(&columns.caption, &defaults.caption, &CAPTIONS));
    if let Some(member) = caption {
        let bytes = member.text()?;
        let text =
            std::str::from_utf8(&bytes).map_err(|_| DataError::NotText { name: member.name.clone() })?;
        add(&columns.caption, Cell::Texts(super::captions_of(text)));
    }
    Ok(row)
}

/// A file in the archive.
#[derive(Debug)]
struct Member {
    name: String,
    /// Why it cannot be used.
    fault: Option<DataError>,
    container: Arc<Container>,
    start: u64,
    len: u64,
}

impl Member {
    /// The name up to the first dot of the base name.
    fn key(&self) -> &str {
        &self.name[..self.name.len() - self.base().len() + self.base().find('.').unwrap_or(self.base().len())]
    }

    /// What follows that dot.
    fn field(&self) -> &str {
        self.base().split_once('.').map_or("", |(_, field)| field)
    }

    fn base(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }

    /// Whether it is `KEY.column`, `KEY.column.png`, or so with one of the names.
    fn is_named(&self, column: &str, names: &[&str]) -> bool {
        let field = self.field();
        let stem = field.rsplit_once('.').filter(|(_, end)| PICTURES.contains(end) || *end == "txt");
        let is = |name: &str| field == name || stem.is_some_and(|(stem, _)| stem == name);
        is(column) || names.iter().any(|name| is(name))
    }

    fn content(&self, crc32: Option<u32>) -> Content {
        Content::Part(Part {
            container: Arc::clone(&self.container),
            name: self.name.as_str().into(),
            start: self.start,
            stored_len: self.len,
            len: self.len,
            packing: Packing::Stored,
            crc32,
        })
    }

    fn text(&self) -> Result<Arc<[u8]>, DataError> {
        if self.len > MAX_CAPTION_BYTES as u64 {
            return Err(DataError::LineTooLong { max_bytes: MAX_CAPTION_BYTES });
        }
        self.content(None).read()
    }
}

enum GroupFault {
    /// Of one sample.
    Sample(DataError),
    /// Of the whole file.
    File(DataError),
}

/// Members with one key that stand together.
struct Groups {
    members: Members,
    ahead: Option<Member>,
}

impl Groups {
    fn next(&mut self) -> Option<Result<Vec<Member>, GroupFault>> {
        let mut group: Vec<Member> = Vec::new();
        let mut fault = None;
        while let Some(member) = self.ahead.take().map(Ok).or_else(|| self.members.next()) {
            let mut member = match member {
                Ok(member) => member,
                Err(error) => return Some(Err(GroupFault::File(error))),
            };
            if group.first().is_some_and(|first| first.key() != member.key()) {
                self.ahead = Some(member);
                break;
            }
            fault = fault.or(member.fault.take());
            if group.len() < MAX_SAMPLE_MEMBERS {
                group.push(member);
            } else {
                fault = fault.or(Some(DataError::TooManyMembers { max: MAX_SAMPLE_MEMBERS }));
            }
        }
        match fault {
            Some(fault) => Some(Err(GroupFault::Sample(fault))),
            None if group.is_empty() => None,
            None => Some(Ok(group)),
        }
    }
}

/// The files of an archive, one after another; what they hold is passed over.
struct Members {
    open: File,
    container: Arc<Container>,
    next: u64,
    has_ended: bool,
    /// Whether the end was marked.
    has_end: bool,
}

impl Members {
    fn next(&mut self) -> Option<Result<Member, DataError>> {
        if self.has_ended {
            return None;
        }
        let member = self.read();
        self.has_ended = !matches!(member, Ok(Some(_)));
        member.transpose()
    }

    fn damaged(&self, reason: impl Into<String>) -> DataError {
        DataError::DamagedTable { path: self.container.path().to_owned(), reason: reason.into() }
    }

    fn bytes(&mut self, start: u64, len: u64) -> Result<Vec<u8>, DataError> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.open
            .seek(SeekFrom::Start(start))
            .and_then(|_| self.open.read_exact(&mut bytes))
            .map_err(|source| DataError::Read { path: self.container.path().to_owned(), source })?;
        Ok(bytes)
    }

    fn read(&mut self) -> Result<Option<Member>, DataError> {
        let mut long_name = None;
        loop {
            let position = self.next;
            if position + BLOCK > self.container.len() {
                // Some writers leave out the two empty blocks at the end.
                return if position == self.container.len() {
                    Ok(None)
                } else {
                    Err(self.damaged("it breaks off"))
                };
            }
            let block = self.bytes(position, BLOCK)?;
            if block.iter().all(|&byte| byte == 0) {
                self.has_end = true;
                return Ok(None);
            }
            let header = tar::Header::from_byte_slice(&block);
            let size = self.checked_size(header, &block, position)?;
            let start = position + BLOCK;
            self.next = start + size.div_ceil(BLOCK) * BLOCK;
            let kind = header.entry_type();
            if kind.is_gnu_longname() || kind.is_pax_local_extensions() {
                if size > MAX_NAME_BYTES {
                    let path = self.container.path().to_owned();
                    let fault = TableFault::LongName { bytes: size, max: MAX_NAME_BYTES };
                    return Err(DataError::RefusedTable { path, fault });
                }
                let bytes = self.bytes(start, size)?;
                let name = if kind.is_gnu_longname() { Some(bytes) } else { pax_path(&bytes) };
                long_name = name.or(long_name);
                continue;
            }
            if kind.is_pax_global_extensions() || kind.is_gnu_longlink() || kind.is_dir() {
                continue;
            }
            let raw = long_name.take().unwrap_or_else(|| header.path_bytes().into_owned());
            let name = String::from_utf8_lossy(raw.strip_suffix(b"\0").unwrap_or(&raw)).into_owned();
            let name = name.strip_prefix("./").map_or(name.clone(), str::to_owned);
            let fault = if kind.is_file() {
                check_spelling(&name).err()
            } else {
                Some(DataError::NotAPlainMember { name: name.clone() })
            };
            // Files that macOS adds, and hidden ones.
            if name.rsplit('/').next().is_some_and(|base| base.starts_with('.')) {
                continue;
            }
            let container = Arc::clone(&self.container);
            return Ok(Some(Member { name, fault, container, start, len: size }));
        }
    }

    fn checked_size(&self, header: &tar::Header, block: &[u8], position: u64) -> Result<u64, DataError> {
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(place, &byte)| if (148..156).contains(&place) { 32 } else { u32::from(byte) })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(self.damaged(format!("there is no header at byte {position}")));
        }
        let size = header.entry_size().map_err(|error| self.damaged(error.to_string()))?;
        if size > self.container.len() - position - BLOCK {
            return Err(self.damaged(format!("the member at byte {position} is longer than the file")));
        }
        Ok(size)
    }
}

/// The path of a pax header.
fn pax_path(bytes: &[u8]) -> Option<Vec<u8>> {
    tar::PaxExtensions::new(bytes)
        .flatten()
        .filter(|extension| extension.key_bytes() == b"path")
        .last()
        .map(|extension| extension.value_bytes().to_vec())
}

//! Files of weights, read a tensor at a time, and safetensors, written a tensor at a time.
//!
//! Files are read by position, in pieces that stay in the processor's cache until they are converted, instead of being
//! mapped into memory: there is no second copy either way, but a file that shrinks while it is read is then an error of
//! ours and not a SIGBUS, the pages do not count as the process's memory, and no `unsafe` is needed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::Serialize;

use crate::disk::Disk;
use crate::error::{Malformed, WeightsError, is_pickle_name};
use crate::pickle::{self, Pickles};
use crate::places::Part;

/// The bytes that hold the header's length.
const LENGTH_BYTES: u64 = 8;

/// The header limit of the reference implementation (safetensors 0.8, `MAX_HEADER_SIZE`).
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// What is read and converted at a time: it fits the second cache level.
const PIECE_ELEMENTS: usize = 1 << 16;

/// What the header says about one tensor.
#[derive(Debug, Clone)]
pub(crate) struct TensorEntry {
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: Dtype,
    place: Place,
    /// Of the bytes at that place, those that come before this tensor's.
    skipped: usize,
    bytes: usize,
    /// Which of the files.
    file: usize,
    /// Whether `shape` is that of the matrix with rows and columns exchanged.
    pub(crate) is_transposed: bool,
}

/// Where the bytes of a tensor are.
#[derive(Debug, Clone)]
enum Place {
    /// At this offset of a safetensors file.
    At(u64),
    /// Somewhere in a pickled file, perhaps not in order.
    Pickled(pytorch_reader::Tensor),
}

impl TensorEntry {
    /// The number of elements; the header's check has shown that the product fits.
    pub(crate) fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
    }

    fn new(shape: Vec<usize>, dtype: Dtype, place: Place, bytes: usize, file: usize) -> Self {
        Self { shape, dtype, place, skipped: 0, bytes, file, is_transposed: false }
    }

    /// A part of this tensor as a tensor; `None` if it cannot be cut so.
    pub(crate) fn part(&self, part: Part) -> Option<Self> {
        let mut entry = self.clone();
        match part {
            // A convolution fills a linear map as it is.
            Part::Whole | Part::Pointwise => {}
            Part::Transposed => {
                let &[rows, columns] = self.shape.as_slice() else { return None };
                entry.shape = vec![columns, rows];
                entry.is_transposed = !self.is_transposed;
            }
            Part::Third(idx) => {
                let rows = entry.shape.first_mut().filter(|rows| rows.is_multiple_of(3))?;
                *rows /= 3;
                entry.bytes /= 3;
                entry.skipped += idx * entry.bytes;
            }
        }
        Some(entry)
    }
}

/// One or more files seen as one set of tensors, of which only the headers are in memory.
#[derive(Debug)]
pub(crate) struct Archive {
    files: Vec<(PathBuf, File)>,
    pub(crate) entries: BTreeMap<String, TensorEntry>,
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Archive {
    /// Opens one file or all shards of a model.
    pub(crate) fn open(paths: &[PathBuf], pickles: Pickles) -> Result<Self, WeightsError> {
        let mut archive = Self { files: Vec::new(), entries: BTreeMap::new(), metadata: BTreeMap::new() };
        for path in paths {
            archive.add(path, pickles)?;
        }
        Ok(archive)
    }

    fn add(&mut self, path: &Path, pickles: Pickles) -> Result<(), WeightsError> {
        let (mut file, length) = open_file(path)?;
        let index = self.files.len();
        let mut entries = Vec::new();
        match read_header(path, &mut file, length) {
            Ok(header) => {
                for (name, info) in header.metadata.tensors() {
                    let (start, end) = info.data_offsets;
                    let place = Place::At(header.data_start + start as u64);
                    let (shape, dtype, bytes) = (info.shape.clone(), info.dtype, end - start);
                    entries.push((name, TensorEntry::new(shape, dtype, place, bytes, index)));
                }
                self.metadata.extend(header.metadata.metadata().clone().unwrap_or_default());
            }
            Err(WeightsError::Pickle { .. }) if pickles == Pickles::Allowed => {
                for (name, tensor) in pickle::tensors(path)? {
                    let (shape, dtype) = (tensor.shape().to_vec(), pickle::dtype_of(&tensor));
                    let (bytes, place) = (tensor.byte_len(), Place::Pickled(tensor));
                    entries.push((name, TensorEntry::new(shape, dtype, place, bytes, index)));
                }
            }
            Err(error) => return Err(error),
        }
        for (name, entry) in entries {
            if let Some(first) = self.entries.insert(name.clone(), entry) {
                return Err(WeightsError::DuplicateTensor {
                    name,
                    first: self
                        .files
                        .get(first.file)
                        .map_or_else(|| path.to_owned(), |(path, _)| path.clone()),
                    second: path.to_owned(),
                });
            }
        }
        self.files.push((path.to_owned(), file));
        Ok(())
    }

    /// The bytes of one of our entries, row after row.
    pub(crate) fn bytes(&self, entry: &TensorEntry) -> Result<Vec<u8>, WeightsError> {
        let (path, file) = &self.files[entry.file];
        let bytes = match &entry.place {
            Place::At(offset) => {
                let mut bytes = vec![0; entry.bytes];
                read_exact_at(file, &mut bytes, offset + entry.skipped as u64).map(|()| bytes)
            }
            Place::Pickled(tensor) => tensor.read().map(|mut bytes| {
                bytes.drain(..entry.skipped);
                bytes.truncate(entry.bytes);
                bytes
            }),
        };
        bytes.map_err(|source| WeightsError::Read { path: path.clone(), source })
    }

    /// The values of a floating-point tensor in the order of the file; `None` if it is not floating point.
    pub(crate) fn read_f32(&self, entry: &TensorEntry) -> Result<Option<Vec<f32>>, WeightsError> {
        if !entry.is_float() {
            return Ok(None);
        }
        let mut values = vec![0.0; entry.n_elements()];
        let Place::At(mut offset) = entry.place else {
            to_f32(&self.bytes(entry)?, entry.dtype, &mut values);
            return Ok(Some(values));
        };
        offset += entry.skipped as u64;
        let (path, file) = &self.files[entry.file];
        let element_bytes = entry.dtype.bitsize() / 8;
        let mut piece = vec![0; entry.bytes.min(PIECE_ELEMENTS * element_bytes)];
        for values in values.chunks_mut(PIECE_ELEMENTS) {
            let piece = &mut piece[..values.len() * element_bytes];
            read_exact_at(file, piece, offset)
                .map_err(|source| WeightsError::Read { path: path.clone(), source })?;
            to_f32(piece, entry.dtype, values);
            offset += piece.len() as u64;
        }
        Ok(Some(values))
    }

    /// A tensor in its own element type.
    pub(crate) fn read_data(&self, name: &str, entry: &TensorEntry) -> Result<TensorData, WeightsError> {
        let bytes = self.bytes(entry)?;
        let shape = entry.shape.clone();
        Ok(match entry.dtype {
            Dtype::F64 => TensorData::new(elements(&bytes, f64::from_le_bytes), shape),
            Dtype::F32 => TensorData::new(elements(&bytes, f32::from_le_bytes), shape),
            Dtype::F16 => TensorData::new(elements(&bytes, f16::from_le_bytes), shape),
            Dtype::BF16 => TensorData::new(elements(&bytes, bf16::from_le_bytes), shape),
            Dtype::I64 => TensorData::new(elements(&bytes, i64::from_le_bytes), shape),
            Dtype::I32 => TensorData::new(elements(&bytes, i32::from_le_bytes), shape),
            Dtype::I16 => TensorData::new(elements(&bytes, i16::from_le_bytes), shape),
            Dtype::I8 => TensorData::new(elements(&bytes, i8::from_le_bytes), shape),
            Dtype::U64 => TensorData::new(elements(&bytes, u64::from_le_bytes), shape),
            Dtype::U32 => TensorData::new(elements(&bytes, u32::from_le_bytes), shape),
            Dtype::U16 => TensorData::new(elements(&bytes, u16::from_le_bytes), shape),
            Dtype::U8 => TensorData::new(bytes, shape),
            Dtype::BOOL => TensorData::new(elements(&bytes, |[byte]| byte != 0), shape),
            dtype => {
                return Err(WeightsError::UnsupportedDtype {
                    path: self.files[entry.file].0.clone(),
                    name: name.to_owned(),
                    dtype: dtype.to_string(),
                });
            }
        })
    }

    /// All files together, in bytes of tensor data.
    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes as u64).sum()
    }
}

/// Converts floating-point numbers as a file has them; there are as many `values` as `bytes` hold.
fn to_f32(bytes: &[u8], dtype: Dtype, values: &mut [f32]) {
    match dtype {
        Dtype::F16 => elements(bytes, f16::from_le_bytes).convert_to_f32_slice(values),
        Dtype::BF16 => elements(bytes, bf16::from_le_bytes).convert_to_f32_slice(values),
        Dtype::F64 => values.copy_from_slice(&elements(bytes, |bytes| narrow(f64::from_le_bytes(bytes)))),
        _ => values.copy_from_slice(&elements(bytes, f32::from_le_bytes)),
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n_read => {
                bytes = &mut bytes[n_read..];
                offset += n_read as u64;
            }
        }
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "a weight stored in f64 is used in f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn elements<const SIZE: usize, E>(bytes: &[u8], element: impl Fn([u8; SIZE]) -> E) -> Vec<E> {
    let (chunks, _) = bytes.as_chunks::<SIZE>();
    chunks.iter().map(|&chunk| element(chunk)).collect()
}

fn open_file(path: &Path) -> Result<(File, u64), WeightsError> {
    let unreadable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => WeightsError::NotFound { path: path.to_owned() },
        _ => WeightsError::Read { path: path.to_owned(), source },
    };
    let file = File::open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    if !about.is_file() {
        return Err(unreadable(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
    }
    Ok((file, about.len()))
}

struct Header {
    metadata: Metadata,
    data_start: u64,
}

/// Reads and checks the header, and that the file is exactly as long as the header says.
fn read_header(path: &Path, file: &mut File, length: u64) -> Result<Header, WeightsError> {
    let malformed = |reason| WeightsError::Malformed { path: path.to_owned(), reason };
    let unreadable = |source| WeightsError::Read { path: path.to_owned(), source };
    let Some(after_length) = length.checked_sub(LENGTH_BYTES) else {
        return Err(malformed(Malformed::TooShort { bytes: length }));
    };
    let mut head = [0; 8];
    file.read_exact(&mut head).map_err(unreadable)?;
    if head.starts_with(b"version ") {
        return Err(malformed(Malformed::LfsPointer));
    }
    // PyTorch's files are zip archives, the older ones bare pickles of protocol 2 and later.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if head.starts_with(b"PK\x03\x04") || matches!(head, [0x80, 2..=5, ..]) && is_pickle_name(&name) {
        return Err(WeightsError::Pickle { path: path.to_owned() });
    }
    let header_bytes = u64::from_le_bytes(head);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(malformed(Malformed::HeaderTooLarge { bytes: header_bytes, limit: MAX_HEADER_BYTES }));
    }
    if header_bytes > after_length {
        return Err(malformed(Malformed::HeaderTruncated { expected: header_bytes, found: after_length }));
    }
    let mut json = Vec::new();
    file.take(header_bytes).read_to_end(&mut json).map_err(unreadable)?;
    // Parsing `Metadata` checks sizes, overlaps and holes. Json errors and failed checks come as one type.
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|err| malformed(Malformed::Header(err)))?;
    let expected = metadata.data_len() as u64;
    let found = after_length - header_bytes;
    if expected != found {
        return Err(malformed(Malformed::WrongLength { expected, found }));
    }
    Ok(Header { metadata, data_start: LENGTH_BYTES + header_bytes })
}

/// One tensor to be written. Its bytes are produced when its turn comes.
pub(crate) struct Outgoing<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: Dtype,
    pub(crate) bytes: Box<dyn FnOnce() -> Result<Vec<u8>, WeightsError> + 'a>,
}

#[derive(Serialize)]
struct HeaderEntry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

#[derive(Serialize)]
struct HeaderJson<'a> {
    __metadata__: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<String, HeaderEntry>,
}

/// Writes a safetensors file beside `path`, syncs it and renames it into place.
///
/// The same tensors give the same bytes: the larger element types come first (which aligns them all), then names in
/// order. The safetensors crate's own writer leaves the order of the metadata to a hash map and does not sync.
pub(crate) fn write(
    disk: &dyn Disk,
    path: &Path,
    metadata: &BTreeMap<String, String>,
    mut tensors: Vec<Outgoing<'_>>,
) -> Result<(), WeightsError> {
    tensors.sort_by(|a, b| b.dtype.bitsize().cmp(&a.dtype.bitsize()).then_with(|| a.name.cmp(&b.name)));
    let mut entries = BTreeMap::new();
    let mut end = 0;
    for tensor in &tensors {
        let start = end;
        end += tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() / 8;
        let entry =
            HeaderEntry { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (start, end) };
        entries.insert(tensor.name.clone(), entry);
    }
    let header = HeaderJson { __metadata__: metadata, tensors: entries };
    let mut json =
        serde_json::to_vec(&header).map_err(|source| WeightsError::Json { path: path.to_owned(), source })?;
    json.resize(json.len().next_multiple_of(8), b' ');

    write_atomically(disk, path, |file| {
        let unwritable = |source| WeightsError::Write { path: path.to_owned(), source };
        file.write_all(&(json.len() as u64).to_le_bytes()).map_err(unwritable)?;
        file.write_all(&json).map_err(unwritable)?;
        for tensor in tensors {
            file.write_all(&(tensor.bytes)()?).map_err(unwritable)?;
        }
        Ok(())
    })
}

/// Runs `fill` on a new file beside `path`, syncs it, renames it to `path` and syncs the folder. On an error the new
/// file is removed and `path` is as it was.
pub(crate) fn write_atomically(
    disk: &dyn Disk,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), WeightsError>,
) -> Result<(), WeightsError> {
    let unwritable = |source| WeightsError::Write { path: path.to_owned(), source };
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| unwritable(std::io::ErrorKind::InvalidFilename.into()))?;
    // Always the same name: what a killed process left is written over, not left for good.
    let beside = dir.join(format!(".writing-{}", name.display()));
    let write = || {
        let mut buffered = BufWriter::with_capacity(1 << 20, disk.create(&beside).map_err(unwritable)?);
        fill(&mut buffered)?;
        let mut file = buffered.into_inner().map_err(|err| unwritable(err.into_error()))?;
        file.sync().map_err(unwritable)?;
        drop(file);
        disk.rename(&beside, path).map_err(unwritable)?;
        disk.sync_dir(dir).map_err(unwritable)
    };
    write().inspect_err(|_| {
        // It may not be there; and if it cannot be removed, the next attempt writes over it.
        let _ = disk.remove_file(&beside);
    })
}

/// The safetensors name of an element type, if the format has it.
pub(crate) fn dtype_of(data: &TensorData) -> Option<Dtype> {
    Some(match data.dtype() {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool(burn::tensor::BoolStore::Native) => Dtype::BOOL,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::load_tensors;
    use crate::toy::{ramp, write_file};

    fn read(bytes: &[u8]) -> Result<BTreeMap<String, TensorData>, WeightsError> {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model.safetensors");
        fs::write(&path, bytes).unwrap();
        load_tensors(&path)
    }

    fn file_with_header(header: &str, n_bytes: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + n_bytes, 0);
        bytes
    }

    fn valid_file() -> Vec<u8> {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("model.safetensors");
        write_file(
            &path,
            &BTreeMap::from([("a".to_owned(), ramp(0, vec![2, 3])), ("b".to_owned(), ramp(9, vec![4]))]),
        );
        fs::read(path).unwrap()
    }

    fn reason(bytes: &[u8]) -> Malformed {
        match read(bytes) {
            Err(WeightsError::Malformed { reason, .. }) => reason,
            other => panic!("expected a malformed file, got {other:?}"),
        }
    }

    #[test]
    fn a_file_cut_off_anywhere_is_an_error() {
        let bytes = valid_file();
        for length in 0..bytes.len() {
            assert!(matches!(read(&bytes[..length]), Err(WeightsError::Malformed { .. })), "{length}");
        }
        assert!(read(&bytes).is_ok());
    }

    #[test]
    fn a_changed_byte_never_panics() {
        let bytes = valid_file();
        for position in 0..bytes.len() {
            for value in [0, 0x22, 0x2d, 0x39, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[position] = value;
                let _ = read(&changed);
            }
        }
    }

    #[test]
    fn lengths_that_lie_are_told_apart() {
        assert!(matches!(reason(b"short"), Malformed::TooShort { bytes: 5 }));
        assert!(matches!(reason(&[0xff; 16]), Malformed::HeaderTooLarge { bytes: u64::MAX, .. }));
        assert!(matches!(
            reason(&file_with_header("{}", 0)[..9]),
            Malformed::HeaderTruncated { expected: 2, found: 1 }
        ));
        assert!(matches!(
            reason(&file_with_header("{}", 3)),
            Malformed::WrongLength { expected: 0, found: 3 }
        ));
        assert!(matches!(reason(b"version https://git-lfs.github.com/spec/v1\noid"), Malformed::LfsPointer));
        assert!(read(&file_with_header("{}", 0)).unwrap().is_empty());
    }

    #[test]
    fn headers_that_contradict_themselves_are_refused() {
        let tensor = |name: &str, dtype: &str, shape: &str, offsets: &str| {
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
        };
        let one = tensor("a", "F32", "[2]", "[0,8]");
        for (case, header) in [
            ("not json", "hello".to_owned()),
            ("not an object", "[1]".to_owned()),
            ("overlap", format!("{{{one},{}}}", tensor("b", "F32", "[2]", "[4,12]"))),
            ("hole", format!("{{{one},{}}}", tensor("b", "F32", "[1]", "[12,16]"))),
            ("reversed", format!("{{{}}}", tensor("a", "F32", "[2]", "[8,0]"))),
            ("shape overflow", format!("{{{}}}", tensor("a", "F32", "[9223372036854775807,4]", "[0,8]"))),
            ("shape and bytes differ", format!("{{{}}}", tensor("a", "F32", "[3]", "[0,8]"))),
            ("type and bytes differ", format!("{{{}}}", tensor("a", "F64", "[2]", "[0,8]"))),
            ("negative", format!("{{{}}}", tensor("a", "F32", "[-2]", "[0,8]"))),
            ("unknown type", format!("{{{}}}", tensor("a", "F31", "[2]", "[0,8]"))),
            ("past the end", format!("{{{}}}", tensor("a", "F32", "[200]", "[0,800]"))),
            ("the same name twice", format!("{{{one},{}}}", tensor("a", "F32", "[2]", "[8,16]"))),
            ("metadata of numbers", format!(r#"{{"__metadata__":{{"a":1}},{one}}}"#)),
            ("deeply nested", "[".repeat(100_000)),
        ] {
            assert!(
                matches!(read(&file_with_header(&header, 8)), Err(WeightsError::Malformed { .. })),
                "{case}"
            );
        }
        assert!(read(&file_with_header(&format!("{{{one}}}"), 8)).is_ok());
    }

    #[test]
    fn pickles_are_refused_by_their_first_bytes() {
        let dir = TempDir::new().unwrap();
        for (name, bytes) in
            [("model.safetensors", &b"PK\x03\x04aaaaaaaa"[..]), ("model.ckpt", b"\x80\x02}q\x00(X\x05\x00")]
        {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            let err = load_tensors(&path).unwrap_err();
            assert!(matches!(err, WeightsError::Pickle { .. }), "{err:?}");
            assert!(err.hint().unwrap().contains("safetensors"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_saved_file_may_be_read_by_others() {
        use std::os::unix::fs::PermissionsExt;
        let dir = TempDir::new().unwrap();
        let [ours, plain] = ["ours", "plain"].map(|name| dir.path().join(name));
        write_file(&ours, &BTreeMap::new());
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}

//! Data sets that were made to do harm, or that a disk has spoilt: each is refused with its row or file, in bounded memory.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::file::properties::WriterProperties;
use ::tar::{EntryType, Header};
use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use tempfile::TempDir;

use super::*;
use crate::error::DataError;
use crate::meter::peak_of;

const MIB: usize = 1 << 20;

fn with_causes(error: &DataError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Opens what `write` has written as `name`, and gives the error without the folder's name.
#[track_caller]
fn refusal(name: &str, bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    for picture in ["a.png", "h.png"] {
        image::RgbImage::new(8, 8).save(dir.path().join(picture)).unwrap();
    }
    let (result, peak) = peak_of(|| Dataset::open(&path, &Columns::default()));
    assert!(peak < 16 * MIB, "{peak} bytes");
    let error = match result {
        Ok(dataset) => {
            let samples = dataset.samples().iter();
            let (error, peak) = peak_of(|| samples.map(|sample| sample.image.read()).find_map(Result::err));
            assert!(peak < 64 * MIB, "{peak} bytes");
            error.expect("no fault is found")
        }
        Err(error) => error,
    };
    with_causes(&error).replace(&format!("{}/", dir.path().canonicalize().unwrap().display()), "")
}

fn row(image: &str) -> String {
    format!(r#"{{"image": {image}, "conditioning_image": "h.png", "text": "t"}}"#)
}

#[test]
fn paths_that_lead_elsewhere_are_refused_with_their_row() {
    #[track_caller]
    fn check(image: &str, expected: &str) {
        let text = format!("{}\n{}\n", row("\"a.png\""), row(image));
        assert_eq!(
            refusal("pairs.jsonl", text.as_bytes()),
            format!("cannot use row pairs.jsonl:2: {expected}")
        );
    }
    check(r#""../../etc/passwd""#, "path `../../etc/passwd` contains `..`");
    check(r#""x/../../a.png""#, "path `x/../../a.png` contains `..`");
    let absolute = "is absolute, expected one relative to the metadata file";
    check(r#""/etc/passwd""#, &format!("path `/etc/passwd` {absolute}"));
    check(r#""C:..\\a.png""#, &format!(r"path `C:..\a.png` {absolute}"));
    let backslash = "contains a backslash, expected `/` between folders";
    check(r#""\\\\server\\share\\a.png""#, &format!(r"path `\\server\share\a.png` {backslash}"));
    check(r#""a.png\u0000.jpg""#, "path `a.png\0.jpg` contains a NUL byte");
    // Names mean what they say: nothing is decoded, and no letter is like another.
    check(r#""%2e%2e/a.png""#, "`%2e%2e/a.png` does not exist or is not a file");
    check(r#""A.PNG""#, "`A.PNG` does not exist or is not a file");
    let long = format!("\"{}\"", "a".repeat(5000));
    check(&long, &format!("path `{}` is longer than 4096 bytes", "a".repeat(200)));
}

#[test]
fn lines_that_are_no_rows_are_refused_with_their_number() {
    #[track_caller]
    fn check(line: &[u8], expected: &str) {
        let text = [row("\"a.png\"").as_bytes(), b"\r\n", line, b"\n"].concat();
        let found = refusal("pairs.jsonl", &text);
        assert!(found.starts_with(&format!("cannot use row pairs.jsonl:2: {expected}")), "{found}");
    }
    let invalid = "expected one JSON object per line: ";
    check(b"{\"image\": \"\xff.png\"}", &format!("{invalid}invalid unicode code point"));
    check(b"{\"image\": NaN}", &format!("{invalid}expected value"));
    check(br#"{"text": "a", "text": "b"}"#, &format!("{invalid}key `text` comes twice"));
    check(&[b'['; 100_000], &format!("{invalid}invalid type: sequence"));
    check(
        br#"{"image": "a.png", "text": "t"}"#,
        "--conditioning_image_column value 'conditioning_image' not found",
    );
    check(
        br#"{"image": "a.png", "conditioning_image": "none.png", "text": "t"}"#,
        "`none.png` does not exist",
    );
    // No more of a line is kept than the longest that is read.
    check(&vec![b'x'; 100 * MIB], "the line is longer than 1048576 bytes");
}

#[test]
fn a_quote_that_is_never_closed_does_not_take_in_the_rest_of_the_file() {
    let mut text = b"image,conditioning_image,text\na.png,h.png,\"".to_vec();
    text.resize(100 * MIB, b'x');
    let found = refusal("pairs.csv", &text);
    assert_eq!(found, "cannot read `pairs.csv`: a row is longer than 1048576 bytes; is a quote not closed?");
}

fn tar_of(members: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, data) in members {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

const FILE: EntryType = EntryType::Regular;

/// A good sample, and members behind it.
fn tar_with(members: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
    let good: [(&str, EntryType, &[u8]); 3] =
        [("0.png", FILE, b"x"), ("0.hint.png", FILE, b"x"), ("0.txt", FILE, b"t")];
    tar_of(&[&good[..], members].concat())
}

#[test]
fn members_that_are_no_files_or_lead_elsewhere_are_refused_with_their_sample() {
    #[track_caller]
    fn check(members: &[(&str, EntryType, &[u8])], expected: &str) {
        assert_eq!(refusal("a.tar", &tar_with(members)), format!("cannot use row a.tar:2: {expected}"));
    }
    check(&[("../1.png", FILE, b"x")], "path `../1.png` contains `..`");
    check(
        &[("/etc/1.png", FILE, b"x")],
        "path `/etc/1.png` is absolute, expected one relative to the metadata file",
    );
    check(&[("1.png", EntryType::Symlink, b"")], "`1.png` is a link or no file");
    check(&[("1.png", EntryType::Link, b"")], "`1.png` is a link or no file");
    check(&[("1.png", EntryType::Char, b"")], "`1.png` is a link or no file");
    check(
        &[("1.json", FILE, b"{\"text\": \"a\", \"text\": \"b\"}")],
        "expected one JSON object per line: key `text` comes twice at line 1 column 26",
    );
    check(
        &[("1.png", FILE, b"x"), ("1.hint.png", FILE, b"x"), ("1.txt", FILE, b"\xff")],
        "`1.txt` is not UTF-8 text",
    );
    let path = r#"{"image": "../x.png", "conditioning_image": "h.png", "text": "t"}"#;
    check(&[("1.json", FILE, path.as_bytes())], "path `../x.png` contains `..`");
    let names: Vec<String> = (0..300).map(|place| format!("1.{place}")).collect();
    let many: Vec<(&str, EntryType, &[u8])> =
        names.iter().map(|name| (name.as_str(), FILE, &b""[..])).collect();
    check(&many, "the sample has more than 256 members");
}

#[test]
fn an_archive_with_forged_lengths_is_refused_as_a_whole() {
    let long_name = vec![b'a'; 5000];
    assert_eq!(
        refusal("a.tar", &tar_with(&[("././@LongLink", EntryType::GNULongName, &long_name)])),
        "`a.tar` is refused: a name in it has 5000 bytes, at most 4608 are read"
    );
    for size in [1 << 20, 1 << 40, u64::MAX] {
        let mut bytes = tar_with(&[]);
        let mut header = Header::from_byte_slice(&bytes[..512]).clone();
        header.set_size(size);
        header.set_cksum();
        bytes[..512].copy_from_slice(header.as_bytes());
        let found = refusal("a.tar", &bytes);
        assert!(found.starts_with("`a.tar` is damaged: "), "{found}");
    }
    let bytes = tar_with(&[]);
    let found = refusal("a.tar", &bytes[..700]);
    assert!(found.starts_with("`a.tar` is damaged: it breaks off"), "{found}");
}

/// An entry of a zip archive, by its own account.
struct Entry<'a> {
    name: &'a str,
    stored: Vec<u8>,
    is_deflated: bool,
    len: u32,
    crc32: u32,
    mode: u32,
}

impl<'a> Entry<'a> {
    fn stored(name: &'a str, data: &[u8]) -> Self {
        let len = u32::try_from(data.len()).unwrap();
        Self {
            name,
            stored: data.to_vec(),
            is_deflated: false,
            len,
            crc32: crc32fast::hash(data),
            mode: 0o100_644,
        }
    }

    fn deflated(name: &'a str, data: &[u8]) -> Self {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        Self { stored: encoder.finish().unwrap(), is_deflated: true, ..Self::stored(name, data) }
    }
}

fn zip_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let start = u32::try_from(bytes.len()).unwrap();
        let name_len = u16::try_from(entry.name.len()).unwrap();
        let stored_len = u32::try_from(entry.stored.len()).unwrap();
        let mut common = Vec::new();
        common.extend(20_u16.to_le_bytes());
        common.extend(0_u16.to_le_bytes());
        common.extend(if entry.is_deflated { 8_u16 } else { 0 }.to_le_bytes());
        common.extend([0; 4]);
        for number in [entry.crc32, stored_len, entry.len] {
            common.extend(number.to_le_bytes());
        }
        common.extend(name_len.to_le_bytes());
        common.extend(0_u16.to_le_bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(entry.name.as_bytes());
        bytes.extend(&entry.stored);
        directory.extend(b"PK\x01\x02");
        // Made by Unix, so that the mode counts.
        directory.extend([20, 3]);
        directory.extend(&common);
        directory.extend([0; 6]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(start.to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    let (start, len) = (u32::try_from(bytes.len()).unwrap(), u32::try_from(directory.len()).unwrap());
    let count = u16::try_from(entries.len()).unwrap();
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(count.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// A zip with the entry `a.png` and a table that names `image`.
fn zip_with(image: &str, entry: Entry<'_>) -> Vec<u8> {
    let text = format!(r#"{{"image": "{image}", "conditioning_image": "h.png", "text": "t"}}"#);
    zip_of(&[entry, Entry::stored("h.png", b"x"), Entry::stored("metadata.jsonl", text.as_bytes())])
}

#[test]
fn entries_of_a_zip_that_are_not_what_they_claim_are_refused() {
    #[track_caller]
    fn check(image: &str, entry: Entry<'_>, expected: &str) {
        assert_eq!(refusal("a.zip", &zip_with(image, entry)), expected);
    }
    let in_row = |reason: &str| format!("cannot use row a.zip!metadata.jsonl:1: {reason}");
    check("../a.png", Entry::stored("../a.png", b"x"), &in_row("path `../a.png` contains `..`"));
    check("b.png", Entry::stored("a.png", b"x"), &in_row("`b.png` is not in the archive"));
    let link = Entry { mode: 0o120_777, ..Entry::stored("a.png", b"/etc/passwd") };
    check("a.png", link, &in_row("`a.png` is a link"));
    // A bomb that says so, one that does not, and a wrong checksum.
    let huge = Entry { len: 1 << 30, ..Entry::deflated("a.png", b"x") };
    check("a.png", huge, &in_row("`a.png` is larger than 512 MiB"));
    let bomb = Entry { len: 10, ..Entry::deflated("a.png", &vec![0; 100 * MIB]) };
    check("a.png", bomb, "`a.zip!a.png` is damaged");
    let lie = Entry { len: 400 << 20, ..Entry::deflated("a.png", b"x") };
    check("a.png", lie, "`a.zip!a.png` is damaged");
    check("a.png", Entry { crc32: 1, ..Entry::stored("a.png", b"x") }, "`a.zip!a.png` is damaged");

    let mut bytes = zip_with("a.png", Entry::stored("a.png", b"x"));
    let end = bytes.len() - 14;
    bytes[end..end + 4].fill(0xff);
    let found = refusal("a.zip", &bytes);
    assert!(
        found.starts_with("`a.zip` is damaged: ") || found.starts_with("`a.zip` is refused: "),
        "{found}"
    );
}

/// A Parquet file of rows with the same picture.
fn parquet_of(path: &Path, n_rows: usize, picture: &[u8], properties: WriterProperties) {
    let rows = |n_rows: usize| {
        let pictures = || Arc::new(BinaryArray::from_iter_values((0..n_rows).map(|_| picture))) as ArrayRef;
        let captions = Arc::new(StringArray::from_iter_values((0..n_rows).map(|_| "t"))) as ArrayRef;
        let columns = [("image", pictures()), ("conditioning_image", pictures()), ("text", captions)];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let batch = rows(16);
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    for _ in 0..n_rows / 16 {
        writer.write(&batch).unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn a_column_of_one_picture_a_thousand_times_is_unpacked_piece_by_piece() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let properties = WriterProperties::builder().set_dictionary_page_size_limit(1 << 24).build();
    parquet_of(&path, 2048, &vec![7; 256 << 10], properties);
    let file_len = usize::try_from(path.metadata().unwrap().len()).unwrap();
    assert!(file_len < MIB, "{file_len}: half a gigabyte in a small file");
    let stream = Stream::open(&path, &SourceOptions::default(), StreamOptions::default()).unwrap();
    let (n_rows, peak) = peak_of(|| {
        let shards = find::find(&path, &SourceOptions::default()).unwrap().shards;
        shards[0].samples(0).unwrap().filter(Result::is_ok).count()
    });
    assert_eq!((n_rows, stream.n_rows()), (2048, 2048));
    assert!(peak < 128 * MIB, "{peak} bytes");
}

/// Every reader gets every file with each part cut off or turned over, and may refuse it, but neither panic nor take more memory.
#[test]
fn damaged_tables_and_archives_are_refused_or_read_in_bounded_memory() {
    let layouts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/layouts");
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "parquet/data/train-00000-of-00002.parquet",
        "parquet-binary.parquet",
        "arrow/data-00000-of-00002.arrow",
        "webdataset/shard-000000.tar",
        "zip-deflated.zip",
    ] {
        let whole = fs::read(layouts.join(name)).unwrap();
        let path = dir.path().join(Path::new(name).file_name().unwrap());
        let read = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).unwrap();
            let (_, peak) = peak_of(|| read_all(&path));
            assert!(peak < 64 * MIB, "{name}, {what}: {peak} bytes");
        };
        for sixteenth in 0..16 {
            read(&whole[..whole.len() * sixteenth / 16], &format!("cut to {sixteenth}/16"));
        }
        // Bytes of the end decide the most: there are the tables of contents.
        let places = (0..whole.len())
            .step_by(whole.len() / 200 + 1)
            .chain(whole.len().saturating_sub(200)..whole.len());
        for place in places {
            for mask in [0x01, 0x80] {
                let mut bytes = whole.clone();
                bytes[place] ^= mask;
                read(&bytes, &format!("byte {place} with {mask:#x}"));
            }
        }
    }
}

/// Reads what can be read of a file as a stream does.
fn read_all(path: &Path) {
    let Ok(found) = find::find(path, &SourceOptions::default()) else { return };
    for shard in found.shards {
        let _ = shard.count();
        let _ = shard.is_packed();
        let Ok(samples) = shard.samples(0) else { continue };
        for sample in samples.flatten() {
            let _ = (sample.image.read(), sample.hint.read());
        }
    }
}

#[test]
fn a_million_rows_pass_in_constant_memory() {
    const N_SHARDS: usize = 10;
    const ROWS: usize = 1_000_000;
    let dir: TempDir = tempfile::tempdir().unwrap();
    for shard_idx in 0..N_SHARDS {
        let name = format!("train-{shard_idx:05}-of-{N_SHARDS:05}.parquet");
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10_000)).build();
        parquet_of(&dir.path().join(name), ROWS / N_SHARDS, b"a picture", properties);
    }
    let (n_rows, peak) = peak_of(|| {
        let stream = Stream::open(dir.path(), &SourceOptions::default(), StreamOptions::default()).unwrap();
        assert_eq!(stream.n_rows(), ROWS);
        let batch_size = 100.try_into().unwrap();
        let mut cursor = StreamCursor::new(Arc::new(stream), 0, batch_size, crate::Cursor::default());
        // A bit for each row.
        let mut seen = vec![0_u8; ROWS / 8];
        let mut n_rows = 0;
        for _ in 0..ROWS / 100 {
            for sample in cursor.next().unwrap().0 {
                let row: usize = sample.unwrap().id.strip_prefix("row ").unwrap().parse().unwrap();
                assert_eq!(seen[row / 8] >> (row % 8) & 1, 0, "row {row} comes twice");
                seen[row / 8] |= 1 << (row % 8);
                n_rows += 1;
            }
        }
        n_rows
    });
    assert_eq!(n_rows, ROWS);
    assert!(peak < 8 * MIB, "{peak} bytes");
}
